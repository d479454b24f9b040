// Which values of a matrix share a scale, from the shape of the scales: blocks, groups of inputs, rows, or all of them.

import { type DType, sameShape, type TensorSpec } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import type { Block } from './declared.js';
import type { Reading } from './reading.js';

export interface ScaleBlocks {
  readonly rowGroup: number;
  readonly inputGroup: number;
  readonly firstRow: number;
  /** The part of a tensor of this shape that belongs to the wanted rows. */
  part(name: 'scales' | 'zeros', stored: StoredTensor, dtype: DType): TensorSpec;
}

/** Blocks of microscaling formats: such a scale is a power of two. */
const MICRO: Block = [1, 32];
/** Where no configuration tells: those of everybody who has published any. */
const USUAL: Block = [128, 128];

/** Throws WRONG_SHAPE, or UNSUPPORTED where nothing says what such scales are of. */
export function scaleBlocks(reading: Reading, scales: StoredTensor, dtype: DType): ScaleBlocks {
  const { rows, K, context } = reading;
  const { blocks: told, method } = context.declared;
  const shape = shapeOfOne(reading, scales);
  const shapeFor = ([r, i]: Block) => [Math.ceil(rows / r), Math.ceil(K / i)];
  const has = (block: Block) => sameShape(shape, shapeFor(block));
  const candidates = [
    ...told,
    ...(dtype === 'e8m0' ? [MICRO] : []),
    ...(method === undefined ? [USUAL] : []),
  ];
  const block = candidates.find(has);
  if (block) return inBlocks(reading, block);
  if (shape.every((size) => size === 1)) return whole(reading);
  if (sameShape(shape, [rows, 1]) || sameShape(shape, [rows])) return inBlocks(reading, [1, K]);
  const [first] = told;
  if (first) {
    reading.expectShape(scales, [shapeFor(first)], `${describe(first)} of [${rows}, ${K}]`);
  }
  throw reading.fault(
    'UNSUPPORTED',
    scales,
    `has shape [${scales.shape.join(', ')}], which says nothing of blocks of [${rows}, ${K}] that is known: ` +
      'state weight_block_size in config.json',
  );
}

function describe([rows, inputs]: Block): string {
  return rows === 1 ? `groups of ${inputs} inputs` : `blocks of ${rows} × ${inputs}`;
}

/** Without the dimension of several matrices, and without those of one element that ModelOpt puts between. */
function shapeOfOne({ place }: Reading, { shape }: StoredTensor): readonly number[] {
  const [count] = place.whole.length === 3 ? place.whole : [];
  const own = count !== undefined && shape[0] === count ? shape.slice(1) : shape;
  const [a = 0, one, b = 0, other] = own;
  return own.length === 4 && one === 1 && other === 1 ? [a, b] : own;
}

function inBlocks(reading: Reading, [rowGroup, inputGroup]: Block): ScaleBlocks {
  const columns = Math.ceil(reading.K / inputGroup);
  return {
    rowGroup,
    inputGroup,
    firstRow: reading.firstRow(rowGroup),
    part: (name, stored, dtype) => reading.perRow(name, stored, { dtype, unitRows: rowGroup, columns }),
  };
}

function whole(reading: Reading): ScaleBlocks {
  const [N, K] = reading.place.shape;
  return {
    rowGroup: N,
    inputGroup: K,
    firstRow: 0,
    part: (name, stored, dtype) => reading.perMatrix(name, stored, dtype, [1, 1]),
  };
}
