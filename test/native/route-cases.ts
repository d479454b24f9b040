// Cases of a mixture's choice of experts for any device, against float64.

import { expect, it } from 'vitest';
import { PLAIN_ROUTE, type RouteRule, type Tensor } from '../../offload/port/ops.js';
import { check as checkOn, type KernelDevice, WEIGHT_TYPES, type Workbench } from './workbench.js';

/** [tokens, experts, experts of each token] */
const ROUTED = [
  [1, 1, 1],
  [5, 4, 2],
  [9, 37, 8],
  [40, 128, 8],
  [3, 6, 6],
  [3, 513, 10],
  [2, 1536, 12],
] as const;

/** [experts, groups, groups that are kept, experts that count for a group, experts of each token] */
const GROUPED = [
  [8, 2, 1, 2, 3],
  [8, 4, 2, 1, 4],
  [12, 6, 6, 2, 2],
  [256, 8, 4, 2, 8],
  // More than the groups that are kept have.
  [6, 3, 1, 2, 4],
  [90, 45, 40, 2, 7],
] as const;

const RULES: readonly RouteRule[] = [
  PLAIN_ROUTE,
  { ...PLAIN_ROUTE, normalize: true },
  { ...PLAIN_ROUTE, score: 'sigmoid', normalize: true, addedToSum: 1e-20, scale: 2.5 },
  { ...PLAIN_ROUTE, score: 'sqrt_softplus', normalize: true, addedToSum: 0.25, scale: 1.5 },
  { ...PLAIN_ROUTE, normalize: true, leastSum: 0.75 },
  { ...PLAIN_ROUTE, score: 'sigmoid' },
];

interface Routed {
  readonly tokens: number;
  readonly experts: number;
  readonly each: number;
  readonly scale?: number;
}

/** An operation of random logits that has none of its optional operands. */
function routeOf(bench: Workbench, { tokens, experts, each, scale = 3 }: Routed) {
  return {
    op: 'route',
    experts: bench.table(Array.from({ length: tokens }, () => Array<number>(each).fill(-1))),
    weights: bench.activation([tokens, each]),
    logits: bench.activation([tokens, experts], scale),
    bias: null,
    expertScale: null,
    table: null,
    rows: null,
  } as const;
}

