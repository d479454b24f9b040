// Cases for any device: one value of an operand that is no finite number must tell wherever the reference says so, and
// nowhere among rows that do not see it.

import { expect, it } from 'vitest';
import type { FloatType } from '../../offload/port/dtype.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { attentionOperands } from './attention-cases.js';
import { expectedOf } from './expected.js';
import { choices } from './expert-cases.js';
import { ACTIVATIONS, check, type KernelDevice, WEIGHT_TYPES, type Workbench } from './workbench.js';

const NOT_FINITE = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];

/** Runs `op` with each value in turn at each of a few places of `operand`, which is restored after each. */
async function spread(
  device: KernelDevice,
  bench: Workbench,
  op: Op,
  operand: Tensor,
  {
    places,
    values = NOT_FINITE,
  }: { readonly places?: readonly number[]; readonly values?: readonly number[] } = {},
): Promise<void> {
  const [out] = expectedOf(op, bench.memory);
  const inPlace = out?.tensor.offsetBytes === operand.offsetBytes;
  const sound = bench.memory.read(operand);
  for (const at of places ?? [0, Math.floor(sound.length / 2), sound.length - 1]) {
    for (const value of values) {
      bench.memory.fill(operand, (i) => (i === at ? value : (sound[i] ?? 0)));
      const expected = expectedOf(op, bench.memory);
      await device.run(op, bench);
      for (const { tensor, values: wanted } of expected) {
        const actual = bench.memory.read(tensor);
        const lost = wanted.findIndex((want, i) => !Number.isFinite(want) && Number.isFinite(actual[i]));
        const what = `${op.op}: ${value} at ${at} of an operand [${operand.shape}]`;
        expect(lost, `${what} is lost at ${lost}`).toBe(-1);
      }
      if (inPlace) break;
    }
    bench.memory.fill(operand, (i) => sound[i] ?? 0);
  }
}

