// Cases of layers with a state for any device: ragged batches, sequences that begin and that go on, heads that share keys,
// views of fused projections, prompts of many tokens; and the same bits wherever a prompt is cut, or nearly so in chunks.

import { expect, it } from 'vitest';
import type { DType } from '../../offload/port/dtype.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { grouped, RULES, SLOTS, scanOf, slotOf, tablesOf } from './state-operands.js';
import { check as checkOn, type KernelDevice, rowsOf, WEIGHT_TYPES, type Workbench } from './workbench.js';

/** [tokens, positions before them] of each sequence. */
const BATCHES = [
  [[1, 0]],
  [[1, 9]],
  [
    [1, 4],
    [7, 0],
    [1, 0],
    [2, 5],
    [12, 3],
  ],
  [
    [19, 0],
    [0, 3],
    [3, 1],
  ],
] as const;
/** Width, groups, channels of a group. */
const CONVOLVED = [
  [4, 1, 5],
  [4, 3, 70],
  [2, 1, 130],
  [1, 2, 9],
  [9, 2, 16],
] as const;
/** Heads of k and of v, Dk, Dv. */
const SCANNED = [
  [1, 1, 1, 1],
  [2, 6, 16, 8],
  [1, 3, 37, 19],
  [3, 3, 64, 100],
  [1, 2, 128, 128],
  [1, 1, 200, 33],
  [1, 2, 300, 9],
] as const;
/** More tokens than are gone through one by one, about as many, and few, in one batch. */
const PROMPTS = [
  [70, 0],
  [1, 9],
  [129, 3],
  [0, 2],
  [17, 7],
  [16, 0],
] as const;
/** As SCANNED; with types in turn, all on one side or the other of what is gone through in chunks. */
const PROMPTED = [
  [1, 3, 128, 128],
  [1, 2, 200, 72],
  [2, 4, 64, 64],
  [3, 3, 32, 24],
  [1, 2, 256, 40],
  [1, 2, 40, 100],
  [1, 1, 136, 16],
] as const;
/** [tokens, groups, length], and whether every group has weights of its own. */
const NORMED = [
  [[0, 2, 8], false],
  [[3, 1, 7], true],
  [[5, 4, 128], false],
  [[2, 8, 512], true],
  [[2, 2, 1030], true],
  [[2, 3, 2, 40], false],
] as const;

export interface StateCaseOptions {
  readonly activations: readonly DType[];
  /** Prompts of many tokens go in chunks, so that the places where they are cut change the last bits. */
  readonly chunks: boolean;
}

/** What values that are kept as two of 16 bits lose, and sums in another order. */
const CHUNK_TOLERANCE = 4e-5;

