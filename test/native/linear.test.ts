// Products against float64, on odd shapes and misaligned weights, and bit for bit however a batch is cut.

import { describe, expect, it } from 'vitest';
import type { Tensor } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { PRODUCT_KERNELS } from './cpu-device.js';
import { linearCases } from './linear-cases.js';
import { rowsOf, WEIGHT_TYPES } from './workbench.js';

for (const device of PRODUCT_KERNELS) {
  const { use, run } = device;
  describe.skipIf(!device.present)(`linear with ${device.isa}`, () => {
    linearCases(device);

    it.runIf(device.rounds)('linear rounds inputs to the nearest bf16, ties to even', async () => {
      use();
      const bench = device.workbench(3);
      const [step, tokens] = [2 ** -8, 2];
      const weight = bench.memory.fill(bench.memory.tensor('bf16', [1, 6]), (i) => 10 ** (i % 6));
      const given = [1, 1 + step * 0.5, 1 + step, 1 + step * 1.5, 1 + step * 2.5, 1 + step * 3];
      const taken = [1, 1, 1, 1 + step * 2, 1 + step * 2, 1 + step * 4];
      const out = bench.activation([tokens, 1]);
      const x = bench.memory.fill(bench.memory.tensor('f32', [tokens, 6]), (i) =>
        i < 6 ? (given[i] ?? 0) : (taken[i - 6] ?? 0),
      );
      const base = { op: 'linear', weight: denseWeight(weight), bias: null, activation: 'none' } as const;
      await run({ ...base, out, x, accumulate: false }, bench);
      const [ofGiven, ofTaken] = bench.memory.read(out);
      expect(ofGiven).toBe(ofTaken);
      expect(ofTaken).toBeGreaterThan(111_111);
    });

    it('linear gives the same bits alone, in any batch, and with any number of threads', async () => {
      for (const inputMajor of [false, true]) {
        for (const dtype of WEIGHT_TYPES) {
          const bench = device.workbench(inputMajor ? 1 : 2);
          const [tokens, outputs, inputs] = [280, 67, 1100];
          const weight = bench.weight(dtype, inputMajor ? [inputs, outputs] : [outputs, inputs]);
          const x = bench.activation([tokens, inputs]);
          const out = bench.activation([tokens, outputs]);
          const base = {
            op: 'linear',
            weight: denseWeight(weight, inputMajor),
            bias: null,
            activation: 'gelu',
          } as const;
          use(1);
          await run({ ...base, out, x, accumulate: false }, bench);
          const together = bench.memory.read(out);
          for (const count of [1, 2, 3, 4, 5, 6, 7, 12, 13, 100]) {
            use(1 + (count % 3));
            for (const first of [0, tokens - count, bench.int(tokens - count)]) {
              const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, count);
              await run({ ...base, out: part(out), x: part(x), accumulate: false }, bench);
            }
            expect(bench.memory.read(out), `${dtype} ${count}`).toEqual(together);
          }
        }
      }
    });
  });
}
