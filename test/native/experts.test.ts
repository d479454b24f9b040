// Mixtures of experts: routing, grouped products and their sum, against float64 and bit for bit.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import { denseWeight } from '../../offload/port/weights.js';
import { PRODUCT_KERNELS } from './cpu-device.js';
import { choices, expertCases } from './expert-cases.js';
import { routeCases } from './route-cases.js';
import { rowsOf, WEIGHT_TYPES } from './workbench.js';

for (const device of PRODUCT_KERNELS) {
  const { use, run } = device;
  describe.skipIf(!device.present)(`experts with ${device.isa}`, () => {
    expertCases(device);
    routeCases(device);

    it('expert_linear gives the bits of linear, alone and in any batch', async () => {
      for (const dtype of WEIGHT_TYPES) {
        const bench = device.workbench(7);
        const [tokens, experts, each, outputs, inputs] = [90, 3, 2, 67, 1100];
        const weights = bench.weights(dtype, experts, [outputs, inputs]);
        const chosen = choices(bench, tokens, each, experts);
        const x = bench.activation([tokens, inputs]);
        const out = bench.activation([tokens * each, outputs]);
        use(2);
        await run(
          {
            op: 'expert_linear',
            out,
            x,
            experts: chosen,
            weights: weights.map((weight) => denseWeight(weight)),
          },
          bench,
        );
        const together = bench.memory.read(out);
        const ids = bench.memory.read(chosen);
        bench.memory.fill(out, () => Number.NaN);
        for (let choice = 0; choice < tokens * each; choice++) {
          const [row, weight] = [Math.floor(choice / each), weights[ids[choice] ?? 0]];
          if (!weight) throw new Error('no such expert');
          const base = { op: 'linear', bias: null, activation: 'none' } as const;
          const one = { out: rowsOf(out, choice, 1), x: rowsOf(x, row, 1), weight: denseWeight(weight) };
          await run({ ...base, ...one, accumulate: false }, bench);
        }
        expect(bench.memory.read(out), dtype).toEqual(together);
        for (const count of [1, 2, 5, 31]) {
          use(1 + (count % 3));
          for (let first = 0; first < tokens; first += count) {
            const some = Math.min(count, tokens - first);
            const part = { x: rowsOf(x, first, some), experts: rowsOf(chosen, first, some) };
            const to = rowsOf(out, first * each, some * each);
            await run(
              {
                op: 'expert_linear',
                ...part,
                out: to,
                weights: weights.map((weight) => denseWeight(weight)),
              },
              bench,
            );
          }
          expect(bench.memory.read(out), `${dtype} in steps of ${count}`).toEqual(together);
        }
      }
    });

    it('an expert that does not exist ends the operation with a sentence', async () => {
      use();
      const bench = device.workbench(3);
      const weights = bench.weights('f32', 2, [3, 3]);
      const broken = native().createStream('experts');
      const operands = {
        x: bench.activation([1, 3]),
        out: bench.activation([2, 3]),
        weights: weights.map((weight) => denseWeight(weight)),
      };
      broken.launch(encodeOp({ op: 'expert_linear', ...operands, experts: bench.table([[1, 2]]) }));
      await expect(broken.record().promise()).rejects.toThrow('expert 2 of choice 1 is none of 2');
      broken.close();
    });
  });
}
