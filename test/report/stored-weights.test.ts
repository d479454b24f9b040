// How weights are stored, in words and bytes: a name per format that people know it by, and layers of a kind together.

import { expect, it } from 'vitest';
import {
  DTYPE_BYTES,
  type DType,
  elementCount,
  type Format,
  type FormatName,
  formatOf,
  layerOf,
  type MatrixSpec,
  type PartName,
  type TensorSpec,
} from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { formatName, storedAs, storedLayers } from '../../src/report/stored-weights.js';
import { modelFolder } from '../helpers/fixtures.js';

const [N, K] = [256, 512];

function part(dtype: DType, shape: readonly number[]): TensorSpec {
  const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
  return { key: 'w', dtype, shape, extent: { fileIndex: 0, fileOffset: 0, sizeBytes } };
}

function matrix(
  name: FormatName,
  groups: Partial<Format>,
  parts: { readonly [Name in PartName]?: TensorSpec },
): MatrixSpec {
  const codes = part('u8', [N, K]);
  const format = formatOf(name, 'bf16', groups);
  return { key: 'w', format, shape: [N, K], firstRow: 0, parts: { codes, ...parts } };
}

const scales = (dtype: DType) => ({ scales: part(dtype, [N, 1]) });

it.each([
  ['fp8 in blocks of 128×128, f32 scales', 'e4m3', { rowGroup: 128, inputGroup: 128 }, scales('f32')],
  ['fp8 in groups of 32, e8m0 scales', 'e4m3', { inputGroup: 32 }, scales('e8m0')],
  ['fp8 by rows, bf16 scales', 'e4m3', { inputGroup: K }, scales('bf16')],
  ['fp8 as a whole, f32 scales', 'e4m3', { rowGroup: N, inputGroup: K }, scales('f32')],
  ['int8 by rows, f32 scales', 'int8', { inputGroup: K }, scales('f32')],
  ['int8 in groups of 64, bf16 scales', 'packed8', { inputGroup: 64 }, scales('bf16')],
  ['int4 in groups of 32, f16 scales', 'packed4', { inputGroup: 32 }, scales('f16')],
  [
    'int4 in scattered groups, bf16 scales',
    'packed4',
    { inputGroup: 32 },
    { ...scales('bf16'), groups: part('i32', [K]) },
  ],
  ['mxfp4 in groups of 32, e8m0 scales', 'fp4', { inputGroup: 32 }, scales('e8m0')],
  [
    'nvfp4 in groups of 16, e4m3 scales',
    'fp4',
    { inputGroup: 16 },
    { ...scales('e4m3'), global: part('f32', [1]) },
  ],
  ['4 bits by a table in groups of 64, f32 scales', 'table4', { inputGroup: 64 }, scales('f32')],
  ['AWQ int4 in groups of 128, f16 scales', 'awq', { inputGroup: 128 }, scales('f16')],
  ['GPTQ int3 in groups of 128, f16 scales', 'gptq', { inputGroup: 128, bits: 3 }, scales('f16')],
  ['bf16', 'dense', {}, {}],
] as const)('is called %s', (words, name, groups, parts) => {
  expect(formatName(matrix(name, groups, parts))).toBe(words);
});

it('is named by the format of most bytes', () => {
  const small = { ...matrix('dense', {}, {}), parts: { codes: part('bf16', [8, 8]) } };
  expect(storedAs([layerOf('block', [small, matrix('e4m3', { inputGroup: K }, scales('f32'))])])).toBe(
    'fp8 by rows, f32 scales',
  );
});

it('is told of every byte of a model', async () => {
  const { model, checkpoint } = await openModel(modelFolder('mixtral'));
  const layers = storedLayers(model);
  const blocks = layers.filter(({ kind }) => kind === 'block');
  expect(blocks.reduce((sum, { count }) => sum + count, 0)).toBe(model.blocks.length);
  expect(layers.reduce((sum, { count, bytesEach }) => sum + count * bytesEach, 0)).toBe(
    checkpoint.totalBytes,
  );
});
