// AWQ's gemm layout: 4-bit codes packed along the outputs in an order of its own, with scales and zeros per group of inputs.

import { formatOf, OperatingError } from '../../offload/index.js';
import { expectWhole } from './gptq.js';
import { inputsOfGroup } from './group-index.js';
import type { FormatContext, Reading, StoredMatrix } from './reading.js';

const CODES_PER_WORD = 8;

export function readAwq(reading: Reading): StoredMatrix | undefined {
  const { awqGroupSize } = reading.context.declared;
  const codes = awqGroupSize === undefined ? undefined : reading.beside('.qweight');
  if (!codes || awqGroupSize === undefined) return undefined;
  const [N, K] = reading.place.shape;
  const words = N / CODES_PER_WORD;
  reading.typeOf(codes, ['i32']);
  expectWhole(reading, codes, [K, words], `codes of 4 bits of [${N}, ${K}] in AWQ's gemm layout`);
  const scales = reading.need(codes, reading.namedBeside('.scales'));
  const zeros = reading.need(codes, reading.namedBeside('.qzeros'));
  reading.typeOf(scales, ['f16']);
  reading.typeOf(zeros, ['i32']);
  const inputGroup = awqGroupSize > 0 ? awqGroupSize : K;
  const groupCount = Math.ceil(K / inputGroup);
  const what = `groups of ${inputGroup} inputs of [${N}, ${K}]`;
  expectWhole(reading, scales, [groupCount, N], what);
  expectWhole(reading, zeros, [groupCount, words], `zeros of ${what}`);
  return {
    format: formatOf('awq', reading.context.type, {
      inputGroup: inputsOfGroup(K, groupCount, [inputGroup]) ?? K,
      product: 'f16',
      bits: 4,
    }),
    firstRow: 0,
    parts: {
      codes: reading.perMatrix('codes', codes, 'i32', codes.shape),
      scales: reading.perMatrix('scales', scales, 'f16', scales.shape),
      zeros: reading.perMatrix('zeros', zeros, 'i32', zeros.shape),
    },
  };
}

/**
 * AWQ divides what some families' activations give (BLOOM, Falcon, GPT-J, StarCoder2) by scales of their own, which lie beside no
 * codes. Throws UNSUPPORTED.
 */
export function refuseScaledActivations({ checkpoint, declared }: FormatContext): void {
  if (declared.awqGroupSize === undefined) return;
  for (const { name, fileIndex } of checkpoint.tensors.values()) {
    if (!name.endsWith('.scales') || checkpoint.find(name.replace(/scales$/, 'qweight'))) continue;
    throw new OperatingError(
      'UNSUPPORTED',
      `${checkpoint.files[fileIndex]}: tensor ${name} scales what an activation gives, which is not done: use the checkpoint ` +
        'that it was made from',
    );
  }
}
