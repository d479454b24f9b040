// Two products of the same inputs and choices, one behind the other, which the processor computes as one loop: bit for bit what each
// is alone, and anything else stays apart.

import { describe, expect, it } from 'vitest';
import { encodeOp, joinEncoded } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { PRODUCT_KERNELS } from './cpu-device.js';
import { choices } from './expert-cases.js';
import { buildWeight, fitted, WEIGHT_KINDS } from './weight-builder.js';
import { rowsOf, WEIGHT_TYPES } from './workbench.js';

/** Tokens, experts, experts of each token: one token, a few, more than tiles of a few tokens take, and an expert that all choose. */
const SHAPES = [
  [1, 5, 3],
  [4, 6, 2],
  [40, 3, 2],
  [9, 1, 1],
] as const;

const DENSE: [number, number] = [70, 330];
const STORED: [number, number] = [24, 264];

for (const device of PRODUCT_KERNELS) {
  const { use } = device;
  describe.skipIf(!device.present)(`pairs of experts with ${device.isa}`, () => {
    const together = async (ops: readonly Op[]) => {
      const stream = native().createStream('pairs');
      stream.launchAll(joinEncoded(ops.map((op) => encodeOp(op).slice())));
      try {
        await stream.record().promise();
      } finally {
        stream.close();
      }
    };
    const op = (out: Tensor, x: Tensor, experts: Tensor, weights: readonly Weight[]): Op => ({
      op: 'expert_linear',
      out,
      x,
      experts,
      weights,
    });

    it('have the bits of each alone, in every type and format', async () => {
      type Make = (bench: ReturnType<typeof device.workbench>, count: number) => readonly Weight[];
      const makers: readonly Make[] = [
        ...WEIGHT_TYPES.map<Make>(
          (dtype) => (bench, count) =>
            bench.weights(dtype, count, DENSE).map((weight) => denseWeight(weight)),
        ),
        ...WEIGHT_KINDS.map<Make>(
          (kind) => (bench, count) =>
            Array.from({ length: count }, () => buildWeight(bench, kind, fitted(kind, STORED))),
        ),
      ];
      for (const [index, make] of makers.entries()) {
        for (const [tokens, count, each] of SHAPES) {
          const bench = device.workbench(index + tokens);
          const [gate, up] = [make(bench, count), make(bench, count)];
          const [N, K] = gate[0]?.shape ?? [0, 0];
          const x = bench.activation([tokens, K]);
          const chosen = choices(bench, tokens, each, count);
          const outs = [0, 1].map(() => bench.activation([tokens * each, N])) as [Tensor, Tensor];
          const ops = [op(outs[0], x, chosen, gate), op(outs[1], x, chosen, up)];
          use(3);
          for (const one of ops) await together([one]);
          const alone = outs.map((out) => bench.memory.read(out));
          for (const out of outs) bench.memory.fill(out, () => Number.NaN);
          use(2);
          await together(ops);
          expect(outs.map((out) => bench.memory.read(out))).toEqual(alone);
        }
      }
    });

    it('are none where inputs, choices or shapes are not the same', async () => {
      const bench = device.workbench(5);
      const [tokens, count, each, inputs] = [6, 4, 2, 192];
      const weights = (outputs: number) =>
        bench.weights('bf16', count, [outputs, inputs]).map((weight) => denseWeight(weight));
      const [many, few] = [weights(40), weights(24)];
      const x = [0, 1].map(() => bench.activation([tokens, inputs])) as [Tensor, Tensor];
      const chosen = [0, 1].map(() => choices(bench, tokens, each, count)) as [Tensor, Tensor];
      const outs = [40, 40, 40, 24].map((outputs) => bench.activation([tokens * each, outputs])) as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ];
      const ops = [
        op(outs[0], x[0], chosen[0], many),
        op(outs[1], x[1], chosen[0], many),
        op(outs[2], x[1], chosen[1], many),
        op(outs[3], x[1], chosen[1], few),
      ];
      use(2);
      for (const one of ops) await together([one]);
      const alone = outs.map((out) => bench.memory.read(out));
      for (const out of outs) bench.memory.fill(out, () => Number.NaN);
      await together(ops);
      expect(outs.map((out) => bench.memory.read(out))).toEqual(alone);
    });

    it('into the same outputs are computed in turn', async () => {
      const bench = device.workbench(8);
      const [tokens, count, each, inputs] = [3, 4, 2, 160];
      const made = () => bench.weights('f32', count, [24, inputs]).map((weight) => denseWeight(weight));
      const [first, second] = [made(), made()];
      const x = bench.activation([tokens, inputs]);
      const chosen = choices(bench, tokens, each, count);
      const out = bench.activation([tokens * each, 24]);
      use(2);
      await together([op(out, x, chosen, second)]);
      const alone = bench.memory.read(out);
      await together([op(out, x, chosen, first), op(out, x, chosen, second)]);
      expect(bench.memory.read(out)).toEqual(alone);
    });

    it('with an expert that does not exist end with the sentence of one', async () => {
      const bench = device.workbench(3);
      const made = () => bench.weights('f32', 2, [8, 32]).map((weight) => denseWeight(weight));
      const x = bench.activation([1, 32]);
      const outs = bench.activation([4, 8]);
      const chosen = bench.table([[1, 2]]);
      use(2);
      const ops = [op(rowsOf(outs, 0, 2), x, chosen, made()), op(rowsOf(outs, 2, 2), x, chosen, made())];
      await expect(together(ops)).rejects.toThrow('expert_linear: expert 2 of choice 1 is none of 2');
    });
  });
}