export function routeCases(device: KernelDevice): void {
  const check = (bench: Workbench, op: Parameters<typeof checkOn>[2]) => checkOn(device, bench, op, 1e-6);

  it('route: every rule, ties to the lowest expert', async () => {
    device.use();
    for (const [tokens, experts, each] of ROUTED) {
      const bench = device.workbench(experts);
      const op = routeOf(bench, { tokens, experts, each });
      for (const rule of RULES) await check(bench, { ...op, rule });
      // Coarse values make ties; the exact order of the experts is compared.
      bench.memory.fill(op.logits, () => bench.int(3));
      for (const rule of RULES) await check(bench, { ...op, rule });
    }
  });

  it.each(WEIGHT_TYPES)(
    'route: biases of %s choose and do not weigh; factors weigh and do not choose',
    async (dtype) => {
      device.use();
      for (const [tokens, experts, each] of ROUTED) {
        const bench = device.workbench(experts);
        const op = routeOf(bench, { tokens, experts, each });
        const [bias, expertScale] = [bench.vector(dtype, experts), bench.vector(dtype, experts)];
        for (const rule of RULES) {
          await check(bench, { ...op, bias, rule });
          await check(bench, { ...op, expertScale, rule });
        }
        bench.memory.fill(bias, (i) => -1 - (i % 2));
        await check(bench, { ...op, bias, expertScale, rule: RULES[2] ?? PLAIN_ROUTE });
      }
    },
  );

  it('route: scores of one are told apart by their logits', async () => {
    device.use();
    const bench = device.workbench(9);
    const op = routeOf(bench, { tokens: 2, experts: 40, each: 3 });
    bench.memory.fill(op.logits, (i) => 60 + ((i * 7) % 40));
    await check(bench, { ...op, rule: { ...PLAIN_ROUTE, score: 'sigmoid' } });
    const chosen = bench.memory.read(op.experts);
    expect(chosen[0]).toBe(17);
  });

  it('route: groups, with and without a bias, and ties among them', async () => {
    device.use();
    for (const [experts, groups, groupsKept, groupBest, each] of GROUPED) {
      const bench = device.workbench(experts);
      const op = routeOf(bench, { tokens: 9, experts, each });
      const bias = bench.vector('f32', experts);
      for (const score of ['sigmoid', 'softmax'] as const) {
        const rule: RouteRule = { ...PLAIN_ROUTE, score, groups, groupsKept, groupBest, normalize: true };
        await check(bench, { ...op, rule });
        await check(bench, { ...op, bias, rule: { ...rule, scale: 2.5 } });
      }
      bench.memory.fill(op.logits, () => bench.int(2));
      await check(bench, {
        ...op,
        rule: { ...PLAIN_ROUTE, score: 'sigmoid', groups, groupsKept, groupBest },
      });
    }
  });

  it('route: two experts of a sparse mixer', async () => {
    device.use();
    for (const scale of [0.01, 1, 30]) {
      const bench = device.workbench(scale);
      const op = routeOf(bench, { tokens: 20, experts: 16, each: 2, scale });
      await check(bench, { ...op, rule: { ...PLAIN_ROUTE, sparseMixer: 0.02 } });
      // All alike: nobody is far from the best.
      bench.memory.fill(op.logits, () => 0);
      await check(bench, { ...op, rule: { ...PLAIN_ROUTE, sparseMixer: 0.02 } });
      bench.memory.fill(op.logits, (i) => (i % 3 === 0 ? -1 : -1.01));
      await check(bench, { ...op, rule: { ...PLAIN_ROUTE, sparseMixer: 0.02 } });
    }
  });

  it('route: a table names the experts, which weigh as the rule says', async () => {
    device.use();
    for (const width of [1, 2]) {
      const bench = device.workbench(width);
      const [tokens, experts, each, entries] = [9, 12, 3, 5];
      const op = routeOf(bench, { tokens, experts, each });
      const table = bench.memory.fill(bench.stored('i32', [entries, each * width]), (i) =>
        i % width === 0 ? bench.int(experts) : -7,
      );
      const rows = bench.index(Array.from({ length: tokens }, () => bench.int(entries)));
      for (const rule of RULES) await check(bench, { ...op, table, rows, rule });
      const bias = bench.vector('f32', experts);
      await check(bench, { ...op, bias, table, rows, rule: RULES[3] ?? PLAIN_ROUTE });
    }
  });

  it('route: a logit that is no finite number makes the weights NaN, and the experts are there', async () => {
    device.use();
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const [tokens, experts, each] of ROUTED) {
        const bench = device.workbench(experts);
        const op = routeOf(bench, { tokens, experts, each });
        const at = Array.from({ length: tokens }, () => (bench.int(2) === 0 ? bench.int(experts) : -1));
        const spoilt = (i: number) => at[Math.floor(i / experts)] === i % experts;
        bench.memory.fill(op.logits, (i) => (spoilt(i) ? value : bench.int(7)));
        for (const rule of RULES) await check(bench, { ...op, rule });
        const mixer = { ...PLAIN_ROUTE, sparseMixer: 0.02 };
        if (each <= 2) await check(bench, { ...op, rule: mixer });
        await check(bench, { ...op, bias: bench.vector('f32', experts), rule: RULES[2] ?? PLAIN_ROUTE });
        bench.memory.fill(op.logits, () => value);
        await check(bench, { ...op, rule: PLAIN_ROUTE });
      }
    }
  });

  it('route: so does a bias that is none', async () => {
    device.use();
    const bench = device.workbench(4);
    const op = routeOf(bench, { tokens: 3, experts: 8, each: 2 });
    const bias: Tensor = bench.memory.fill(bench.vector('f32', 8), (i) => (i === 5 ? Number.NaN : 0));
    await check(bench, { ...op, bias, rule: { ...PLAIN_ROUTE, groups: 2, groupBest: 2 } });
  });

  it('gate_sigmoid: each value, each head, each row, in any place', async () => {
    device.use();
    for (const [rows, heads, length] of [
      [1, 1, 1],
      [9, 3, 33],
      [7, 4, 64],
    ] as const) {
      for (const awkward of device.placings) {
        const bench = device.workbench(length, awkward);
        const x = bench.activation([rows, heads, length]);
        await check(bench, { op: 'gate_sigmoid', x, gate: bench.activation([rows, heads, length], 6) });
        await check(bench, { op: 'gate_sigmoid', x, gate: bench.activation([rows, heads, 1], 6) });
        const flat = bench.activation([rows, length]);
        const gate = bench.activation([rows, 1], 6);
        await check(bench, { op: 'gate_sigmoid', x: flat, gate });
        bench.memory.fill(gate, (i) => [Number.NaN, Number.NEGATIVE_INFINITY, 200][i % 3] ?? 0);
        await check(bench, { op: 'gate_sigmoid', x: flat, gate });
      }
    }
  });
}