/** @param productTokens tokens of the products that are tried: other kernels multiply few than many */
export function spreadCases(
  device: KernelDevice,
  types: readonly FloatType[],
  productTokens: readonly number[] = [2, 40],
): void {
  it.each(ACTIVATIONS)('through %s', async (activation) => {
    device.use();
    for (const dtype of types) {
      const bench = device.workbench(3, false);
      const [gate, up, out] = [1, 2, 3].map(() => bench.activation([3, 40], 1, dtype)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const gated = { op: 'gated', out, gate, up, activation, limit: 0, limitAfter: false } as const;
      // What is cut off below zero is so whatever it was.
      const values = activation === 'relu' ? [Number.NaN, Number.POSITIVE_INFINITY] : NOT_FINITE;
      await spread(device, bench, gated, gate, { values });
      await spread(device, bench, gated, up);
    }
  });

  it.each(WEIGHT_TYPES)('through products with %s weights, of few tokens and of many', async (dtype) => {
    device.use();
    for (const tokens of productTokens) {
      for (const activation of ['none', 'relu', 'gelu_tanh', 'silu'] as const) {
        const bench = device.workbench(tokens, false);
        const type = types.find((one) => one === dtype) ?? 'f32';
        const x = bench.activation([tokens, 72], 1, type);
        const out = bench.activation([tokens, 48], 1, type);
        const bias = bench.vector(dtype, 48);
        for (const inputMajor of [false, true]) {
          const weight = bench.weight(dtype, inputMajor ? [72, 48] : [48, 72]);
          const op = {
            op: 'linear',
            out,
            x,
            weight: denseWeight(weight, inputMajor),
            bias,
            activation,
            accumulate: false,
          } as const;
          const values = activation === 'relu' ? [Number.NaN] : NOT_FINITE;
          await spread(device, bench, op, weight, { values });
          await spread(device, bench, op, x, { values });
          await spread(device, bench, op, bias, { values });
        }
      }
    }
  });

  it('through norms, sums, caps and rotations', async () => {
    device.use();
    for (const length of [40, 1030]) {
      const bench = device.workbench(length, false);
      const [x, out] = [bench.activation([3, length]), bench.activation([3, length])];
      const [weight, bias] = [bench.vector('bf16', length), bench.vector('bf16', length)];
      for (const operand of [x, weight, bias]) {
        await spread(device, bench, { op: 'layer_norm', out, x, weight, bias, eps: 1e-5 }, operand);
      }
      for (const operand of [x, weight]) {
        await spread(device, bench, { op: 'rms_norm', out, x, weight, eps: 1e-5, weightOffset: 1 }, operand);
      }
      await spread(device, bench, { op: 'rms_norm', out, x, weight: null, eps: 1e-5, weightOffset: 0 }, x);
      await spread(device, bench, { op: 'add', out, a: x, b: x, factor: bench.vector('bf16', 1) }, x);
      await spread(device, bench, { op: 'add', out, a: x, b: bench.activation([3, length]) }, x);
      for (const softCap of [0, 30]) {
        await spread(device, bench, { op: 'scale_cap', x, scale: 0.3, softCap }, x);
      }
    }
    const bench = device.workbench(4, false);
    const [x, y, weights] = [bench.activation([3, 24]), bench.activation([6, 24]), bench.activation([3, 2])];
    for (const operand of [y, weights])
      await spread(device, bench, { op: 'combine', x, y, weights, accumulate: true }, operand);
  });

  it.each(WEIGHT_TYPES)('through experts with %s weights, where they are chosen', async (dtype) => {
    device.use();
    for (const tokens of [3, 40]) {
      const bench = device.workbench(tokens, false);
      const weights = bench.weights(dtype, 4, [24, 40]);
      const experts = choices(bench, tokens, 2, 3);
      const [x, out] = [bench.activation([tokens, 40]), bench.activation([tokens * 2, 24])];
      const op = {
        op: 'expert_linear',
        out,
        x,
        experts,
        weights: weights.map((weight) => denseWeight(weight)),
      } as const;
      await spread(device, bench, op, x);
      for (const weight of weights) await spread(device, bench, op, weight);
      // Nobody chose the last one.
      const [last] = weights.slice(-1);
      if (last) bench.memory.fill(last, () => Number.NaN);
      await check(device, bench, op, 2e-2);
    }
  });

  it.each(types)('through attention of %s, and to no other sequence', async (dtype) => {
    device.use();
    for (const [softCap, windowTokens] of [
      [0, 0],
      [5, 0],
      [0, 12],
    ] as const) {
      const lengths = [
        [20, 20],
        [1, 33],
        [3, 300],
      ] as const;
      const bench = device.workbench(7, false);
      const shape = { lengths, heads: 4, kvHeads: 2, depth: 40, page: 16 };
      const operands = attentionOperands(bench, shape, dtype);
      const op = { op: 'attention', ...operands, score: { scale: 0.2, windowTokens, softCap } } as const;
      await device.run(op, bench);
      const before = bench.memory.read(op.out);
      const perToken = 4 * 40;
      // All keys of one head, as a spoilt weight makes them; one value; one query.
      for (const name of ['q', 'keys', 'values'] as const) {
        for (const value of NOT_FINITE) {
          for (const whole of [false, true]) {
            const operand = op[name];
            const sound = bench.memory.read(operand);
            const pages = bench.memory.read(op.tables.pages);
            // All that is of the first sequence's, in the first head.
            const mine = (i: number): boolean => {
              const depth = i % 40;
              if (name === 'q') {
                const [token, head] = [Math.floor(i / perToken), Math.floor(i / 40) % 4];
                return token < 20 && head === 0 && (whole ? depth === 3 : depth === 3 && token === 15);
              }
              const [page, head] = [Math.floor(i / (2 * 16 * 40)), Math.floor(i / (16 * 40)) % 2];
              const offset = Math.floor(i / 40) % 16;
              if (head !== 0 || depth !== 3) return false;
              return whole ? page === pages[0] || page === pages[1] : page === pages[0] && offset === 15;
            };
            bench.memory.fill(operand, (i) => (mine(i) ? value : (sound[i] ?? 0)));
            const [expected] = expectedOf(op, bench.memory);
            await device.run(op, bench);
            const actual = bench.memory.read(op.out);
            const what = `${value} in ${name}, ${whole ? 'of all' : 'of one'}, softCap ${softCap}, window ${windowTokens}`;
            const lost = expected?.values.findIndex(
              (want, i) => Number.isNaN(want) && Number.isFinite(actual[i]),
            );
            expect(lost, `${what}: lost at ${lost}`).toBe(-1);
            expect(actual.slice(20 * perToken), `${what}: others`).toEqual(before.slice(20 * perToken));
            bench.memory.fill(operand, (i) => sound[i] ?? 0);
          }
        }
      }
    }
  });

  it('note_not_finite notes the first place of every row', async () => {
    device.use();
    for (const length of [1, 7, 64, 1030]) {
      const bench = device.workbench(length);
      const x = bench.activation([5, length]);
      const found = bench.index([9, 9, 9, 9, 9]);
      for (const [place, value] of [0, 1, 2, 3].map(
        (place) => [place, NOT_FINITE[place % 3] ?? 0] as const,
      )) {
        const at = bench.int(5 * length);
        bench.memory.fill(x, (i) => (i === at && place > 0 ? value : 3e38));
        await check(device, bench, { op: 'note_not_finite', found, x, place, first: place === 0 }, 0);
      }
    }
  });
}
