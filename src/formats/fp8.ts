// FP8: e4m3 codes with a scale per block, group of inputs, row or matrix, under any of the names that makers give it.

import { type FloatType, formatOf } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import { type Reading, SIDE_BY_SIDE, type StoredMatrix } from './reading.js';
import { scaleBlocks } from './scale-blocks.js';

export function readFp8(reading: Reading): StoredMatrix | undefined {
  const { stored: codes, K, rows, context } = reading;
  if (codes?.dtype !== 'F8_E4M3') return undefined;
  const scales = reading.need(
    codes,
    reading.named('_scale_inv'),
    reading.named('_scale'),
    reading.namedBeside('.scale'),
  );
  if (reading.place.inputMajor && reading.place.whole.length === 3) return byInputs(reading, codes, scales);
  reading.expectShape(codes, [[rows, K]], `weights of [${rows}, ${K}]`);
  const dtype = reading.typeOf(scales, ['f32', 'bf16', 'f16', 'e8m0'], { U8: 'e8m0' });
  const { rowGroup, inputGroup, firstRow, part } = scaleBlocks(reading, scales, dtype);
  // compressed-tensors multiplies in the scales' type, everybody else in f32.
  const product: FloatType =
    context.declared.method === 'compressed-tensors' && (dtype === 'bf16' || dtype === 'f16') ? dtype : 'f32';
  return {
    format: formatOf('e4m3', context.type, { rowGroup, inputGroup, product }),
    firstRow,
    parts: { codes: reading.codes(codes, 'e4m3', K), scales: part('scales', scales, dtype) },
  };
}

/** Experts of one tensor [E, K, N], as Llama 4's: a scale per output, whichever of the other dimensions is written as 1. */
function byInputs(reading: Reading, codes: StoredTensor, scales: StoredTensor): StoredMatrix {
  const { rows, K, context, place } = reading;
  reading.expectShape(codes, [[K, rows]], `weights of [${K}, ${rows}], inputs first`);
  const dtype = reading.typeOf(scales, ['f32', 'bf16', 'f16']);
  reading.expectShape(scales, [[1, rows], [rows, 1], [rows]], `scales of ${rows} outputs`);
  if (place.shape[0] !== rows) throw reading.fault('UNSUPPORTED', codes, SIDE_BY_SIDE);
  return {
    format: formatOf('e4m3_in', context.type, { inputGroup: K, product: 'f32' }),
    firstRow: 0,
    parts: {
      codes: reading.perMatrix('codes', codes, 'e4m3', [K, rows]),
      scales: reading.perMatrix('scales', scales, dtype, [1, rows]),
    },
  };
}
