// Operations of experts, one behind the other, which the processor computes as one loop: two products of the same inputs and choices,
// and whole blocks of products, gates and the product of these. Bit for bit what each is alone, and anything else stays apart.

import { describe, expect, it } from 'vitest';
import { encodeOp, joinEncoded } from '../../offload/backends/op-encoding.js';
import { ELSEWHERE } from '../../offload/port/host-ops.js';
import { native } from '../../offload/port/native.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { columns, dimension } from '../../offload/port/tensor.js';
import { denseWeight } from '../../offload/port/weights.js';
import { PRODUCT_KERNELS } from './cpu-device.js';
import { choices } from './expert-cases.js';
import { buildWeight, fitted, WEIGHT_KINDS } from './weight-builder.js';
import { rowsOf, WEIGHT_TYPES, type Workbench } from './workbench.js';

/** Tokens, experts, experts of each token: one token, a few, more than tiles of a few tokens take, and an expert that all choose. */
const SHAPES = [
  [1, 5, 3],
  [4, 6, 2],
  [40, 3, 2],
  [9, 1, 1],
] as const;

const DENSE: [number, number] = [70, 330];
const STORED: [number, number] = [24, 264];

/** Experts of one way to store them: matrices of at least so many outputs and inputs. */
type Experts = (bench: Workbench, count: number, atLeast: readonly [number, number]) => readonly Weight[];

const WAYS: readonly Experts[] = [
  ...WEIGHT_TYPES.map<Experts>(
    (dtype) =>
      (bench, count, [N, K]) =>
        bench.weights(dtype, count, [N, K]).map((weight) => denseWeight(weight)),
  ),
  ...WEIGHT_KINDS.map<Experts>(
    (kind) => (bench, count, atLeast) =>
      Array.from({ length: count }, () => buildWeight(bench, kind, fitted(kind, atLeast))),
  ),
];

const sizes = (weights: readonly Weight[]) => weights[0]?.shape ?? [0, 0];

/** What blocks of a mixture look like. */
const FORMS = ['gate and up in one', 'gate and up apart', 'pairs with biases'] as const;

interface Block {
  readonly ops: readonly Op[];
  /** All that they write. */
  readonly outs: readonly Tensor[];
}

/** A block whose products up are stored in one way and those down in another. */
function blockOf(
  bench: Workbench,
  form: (typeof FORMS)[number],
  [up, down]: readonly [Experts, Experts],
  [tokens, count, each, inputs = 130, atLeast = [21, 40]]: readonly [
    tokens: number,
    experts: number,
    each: number,
    inputs?: number,
    down?: readonly [number, number],
  ],
): Block {
  const downs = down(bench, count, atLeast);
  const [H, I] = sizes(downs);
  const apart = form === 'gate and up apart';
  const ups = (apart ? [0, 1] : [0]).map(() => up(bench, count, [apart ? I : 2 * I, inputs]));
  const [N, K] = sizes(ups[0] ?? []);
  const x = bench.activation([tokens, K]);
  const chosen = choices(bench, tokens, each, count);
  // Some are computed elsewhere.
  bench.memory.fill(chosen, (i) => (i % 5 === 3 ? ELSEWHERE : (bench.memory.read(chosen)[i] ?? 0)));
  const rows = tokens * each;
  const products = ups.map(() => bench.activation([rows, N]));
  const [first = x, second] = products;
  const between = bench.activation([rows, I]);
  const out = bench.activation([rows, H]);
  const multiply = (to: Tensor, from: Tensor, weights: readonly Weight[]): Op => ({
    op: 'expert_linear',
    out: to,
    x: from,
    experts: chosen,
    weights,
  });
  const bias = (to: Tensor): Op => ({
    op: 'expert_bias',
    x: to,
    experts: chosen,
    bias: bench.weight('bf16', [count, dimension(to, 1)]),
  });
  const gated: Op = {
    op: 'gated',
    out: between,
    gate: columns(first, 0, I),
    up: second ? columns(second, 0, I) : columns(first, I, I),
    activation: 'silu',
    limit: tokens % 2 === 0 ? 0.5 : 0,
    limitAfter: tokens % 4 === 0,
  };
  const whole = form === 'pairs with biases' && N === 2 * I;
  const gates: readonly Op[] = whole
    ? [bias(first), { op: 'gated_pairs', out: between, x: first, alpha: 1.7, limit: 1 }]
    : [gated];
  return {
    ops: [
      ...ups.map((weights, index) => multiply(products[index] ?? out, x, weights)),
      ...gates,
      multiply(out, between, downs),
      ...(whole ? [bias(out)] : []),
    ],
    outs: [...products, between, out],
  };
}

