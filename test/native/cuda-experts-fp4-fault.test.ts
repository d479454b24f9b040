// A choice of an expert in FP4 that does not exist. A file, and so a process, of its own.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { gpuBench, gpuStream, HAS_GPU } from './cuda-device.js';
import { buildWeight } from './weight-builder.js';

describe.skipIf(!HAS_GPU)('a choice that is none, of experts in FP4', () => {
  it('is named, and ends the work', async () => {
    const bench = gpuBench(1, false);
    const kind = { label: 'fp4', name: 'fp4', product: 'f32', inputGroup: 32, scales: 'e8m0' } as const;
    const weights = [0, 1, 2, 3].map(() => buildWeight(bench, kind, [32, 64]));
    const experts = bench.table([[1, 7, 0, 2]]);
    const [x, out] = [bench.activation([1, 64]), bench.activation([4, 32])];
    gpuStream().launch(encodeOp({ op: 'expert_linear', out, x, experts, weights }));
    await expect(gpuStream().record().promise()).rejects.toThrow('expert 7 of choice 1 is none of 4');
  });
});
