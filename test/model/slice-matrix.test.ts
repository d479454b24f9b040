// A matrix in any format that is cut by rows has the values it had, and brings few bytes that it does not need.

import { describe, expect, it } from 'vitest';
import { type MatrixSpec, type TensorSpec, tensorsOf } from '../../offload/model/layout.js';
import { rowsBetweenCuts, sliceMatrix } from '../../offload/model/slice-matrix.js';
import { weightOf } from '../../offload/model/weights.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import { contiguousStrides, type Tensor } from '../../offload/port/ops.js';
import { specOf } from '../helpers/stored-spec.js';
import { expandReference } from '../native/reference-weights.js';
import { buildWeight, canBeCut, fitted, WEIGHT_KINDS, type WeightKind } from '../native/weight-builder.js';
import { type Workbench, workbench } from '../native/workbench.js';

function valuesOf(spec: MatrixSpec, bench: Workbench): Float64Array {
  const place = ({ dtype, shape, extent }: TensorSpec): Tensor => {
    expect(extent.sizeBytes).toBe(elementCount(shape) * DTYPE_BYTES[dtype]);
    const { memory } = bench.memory;
    return { memory, offsetBytes: extent.fileOffset, dtype, shape, strides: contiguousStrides(shape) };
  };
  return expandReference(weightOf(spec, place), bench.memory.bytes);
}

const bytesOf = (spec: MatrixSpec) => tensorsOf(spec).reduce((sum, { extent }) => sum + extent.sizeBytes, 0);

const CUT = WEIGHT_KINDS.filter(canBeCut);

describe.each(CUT.map((kind) => [kind.label, kind] as const))('%s', (_label, kind) => {
  it.each([0, 5])('cut, %d rows into its scales', (firstRow) => {
    for (const shape of [
      [37, 66],
      [130, 33],
    ] as const) {
      const bench = workbench(7, undefined);
      const whole = specOf(buildWeight(bench, kind, fitted(kind, shape), { firstRow }));
      const [N, K] = whole.shape;
      const values = valuesOf(whole, bench);
      const step = rowsBetweenCuts(whole) ?? 0;
      for (const [first, count] of [
        [0, N],
        [0, 2],
        [2, 1],
        [10, 20],
        [N - 6, 6],
        [24, 13],
      ] as const) {
        if (first % step !== 0) continue;
        const piece = sliceMatrix(whole, first, count);
        expect(valuesOf(piece, bench)).toEqual(values.subarray(first * K, (first + count) * K));
        // A second cut is as good as one.
        if (count === 20) {
          const inner = sliceMatrix(piece, 6, 8);
          expect(valuesOf(inner, bench)).toEqual(values.subarray((first + 6) * K, (first + 14) * K));
        }
      }
      expect(bytesOf(sliceMatrix(whole, 8, 8))).toBeLessThan(bytesOf(whole));
    }
  });
});

it('rows that lie side by side are not cut', () => {
  for (const name of ['awq', 'gptq'] as const) {
    const kind = WEIGHT_KINDS.find((candidate) => candidate.name === name) as WeightKind;
    const spec = specOf(buildWeight(workbench(1, undefined), kind, [64, 64]));
    expect(rowsBetweenCuts(spec)).toBeUndefined();
    expect(sliceMatrix(spec, 0, 64)).toBe(spec);
    expect(() => sliceMatrix(spec, 0, 32)).toThrow(/a cut lies between rows/);
  }
});
