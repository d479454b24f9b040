// MXFP4: two e2m1 codes a byte, low nibble first, and a power of two per 32 inputs; gpt-oss's, compressed-tensors' and DeepSeek's names.

import { formatOf } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import type { Reading, StoredMatrix } from './reading.js';

const GROUP = 32;

export function readMxfp4(reading: Reading): StoredMatrix | undefined {
  const { rows, K } = reading;
  const blocks = reading.find('_blocks');
  if (blocks) {
    const scales = reading.need(blocks, reading.named('_scales'));
    reading.typeOf(blocks, ['u8']);
    reading.expectShape(
      blocks,
      [[rows, K / GROUP, GROUP / 2]],
      `blocks of ${GROUP} inputs of [${rows}, ${K}]`,
    );
    return inGroups(reading, blocks, scales);
  }
  const packed = reading.find('_packed');
  if (packed && packed.dtype === 'U8') return fromPacked(reading, packed);
  return fromWeight(reading);
}

/** compressed-tensors: NVFP4 has a global scale besides. */
function fromPacked(reading: Reading, packed: StoredTensor): StoredMatrix | undefined {
  const scales = reading.find('_scale');
  if (!scales || scales.dtype === 'F8_E4M3') return undefined;
  return halves(reading, packed, scales);
}

/** DeepSeek's I8 or F4, ModelOpt's U8. */
function fromWeight(reading: Reading): StoredMatrix | undefined {
  const { stored, rows, K } = reading;
  if (!stored || !['I8', 'F4', 'U8'].includes(stored.dtype)) return undefined;
  const scales = reading.find('_scale_inv') ?? reading.find('_scale') ?? reading.beside('.scale');
  if (!scales || !['F8_E8M0', 'U8'].includes(scales.dtype)) return undefined;
  if (stored.dtype !== 'F4') return halves(reading, stored, scales);
  // F4 counts codes.
  reading.expectShape(stored, [[rows, K]], `codes of [${rows}, ${K}]`);
  return inGroups(reading, stored, scales);
}

function halves(reading: Reading, codes: StoredTensor, scales: StoredTensor): StoredMatrix {
  const { rows, K } = reading;
  reading.expectShape(codes, [[rows, K / 2]], `pairs of codes of [${rows}, ${K}]`);
  return inGroups(reading, codes, scales);
}

function inGroups(reading: Reading, codes: StoredTensor, scales: StoredTensor): StoredMatrix {
  const { rows, K, context } = reading;
  const dtype = reading.typeOf(scales, ['e8m0'], { U8: 'e8m0' });
  reading.expectShape(scales, [[rows, K / GROUP]], `groups of ${GROUP} inputs of [${rows}, ${K}]`);
  return {
    format: formatOf('fp4', context.type, { inputGroup: GROUP, product: 'f32' }),
    firstRow: 0,
    parts: {
      codes: reading.codes(codes, 'u8', K / 2),
      scales: reading.perRow('scales', scales, { dtype, unitRows: 1, columns: K / GROUP }),
    },
  };
}