export function stateCases(device: KernelDevice, { activations, chunks }: StateCaseOptions): void {
  const check = (bench: Workbench, op: Op, tolerance?: number) => checkOn(device, bench, op, tolerance);

  it('causal_conv: any width, with and without bias, over ragged batches', async () => {
    device.use();
    for (const [index, dtype] of [...WEIGHT_TYPES, ...WEIGHT_TYPES].entries()) {
      for (const [place, [width, groups, depth]] of CONVOLVED.entries()) {
        for (const batch of [BATCHES[2], BATCHES[[0, 1, 3][(index + place) % 3] ?? 0] ?? []]) {
          const bench = device.workbench(width + depth + index, index % 2 === 0);
          const { tables, tokens } = tablesOf(bench, batch);
          const activation = activations[index % activations.length] ?? 'f32';
          const x = grouped(bench, [tokens, groups, depth], activation);
          const out = grouped(bench, [tokens, groups, depth], activation);
          const channels = groups * depth;
          await check(bench, {
            op: 'causal_conv',
            out,
            x,
            weight: bench.weight(dtype, [channels, width]),
            bias: index % 3 === 0 ? null : bench.vector(dtype, channels),
            state: bench.activation([SLOTS, width - 1, channels]),
            tables,
            activation: index % 2 === 0 ? 'silu' : 'none',
          });
        }
      }
    }
  });

  it.each(['delta rule', 'plain'] as const)('state_scan: %s, over ragged batches', async (rule) => {
    device.use();
    for (const [index, [groups, count, depth, length]] of SCANNED.entries()) {
      // Each with the ragged one, and with one of the others.
      for (const batch of [BATCHES[2], BATCHES[[0, 1, 3][index % 3] ?? 0] ?? []]) {
        const bench = device.workbench(depth + length, index % 2 === 0);
        const { tables, tokens } = tablesOf(bench, batch);
        const dtype = WEIGHT_TYPES[index % WEIGHT_TYPES.length] ?? 'f32';
        const activation = activations[index % activations.length] ?? 'f32';
        const scanned = scanOf(bench, { tokens, groups, count, depth, length, dtype, activation });
        await check(bench, { ...scanned, ...RULES[rule](scanned), tables }, 1e-5);
      }
    }
  });

  it.each(['delta rule', 'plain'] as const)('state_scan: %s, prompts of many tokens', async (rule) => {
    device.use();
    for (const [index, [groups, count, depth, length]] of PROMPTED.entries()) {
      // Elsewhere they are as any others.
      if (!chunks && index !== 3) continue;
      const bench = device.workbench(depth + length, index === PROMPTED.length - 1);
      const { tables, tokens } = tablesOf(bench, PROMPTS);
      const dtype = WEIGHT_TYPES[index % WEIGHT_TYPES.length] ?? 'f32';
      const activation = activations[index % activations.length] ?? 'f32';
      const scanned = scanOf(bench, { tokens, groups, count, depth, length, dtype, activation });
      await check(bench, { ...scanned, ...RULES[rule](scanned), tables }, chunks ? CHUNK_TOLERANCE : 1e-5);
    }
  });

  it('state_scan: keys that repeat, and states that are kept whole or lost at once, over many tokens', async () => {
    device.use();
    const bench = device.workbench(5, false);
    const { tables, tokens } = tablesOf(bench, PROMPTS);
    const dims = {
      tokens,
      groups: 1,
      count: 4,
      depth: 64,
      length: 16,
      dtype: 'f32',
      activation: 'f32',
    } as const;
    const scanned = scanOf(bench, dims);
    const beta = bench.memory.fill(bench.activation([tokens, 1, 4]), (i) => (i % 3 ? 90 : -90));
    bench.memory.fill(scanned.k, (i) => (Math.floor(i / 64) % 5 === 0 ? bench.normal() : 1 + (i % 64)));
    bench.memory.fill(scanned.step, (i) => (Math.floor(i / 4) % 50 === 20 ? 500 : -1));
    bench.memory.fill(scanned.decay, (i) => [-90, 2, 0, -8][i] ?? 0);
    const tolerance = chunks ? CHUNK_TOLERANCE : 1e-5;
    await check(bench, { ...scanned, ...RULES['delta rule'](scanned), beta, tables }, tolerance);
    await check(bench, { ...scanned, ...RULES.plain(scanned), normEps: 1e-6, tables }, tolerance);
  });

  it('state_scan: the step keeps its limits, and a state without decay its size', async () => {
    device.use();
    const bench = device.workbench(1);
    const { tables, tokens } = tablesOf(bench, BATCHES[2]);
    const dims = {
      tokens,
      groups: 2,
      count: 4,
      depth: 24,
      length: 16,
      dtype: 'f32',
      activation: 'f32',
    } as const;
    const scanned = scanOf(bench, dims);
    bench.memory.fill(scanned.step, (i) => (i % 2 ? 90 : -90));
    bench.memory.fill(scanned.decay, (i) => [-90, 2, 0, -1][i] ?? 0);
    const limits = { minStep: 0.25, maxStep: 1.5, beta: null, normEps: 0 };
    await check(bench, { ...scanned, ...limits, tables }, 1e-5);
    await check(bench, { ...scanned, ...RULES['delta rule'](scanned), tables }, 1e-5);
  });

  it('a sequence that begins reads nothing of its slot, and NaN reaches no other', async () => {
    device.use();
    for (const rule of ['delta rule', 'plain'] as const) {
      const bench = device.workbench(3);
      const { tables, tokens } = tablesOf(bench, BATCHES[2]);
      const dims = {
        tokens,
        groups: 2,
        count: 4,
        depth: 40,
        length: 20,
        dtype: 'bf16',
        activation: 'f32',
      } as const;
      const scanned = scanOf(bench, dims);
      // Those that begin have slots of NaN; the token before the last of the batch's last sequence makes its own.
      const fresh = new Set(BATCHES[2].flatMap(([, before], s) => (before === 0 ? [slotOf(s)] : [])));
      const each = 4 * 40 * 20;
      bench.memory.fill(scanned.state, (i) =>
        fresh.has(Math.floor(i / each)) ? Number.NaN : bench.normal(),
      );
      bench.memory.fill(scanned.v, (i) => (i === (tokens - 2) * 80 + 3 ? Number.NaN : bench.normal()));
      await check(bench, { ...scanned, ...RULES[rule](scanned), tables }, 1e-5);
      const state = bench.memory.fill(bench.activation([SLOTS, 3, 20]), (i) =>
        fresh.has(Math.floor(i / 60)) ? Number.NaN : bench.normal(),
      );
      const [x, out] = [bench.activation([tokens, 1, 20]), bench.activation([tokens, 1, 20])];
      const conv = { op: 'causal_conv', x, out, bias: null, activation: 'none', tables, state } as const;
      await check(bench, { ...conv, weight: bench.weight('f32', [20, 4]) });
    }
  });

  it('the same bits, or nearly in chunks, wherever a prompt is cut, and whatever else is in the batch', async () => {
    const tokens = chunks ? 150 : 33;
    const bench = device.workbench(11);
    const dims = {
      tokens,
      groups: 2,
      count: 4,
      depth: 40,
      length: 24,
      dtype: 'bf16',
      activation: 'f32',
    } as const;
    const scanned = scanOf(bench, dims);
    const conv = {
      op: 'causal_conv',
      x: bench.activation([tokens, 2, 40]),
      out: bench.activation([tokens, 2, 40]),
      weight: bench.weight('bf16', [80, 4]),
      bias: bench.vector('f32', 80),
      state: bench.activation([SLOTS, 3, 80]),
      activation: 'silu',
    } as const;
    for (const op of [
      conv,
      { ...scanned, ...RULES['delta rule'](scanned) },
      { ...scanned, ...RULES.plain(scanned) },
    ]) {
      const slot = bench.index([2]);
      device.use(1);
      const whole = { sequences: bench.table([[0, tokens, tokens, 0]]), slots: slot };
      await device.run({ ...op, tables: whole }, bench);
      const [out, state] = [bench.memory.read(op.out), bench.memory.read(rowsOf(op.state, 2, 1))];
      device.use(2);
      for (const step of chunks ? [7, 33, 64, 77, tokens] : [1, 2, 7, 16, tokens]) {
        bench.memory.fill(op.out, () => 0);
        bench.memory.fill(op.state, () => Number.NaN);
        for (let start = 0; start < tokens; start += step) {
          const count = Math.min(step, tokens - start);
          // Beside it, its first token begins another sequence, before it and behind it in turns.
          const other = [start % 2 ? count : 0, 1, 1, 0];
          const own = [start % 2 ? 0 : 1, count, start + count, 0];
          const order = start % 2 ? [own, other] : [other, own];
          const tables = {
            sequences: bench.table(order),
            slots: bench.index(start % 2 ? [2, 5] : [5, 2]),
          };
          const rows = own[0] === 0 ? [...range(start, count), 0] : [0, ...range(start, count)];
          await device.run(packed(bench, { ...op, tables }, rows), bench);
          copyRows(bench, op.out, start, own[0] ?? 0, count);
        }
        // What else is in the batch never counts, and where a prompt is cut only in chunks.
        const tolerance = chunks && op.op === 'state_scan' && step < tokens ? CHUNK_TOLERANCE : 0;
        expectNear(bench.memory.read(op.out), out, tolerance, `${op.op} in steps of ${step}`);
        const states = bench.memory.read(rowsOf(op.state, 2, 1));
        expectNear(states, state, tolerance, `${op.op}'s state in steps of ${step}`);
      }
    }
  });

  it('gated_rms: a gate behind the norm or before it, with weights for one group or for all', async () => {
    device.use();
    for (const [index, dtype] of WEIGHT_TYPES.entries()) {
      for (const [shape, ofAll] of NORMED) {
        const bench = device.workbench(shape[0] + index, index % 2 === 0);
        const activation = activations[index % activations.length] ?? 'f32';
        const [length, groups] = [shape.at(-1) ?? 0, shape.at(-2) ?? 0];
        const weight = bench.vector(dtype, ofAll ? groups * length : length);
        const [x, gate] = [bench.activation(shape, 4, activation), bench.activation(shape, 4, activation)];
        const out = bench.activation(shape, 1, activation);
        for (const gateFirst of [false, true]) {
          await check(bench, { op: 'gated_rms', out, x, gate, weight, eps: 1e-6, gateFirst });
          // In place, as a forward may ask for.
          await check(bench, { op: 'gated_rms', out: x, x, gate, weight, eps: 1e-6, gateFirst });
        }
      }
    }
  });
}

