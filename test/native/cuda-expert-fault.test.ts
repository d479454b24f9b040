// An expert that does not exist, among choices that are grouped. A file, and so a process, of its own.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { denseWeight } from '../../offload/port/weights.js';
import { gpuBench, gpuStream, HAS_GPU } from './cuda-device.js';

describe.skipIf(!HAS_GPU)('a choice that is none', () => {
  it('is named, and ends the work', async () => {
    const bench = gpuBench(1, false);
    const weights = bench.weights('bf16', 4, [16, 16]);
    const experts = bench.table(Array.from({ length: 20 }, (_, choice) => [choice === 13 ? 4 : choice % 4]));
    const [x, out] = [bench.activation([20, 16]), bench.activation([20, 16])];
    gpuStream().launch(
      encodeOp({
        op: 'expert_linear',
        out,
        x,
        experts,
        weights: weights.map((weight) => denseWeight(weight)),
      }),
    );
    await expect(gpuStream().record().promise()).rejects.toThrow('expert 4 of choice 13 is none of 4');
  });
});
