// The matrices of an opened model, and their values by the reference, read from the files.

import { readFileSync } from 'node:fs';
import type { MatrixSpec, TensorSpec } from '../../offload/index.js';
import { weightOf } from '../../offload/model/weights.js';
import { contiguousStrides, type Memory, type Tensor } from '../../offload/port/ops.js';
import type { OpenedModel } from '../../src/engine/open-model.js';
import { expandReference } from '../native/reference-weights.js';

/** Every matrix by its name: a block's as `2 mlp.up_proj.weight`, `fixed …`, and `head`. */
export function matricesOf({ model }: Pick<OpenedModel, 'model'>): Map<string, MatrixSpec> {
  return new Map([
    ...model.blocks.flatMap(({ matrices }, index) =>
      matrices.map((matrix) => [`${index} ${matrix.key}`, matrix] as const),
    ),
    ...model.fixed.matrices.map((matrix) => [`fixed ${matrix.key}`, matrix] as const),
    ['head', model.head.projection],
  ]);
}

/** The values of a matrix [N · K]. */
export function valuesOf(spec: MatrixSpec, files: readonly string[]): Float64Array {
  const contents = new Map<number, DataView>();
  const place = ({ dtype, shape, extent }: TensorSpec): Tensor => {
    const { fileIndex, fileOffset } = extent;
    if (!contents.has(fileIndex)) {
      const { buffer, byteOffset, byteLength } = readFileSync(files[fileIndex] ?? '');
      contents.set(fileIndex, new DataView(buffer, byteOffset, byteLength));
    }
    const memory: Memory = { id: fileIndex, sizeBytes: contents.get(fileIndex)?.byteLength ?? 0 };
    return { memory, offsetBytes: fileOffset, dtype, shape, strides: contiguousStrides(shape) };
  };
  const empty = new DataView(new ArrayBuffer(0));
  return expandReference(weightOf(spec, place), ({ id }) => contents.get(id) ?? empty);
}
