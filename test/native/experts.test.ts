// Mixtures of experts: routing, grouped products and their sum, against float64 and bit for bit.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/native.js';
import type { Tensor } from '../../offload/ops.js';
import {
  check,
  ISAS,
  ROUNDING_ISAS,
  rowsOf,
  run,
  WEIGHT_TYPES,
  type Workbench,
  workbench,
} from './workbench.js';

/** Distinct experts per token, drawn from the first `used` of them. */
function choices(bench: Workbench, tokens: number, each: number, used: number): Tensor {
  const rows = Array.from({ length: tokens }, () => {
    const order = Array.from({ length: used }, (_, e) => e).sort(() => bench.random() - 0.5);
    return order.slice(0, each);
  });
  return bench.table(rows);
}

for (const isa of ISAS) {
  const present = native().instructionSets().includes(isa);
  describe.skipIf(!present)(`experts with ${isa}`, () => {
    const use = (threads = 2) => native().configureCpu({ threads, isa });

    it('route: ties to the lowest expert, both ways of weighing', async () => {
      use();
      for (const [tokens, experts, each] of [
        [1, 1, 1],
        [5, 4, 2],
        [9, 37, 8],
        [40, 128, 8],
        [3, 6, 6],
      ] as const) {
        const bench = workbench(experts);
        const logits = bench.activation([tokens, experts], 3);
        const chosen = bench.table(Array.from({ length: tokens }, () => Array<number>(each).fill(-1)));
        const weights = bench.activation([tokens, each]);
        const op = { op: 'route', experts: chosen, weights, logits } as const;
        await check(bench, { ...op, normalize: false }, 1e-6);
        await check(bench, { ...op, normalize: true }, 1e-6);
        // Coarse values make ties; the exact order of the experts is compared.
        bench.memory.fill(logits, () => bench.int(3));
        await check(bench, { ...op, normalize: true }, 1e-6);
        bench.memory.fill(logits, (i) => (i % 3 === 0 ? Number.NEGATIVE_INFINITY : bench.int(3)));
        await check(bench, { ...op, normalize: true }, 1e-6);
      }
    });

    it('route: NaN is chosen last, and a row of it stays NaN', async () => {
      use();
      const bench = workbench(1);
      const logits = bench.memory.fill(bench.memory.tensor('f32', [2, 3]), (i) => (i === 1 ? 7 : Number.NaN));
      const experts = bench.table([
        [9, 9],
        [9, 9],
      ]);
      const weights = bench.activation([2, 2]);
      await run({ op: 'route', experts, weights, logits, normalize: true });
      expect([...bench.memory.read(experts)]).toEqual([1, 0, 0, 1]);
      expect([...bench.memory.read(weights)]).toEqual([1, 0, Number.NaN, Number.NaN]);
    });

    it.each(WEIGHT_TYPES)('expert_linear with %s weights', async (dtype) => {
      use();
      for (const [tokens, experts, each, outputs, inputs] of [
        [0, 2, 1, 4, 4],
        [1, 1, 1, 1, 1],
        [1, 8, 2, 33, 700],
        [4, 4, 2, 40, 65],
        [11, 9, 3, 37, 520],
        [150, 3, 2, 5, 70],
        [300, 2, 2, 34, 19],
      ] as const) {
        const bench = workbench(tokens + experts);
        const weights = likeTensors(bench, dtype, experts, [outputs, inputs]);
        const chosen = choices(bench, tokens, each, experts);
        const table = tokens === 0 ? { ...chosen, shape: [0, each] } : chosen;
        const out = bench.activation([tokens * each, outputs]);
        const rounded = ROUNDING_ISAS.includes(isa) && dtype === 'bf16';
        const fill = rounded ? bench.roundedActivation : bench.activation;
        const [shared, own] = [fill([tokens, inputs]), fill([tokens * each, inputs])];
        await check(bench, { op: 'expert_linear', out, x: shared, experts: table, weights });
        await check(bench, { op: 'expert_linear', out, x: own, experts: table, weights });
      }
    });

    it('expert_linear gives the bits of linear, alone and in any batch', async () => {
      for (const dtype of WEIGHT_TYPES) {
        const bench = workbench(7);
        const [tokens, experts, each, outputs, inputs] = [90, 3, 2, 67, 1100];
        const weights = likeTensors(bench, dtype, experts, [outputs, inputs]);
        const chosen = choices(bench, tokens, each, experts);
        const x = bench.activation([tokens, inputs]);
        const out = bench.activation([tokens * each, outputs]);
        use(2);
        await run({ op: 'expert_linear', out, x, experts: chosen, weights });
        const together = bench.memory.read(out);
        const ids = bench.memory.read(chosen);
        bench.memory.fill(out, () => Number.NaN);
        for (let choice = 0; choice < tokens * each; choice++) {
          const [row, weight] = [Math.floor(choice / each), weights[ids[choice] ?? 0]];
          if (!weight) throw new Error('no such expert');
          const base = { op: 'linear', bias: null, inputMajor: false, activation: 'none' } as const;
          const one = { out: rowsOf(out, choice, 1), x: rowsOf(x, row, 1), weight };
          await run({ ...base, ...one, accumulate: false });
        }
        expect(bench.memory.read(out), dtype).toEqual(together);
        for (const count of [1, 2, 5, 31]) {
          use(1 + (count % 3));
          for (let first = 0; first < tokens; first += count) {
            const some = Math.min(count, tokens - first);
            const part = { x: rowsOf(x, first, some), experts: rowsOf(chosen, first, some) };
            const to = rowsOf(out, first * each, some * each);
            await run({ op: 'expert_linear', ...part, out: to, weights });
          }
          expect(bench.memory.read(out), `${dtype} in steps of ${count}`).toEqual(together);
        }
      }
    });

    it('expert_linear reads no expert that was not chosen', async () => {
      use();
      const bench = workbench(2);
      const weights = likeTensors(bench, 'f32', 4, [20, 30]);
      const experts = bench.table([
        [3, 1],
        [1, 3],
      ]);
      const x = bench.activation([2, 30]);
      const out = bench.activation([4, 20]);
      const op = { op: 'expert_linear', out, x, experts, weights } as const;
      await run(op);
      const clean = bench.memory.read(out);
      // Freed memory, which native code would refuse to resolve, cannot be told apart here; NaN can.
      for (const unused of [0, 2]) {
        const weight = weights[unused];
        if (weight) bench.memory.fill(weight, () => Number.NaN);
      }
      await run(op);
      expect(bench.memory.read(out)).toEqual(clean);
    });

    it('an expert that does not exist ends the operation with a sentence', async () => {
      use();
      const bench = workbench(3);
      const weights = likeTensors(bench, 'f32', 2, [3, 3]);
      const broken = native().createStream('experts');
      const operands = { x: bench.activation([1, 3]), out: bench.activation([2, 3]), weights };
      broken.launch(encodeOp({ op: 'expert_linear', ...operands, experts: bench.table([[1, 2]]) }));
      await expect(broken.record().promise()).rejects.toThrow('expert 2 of choice 1 is none of 2');
      broken.close();
    });

    it('combine', async () => {
      use();
      for (const [tokens, each, length] of [
        [0, 2, 5],
        [1, 1, 7],
        [6, 2, 33],
        [3, 8, 130],
      ] as const) {
        const bench = workbench(length);
        const x = bench.activation([tokens, length]);
        const y = bench.activation([tokens * each, length]);
        const weights = bench.activation([tokens, each]);
        await check(bench, { op: 'combine', x, y, weights }, 1e-6);
      }
    });
  });
}

/** Tensors of one layout, at any byte and with gaps between rows. */
function likeTensors(
  bench: Workbench,
  dtype: (typeof WEIGHT_TYPES)[number],
  count: number,
  shape: readonly number[],
): Tensor[] {
  const padding = bench.int(4);
  return Array.from({ length: count }, () =>
    bench.memory.fill(
      bench.memory.tensor(dtype, shape, bench.int(7), padding),
      () => bench.random() * 2 + bench.random() * 2 - 2,
    ),
  );
}
