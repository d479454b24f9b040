// GPTQ: codes of 2, 3, 4 or 8 bits packed along the inputs, with scales and zeros per group of inputs, which may be scattered.

import { formatOf } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import { groupsPart, inputsOfGroup } from './group-index.js';
import { type Reading, SIDE_BY_SIDE, type StoredMatrix } from './reading.js';

const WIDTHS = [4, 8, 3, 2];
const WORD_BITS = 32;

export function readGptq(reading: Reading): StoredMatrix | undefined {
  const { gptq } = reading.context.declared;
  const codes = gptq && reading.beside('.qweight');
  if (!codes) return undefined;
  const [N, K] = reading.place.shape;
  reading.typeOf(codes, ['i32']);
  const bits =
    [...gptq.bits, ...WIDTHS].find((width) => words(K, width) === codes.shape[0]) ?? gptq.bits[0] ?? 4;
  expectWhole(reading, codes, [words(K, bits), N], `codes of ${bits} bits of [${N}, ${K}]`);
  const scales = reading.need(codes, reading.namedBeside('.scales'));
  const zeros = reading.need(codes, reading.namedBeside('.qzeros'));
  reading.typeOf(scales, ['f16']);
  reading.typeOf(zeros, ['i32']);
  const groupCount = scales.shape[0] ?? 0;
  const inputGroup = inputsOfGroup(K, groupCount, gptq.groupSizes);
  const size = inputGroup ?? gptq.groupSizes[0] ?? -1;
  const wanted = inputGroup === undefined ? Math.ceil(K / (size > 0 ? size : K)) : groupCount;
  expectWhole(reading, scales, [wanted, N], `groups of ${size > 0 ? size : 'all'} inputs of [${N}, ${K}]`);
  expectWhole(
    reading,
    zeros,
    [wanted, words(N, bits)],
    `zeros of ${bits} bits of ${N} outputs in ${wanted} groups`,
  );
  const groups = groupsPart(reading, reading.beside('.g_idx'), {
    groupCount,
    inputGroup: size > 0 ? size : K,
    isUnused: (index) => index.every((group) => group === -1),
  });
  return {
    format: formatOf('gptq', reading.context.type, {
      bits,
      inputGroup: size,
      product: 'f16',
      zeroPlusOne: gptq.zeroPlusOne,
    }),
    firstRow: 0,
    parts: {
      codes: reading.perMatrix('codes', codes, 'i32', codes.shape),
      scales: reading.perMatrix('scales', scales, 'f16', scales.shape),
      zeros: reading.perMatrix('zeros', zeros, 'i32', zeros.shape),
      ...(groups ? { groups } : {}),
    },
  };
}

function words(count: number, bits: number): number {
  return Math.ceil((count * bits) / WORD_BITS);
}

/** Outputs lie side by side, so rows of such a tensor cannot be taken out of it. */
export function expectWhole(
  reading: Reading,
  stored: StoredTensor,
  shape: readonly number[],
  what: string,
): void {
  const { whole, shape: own } = reading.place;
  const isWhole = whole.length === 2 && whole[0] === own[0];
  if (isWhole) reading.expectShape(stored, [shape], what);
  else {
    throw reading.fault('UNSUPPORTED', stored, SIDE_BY_SIDE);
  }
}