for (const device of PRODUCT_KERNELS) {
  const { use } = device;
  describe.skipIf(!device.present)(`pairs and blocks of experts with ${device.isa}`, () => {
    const together = async (ops: readonly Op[]) => {
      const stream = native().createStream('blocks');
      stream.launchAll(joinEncoded(ops.map((op) => encodeOp(op).slice())));
      try {
        await stream.record().promise();
      } finally {
        stream.close();
      }
    };
    /** Every output is what the operations one by one leave there. */
    const isAsAlone = async (bench: Workbench, { ops, outs }: Block) => {
      const clear = () => {
        for (const out of outs) bench.memory.fill(out, () => Number.NaN);
      };
      use(3);
      clear();
      for (const one of ops) await together([one]);
      const alone = outs.map((out) => bench.memory.read(out));
      use(2);
      clear();
      await together(ops);
      expect(outs.map((out) => bench.memory.read(out))).toEqual(alone);
    };
    const op = (out: Tensor, x: Tensor, experts: Tensor, weights: readonly Weight[]): Op => ({
      op: 'expert_linear',
      out,
      x,
      experts,
      weights,
    });

    it('have the bits of each alone, in every type and format', async () => {
      for (const [index, make] of WAYS.entries()) {
        for (const [tokens, count, each] of SHAPES) {
          const bench = device.workbench(index + tokens);
          const atLeast = index < WEIGHT_TYPES.length ? DENSE : STORED;
          const [gate, up] = [make(bench, count, atLeast), make(bench, count, atLeast)];
          const [N, K] = sizes(gate);
          const x = bench.activation([tokens, K]);
          const chosen = choices(bench, tokens, each, count);
          const outs = [0, 1].map(() => bench.activation([tokens * each, N])) as [Tensor, Tensor];
          const ops = [op(outs[0], x, chosen, gate), op(outs[1], x, chosen, up)];
          await isAsAlone(bench, { ops, outs });
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
      await isAsAlone(bench, { ops, outs });
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

    it.each(FORMS)('of whole blocks, %s, have the bits of each alone', async (form) => {
      for (const [index, up] of WAYS.entries()) {
        // Every way meets some other one, and every shape.
        const down = WAYS[(index * 5 + 2) % WAYS.length] ?? up;
        const shape = SHAPES[index % SHAPES.length] ?? SHAPES[0];
        const bench = device.workbench(index);
        await isAsAlone(bench, blockOf(bench, form, [up, down], SHAPES[0]));
        await isAsAlone(bench, blockOf(bench, form, [down, up], shape));
      }
    });

    it('are none where gates or biases are of something else', async () => {
      const [dense] = WAYS as readonly [Experts];
      const shape = [5, 4, 2] as const;
      const bench = device.workbench(7);
      const [block, other] = [0, 1].map(() =>
        blockOf(bench, 'gate and up in one', [dense, dense], shape),
      ) as [Block, Block];
      const biased = blockOf(bench, 'pairs with biases', [dense, dense], shape);
      const swapped = block.ops.map((one) =>
        one.op === 'gated' ? { ...one, gate: columns(other.outs[0] as Tensor, 0, 40) } : one,
      );
      const shifted = biased.ops.map((one) =>
        one.op === 'expert_bias' ? { ...one, x: rowsOf(one.x, 0, 10) } : one,
      );
      for (const ops of [swapped, shifted, [...block.ops.slice(0, 2), ...other.ops.slice(2)]]) {
        await isAsAlone(bench, { ops, outs: [...block.outs.slice(1), ...biased.outs] });
      }
    });

    it('of whole blocks, of more choices than inputs are packed of at once, have the bits of each alone', async () => {
      const [dense] = WAYS as readonly [Experts];
      const bench = device.workbench(13);
      await isAsAlone(bench, blockOf(bench, 'gate and up in one', [dense, dense], [8200, 3, 2, 9, [3, 5]]));
    });

    it('of whole blocks, with an expert that does not exist, compute nothing', async () => {
      const [dense] = WAYS as readonly [Experts];
      const bench = device.workbench(9);
      const { ops, outs } = blockOf(bench, 'gate and up in one', [dense, dense], [1, 3, 3]);
      for (const one of ops) if (one.op === 'expert_linear') bench.memory.fill(one.experts, (i) => i + 1);
      for (const out of outs) bench.memory.fill(out, () => Number.NaN);
      use(2);
      await expect(together(ops)).rejects.toThrow('expert_linear: expert 3 of choice 2 is none of 3');
      for (const out of outs) expect(bench.memory.read(out).every(Number.isNaN)).toBe(true);
    });

    it('that are cancelled in the middle hold nobody up', async () => {
      const [dense] = WAYS as readonly [Experts];
      const bench = device.workbench(11);
      const block = blockOf(bench, 'gate and up in one', [dense, dense], [40, 3, 2]);
      const words = joinEncoded(block.ops.map((one) => encodeOp(one).slice()));
      use(3);
      const stream = native().createStream('cancelled');
      stream.launchAll(words);
      const first = stream.record();
      for (let i = 0; i < 500; i++) stream.launchAll(words);
      await first.promise();
      stream.close();
      await isAsAlone(bench, block);
    });
  });
}
