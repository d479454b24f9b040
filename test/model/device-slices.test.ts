// What devices have of a shared matrix in any format must be the values of the whole, each once, or the matrix is refused.

import { describe, expect, it } from 'vitest';
import { sharedDimension, sliceLayer } from '../../offload/model/device-slices.js';
import { deviceLayout, hostLayout, layerOf, type TensorSpec } from '../../offload/model/layout.js';
import { weightOf } from '../../offload/model/weights.js';
import { elementCount } from '../../offload/port/dtype.js';
import { contiguousStrides, type Tensor } from '../../offload/port/ops.js';
import { specOf } from '../helpers/stored-spec.js';
import { expandReference } from '../native/reference-weights.js';
import { buildWeight, fitted, WEIGHT_KINDS } from '../native/weight-builder.js';
import { workbench } from '../native/workbench.js';

type Bytes = Uint8Array;

/** Devices, and rows or inputs of each: multiples of the groups that there are. */
const OUTPUTS = [
  [2, 16],
  [3, 32],
  [2, 128],
] as const;
const INPUTS = [
  [2, 64],
  [3, 120],
  [2, 128],
] as const;

/** What a device's memory holds after all copies of a layer whose file is `file`. */
function onDevice(layer: ReturnType<typeof layerOf>, file: Bytes, device: number) {
  const host = hostLayout(layer);
  const staged = new Uint8Array(host.sizeBytes);
  for (const { fileOffset, requiredBytes, bufferOffset } of host.runs)
    staged.set(file.subarray(fileOffset, fileOffset + requiredBytes), bufferOffset);
  const layout = deviceLayout(host);
  const bytes = new Uint8Array(layout.sizeBytes);
  for (const { hostOffset, deviceOffset, sizeBytes } of layout.copies)
    bytes.set(staged.subarray(hostOffset, hostOffset + sizeBytes), deviceOffset);
  for (const slice of layout.slices[device] ?? []) {
    for (let row = 0; row < slice.rows; row++) {
      const from = slice.hostOffset + row * slice.hostStrideBytes;
      const to = slice.deviceOffset + row * slice.deviceStrideBytes;
      bytes.set(staged.subarray(from, from + slice.rowBytes), to);
    }
  }
  return { bytes, placements: layout.placements };
}

function valuesOnDevice(layer: ReturnType<typeof layerOf>, file: Bytes, device: number): Float64Array {
  const { bytes, placements } = onDevice(layer, file, device);
  const at = { id: 1, sizeBytes: bytes.length };
  const place = (spec: TensorSpec): Tensor => {
    const placed = placements.find(({ weight }) => weight === spec);
    const { dtype, shape } = spec;
    return {
      memory: at,
      offsetBytes: placed?.offsetBytes ?? 0,
      dtype,
      shape,
      strides: contiguousStrides(shape),
    };
  };
  const [matrix] = layer.matrices;
  if (!matrix) throw new Error('no matrix');
  return expandReference(weightOf(matrix, place), () => new DataView(bytes.buffer));
}

describe.each(WEIGHT_KINDS.map((kind) => [kind.label, kind] as const))('%s', (_label, kind) => {
  it.each(['outputs', 'inputs'] as const)('shared by its %s', (what) => {
    let shared = 0;
    for (const [devices, each] of what === 'outputs' ? OUTPUTS : INPUTS) {
      const bench = workbench(7, undefined);
      const weight = buildWeight(
        bench,
        kind,
        what === 'outputs' ? fitted(kind, [devices * each, 64]) : fitted(kind, [16, devices * each]),
      );
      const spec = specOf(weight);
      const [N, K] = spec.shape;
      const whole = expandReference(weight, bench.memory.bytes);
      const share = what === 'outputs' ? [N / devices, K] : [N, K / devices];
      if (!share.every(Number.isInteger)) continue;
      const how = sharedDimension(spec.shape, share);
      let layer: ReturnType<typeof layerOf>;
      try {
        layer = sliceLayer(layerOf('layer', [spec]), () => how, devices);
      } catch (error) {
        expect(String(error)).toMatch(/cannot be shared by \d devices: give another --num_gpus/);
        continue;
      }
      shared++;
      const [rows = 0, inputs = 0] = share;
      for (let device = 0; device < devices; device++) {
        const own = valuesOnDevice(layer, new Uint8Array(bench.memory.view.buffer), device);
        const [firstRow, firstInput] = what === 'outputs' ? [device * rows, 0] : [0, device * inputs];
        const expected = Float64Array.from({ length: rows * inputs }, (_, i) => {
          const row = firstRow + Math.floor(i / inputs);
          return whole[row * K + firstInput + (i % inputs)] ?? Number.NaN;
        });
        expect(own.every((value, i) => value === expected[i])).toBe(true);
      }
    }
    // Scales whose own scales are in blocks follow no rows; all others can be shared by some number.
    if (!kind.isNested) expect(shared).toBeGreaterThan(0);
  });
});

it('runs of outputs are shared each by itself, and what all need is whole', () => {
  const file = new Uint8Array(new Float32Array(24).map((_, i) => i).buffer);
  const vector = (shape: number[]): TensorSpec => ({
    key: 'vector',
    dtype: 'f32',
    shape,
    extent: { fileIndex: 0, fileOffset: 0, sizeBytes: 4 * elementCount(shape) },
  });
  const sharedBy = (spec: TensorSpec, how: ReturnType<typeof sharedDimension>, device: number) => {
    const { bytes } = onDevice(
      sliceLayer(layerOf('layer', [spec]), () => how, 2),
      file,
      device,
    );
    return [...new Float32Array(bytes.buffer)];
  };
  // Four queries, two keys, one value that both devices need.
  const sections = [
    [4, 2, 1],
    [2, 1, 1],
  ] as const;
  const how = sharedDimension([7], [4], sections);
  expect(sharedBy(vector([7]), how, 0).slice(0, 4)).toEqual([0, 1, 4, 6]);
  expect(sharedBy(vector([7]), how, 1).slice(0, 4)).toEqual([2, 3, 5, 6]);
  // The last of two dimensions.
  const columns = sharedDimension([3, 4], [3, 2]);
  expect(sharedBy(vector([3, 4]), columns, 1).slice(0, 6)).toEqual([2, 3, 6, 7, 10, 11]);
});