/** @param tolerance as a share of the largest value */
function expectNear(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number, what: string): void {
  const [values, wanted] = [Array.from(got), Array.from(want)];
  if (tolerance === 0) {
    expect(values, what).toEqual(wanted);
    return;
  }
  const allowed = tolerance * Math.max(...wanted.map(Math.abs));
  const differences = values.map((value, i) => Math.abs(value - (wanted[i] ?? Number.NaN)));
  expect(
    differences.every((difference) => difference <= allowed),
    `${what}: ${Math.max(...differences)}`,
  ).toBe(true);
}

function range(start: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => start + i);
}

/** The operation on copies of some rows of its inputs, with results in the first rows of a new tensor. */
function packed(bench: Workbench, op: Op, rows: readonly number[]): Op {
  const copy = (tensor: Tensor): Tensor => {
    const [, ...inner] = tensor.shape;
    const all = bench.memory.read(tensor);
    const each = inner.reduce((product, size) => product * size, 1);
    const to = bench.activation([rows.length, ...inner], 1, tensor.dtype);
    return bench.memory.fill(to, (i) => all[(rows[Math.floor(i / each)] ?? 0) * each + (i % each)] ?? 0);
  };
  results = bench.activation([rows.length, ...('out' in op ? op.out.shape.slice(1) : [])]);
  if (op.op === 'causal_conv') return { ...op, x: copy(op.x), out: results };
  if (op.op !== 'state_scan') return op;
  const { q, k, v, step, beta } = op;
  return {
    ...op,
    q: copy(q),
    k: copy(k),
    v: copy(v),
    step: copy(step),
    beta: beta && copy(beta),
    out: results,
  };
}
let results: Tensor;

function copyRows(bench: Workbench, to: Tensor, start: number, from: number, count: number): void {
  const values = bench.memory.read(rowsOf(results, from, count));
  bench.memory.fill(rowsOf(to, start, count), (i) => values[i] ?? 0);
}
