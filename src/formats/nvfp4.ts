// NVFP4: two e2m1 codes a byte, an e4m3 scale per 16 inputs, and one f32 for the matrix, in the spellings of compressed-tensors and ModelOpt.

import { formatOf } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import type { Reading, StoredMatrix } from './reading.js';

const GROUP = 16;

export function readNvfp4(reading: Reading): StoredMatrix | undefined {
  const packed = reading.find('_packed');
  if (packed?.dtype === 'U8') {
    const global = reading.need(packed, reading.named('_global_scale'));
    return inGroups(reading, packed, { global, globalDivides: true });
  }
  const { stored } = reading;
  const isOurs = stored && (stored.dtype === 'U8' || stored.dtype === 'F4') && reading.find('_scale');
  if (!isOurs) return undefined;
  return inGroups(reading, stored, {
    global: reading.need(stored, reading.named('_scale_2')),
    globalDivides: false,
  });
}

function inGroups(
  reading: Reading,
  codes: StoredTensor,
  { global, globalDivides }: { readonly global: StoredTensor; readonly globalDivides: boolean },
): StoredMatrix {
  const { rows, K, context } = reading;
  const scales = reading.need(codes, reading.named('_scale'));
  reading.typeOf(scales, ['e4m3']);
  reading.typeOf(global, ['f32']);
  reading.expectShape(codes, [[rows, codes.dtype === 'F4' ? K : K / 2]], `pairs of codes of [${rows}, ${K}]`);
  reading.expectShape(scales, [[rows, K / GROUP]], `groups of ${GROUP} inputs of [${rows}, ${K}]`);
  reading.expectShape(global, [[1], [], [1, 1]], `scales of a whole matrix`);
  return {
    format: formatOf('fp4', context.type, { inputGroup: GROUP, product: 'f32', globalDivides }),
    firstRow: 0,
    parts: {
      codes: reading.codes(codes, 'u8', K / 2),
      scales: reading.perRow('scales', scales, { dtype: 'e4m3', unitRows: 1, columns: K / GROUP }),
      global: reading.perMatrix('global', global, 'f32', [1]),
    },
  };
}
