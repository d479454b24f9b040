// Products against float64, on odd shapes and misaligned weights, and bit for bit however a batch is cut.

import { describe, expect, it } from 'vitest';
import { native } from '../../offload/native.js';
import type { Activation, Tensor } from '../../offload/ops.js';
import { check, ISAS, ROUNDING_ISAS, rowsOf, run, WEIGHT_TYPES, workbench } from './workbench.js';

const ACTIVATIONS: readonly Activation[] = ['none', 'relu', 'gelu', 'gelu_tanh', 'gelu_quick', 'silu'];

for (const isa of ISAS) {
  const present = native().instructionSets().includes(isa);
  describe.skipIf(!present)(`linear with ${isa}`, () => {
    const use = (threads = 2) => native().configureCpu({ threads, isa });

    for (const inputMajor of [false, true]) {
      const name = inputMajor ? '[K, N]' : '[N, K]';
      it.each(WEIGHT_TYPES)(`linear with ${name} weights of %s`, async (dtype) => {
        use();
        const shapes = [
          [0, 8, 8],
          [1, 1, 1],
          [1, 5, 0],
          [1, 33, 700],
          [2, 31, 65],
          [3, 100, 1025],
          [4, 9, 513],
          [5, 65, 48],
          [7, 40, 1100],
          [13, 130, 129],
          [14, 34, 2049],
          [70, 3, 600],
          [300, 37, 19],
        ] as const;
        for (const [index, [tokens, outputs, inputs]] of shapes.entries()) {
          const bench = workbench(index);
          const weight = bench.weight(dtype, inputMajor ? [inputs, outputs] : [outputs, inputs]);
          const bias = index % 3 === 0 ? null : bench.vector(WEIGHT_TYPES[index % 3] ?? 'f32', outputs);
          const activation = ACTIVATIONS[index % ACTIVATIONS.length] ?? 'none';
          const rounded = ROUNDING_ISAS.includes(isa) && dtype === 'bf16';
          const x = rounded ? bench.roundedActivation([tokens, inputs]) : bench.activation([tokens, inputs]);
          const out = bench.activation([tokens, outputs]);
          const accumulate = index % 2 === 1;
          await check(bench, { op: 'linear', out, x, weight, bias, inputMajor, activation, accumulate });
        }
      });
    }

    it.runIf(ROUNDING_ISAS.includes(isa))(
      'linear rounds inputs to the nearest bf16, ties to even',
      async () => {
        use();
        const bench = workbench(3);
        const [step, tokens] = [2 ** -8, 2];
        const weight = bench.memory.fill(bench.memory.tensor('bf16', [1, 6]), (i) => 10 ** (i % 6));
        const given = [1, 1 + step * 0.5, 1 + step, 1 + step * 1.5, 1 + step * 2.5, 1 + step * 3];
        const taken = [1, 1, 1, 1 + step * 2, 1 + step * 2, 1 + step * 4];
        const out = bench.activation([tokens, 1]);
        const x = bench.memory.fill(bench.memory.tensor('f32', [tokens, 6]), (i) =>
          i < 6 ? (given[i] ?? 0) : (taken[i - 6] ?? 0),
        );
        const base = { op: 'linear', weight, bias: null, inputMajor: false, activation: 'none' } as const;
        await run({ ...base, out, x, accumulate: false });
        const [ofGiven, ofTaken] = bench.memory.read(out);
        expect(ofGiven).toBe(ofTaken);
        expect(ofTaken).toBeGreaterThan(111_111);
      },
    );

    it('linear gives the same bits alone, in any batch, and with any number of threads', async () => {
      for (const inputMajor of [false, true]) {
        for (const dtype of WEIGHT_TYPES) {
          const bench = workbench(inputMajor ? 1 : 2);
          const [tokens, outputs, inputs] = [280, 67, 1100];
          const weight = bench.weight(dtype, inputMajor ? [inputs, outputs] : [outputs, inputs]);
          const x = bench.activation([tokens, inputs]);
          const out = bench.activation([tokens, outputs]);
          const base = { op: 'linear', weight, bias: null, inputMajor, activation: 'gelu' } as const;
          use(1);
          await run({ ...base, out, x, accumulate: false });
          const together = bench.memory.read(out);
          for (const count of [1, 2, 3, 4, 5, 6, 7, 12, 13, 100]) {
            use(1 + (count % 3));
            for (const first of [0, tokens - count, bench.int(tokens - count)]) {
              const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, count);
              await run({ ...base, out: part(out), x: part(x), accumulate: false });
            }
            expect(bench.memory.read(out), `${dtype} ${count}`).toEqual(together);
          }
        }
      }
    });
  });
}
