// Cases for any device of entries of runs of tokens, attention over a window and these, and a residual of several streams: ragged
// batches, sequences that begin and that go on in the middle of a run; and the same bits wherever a prompt is cut.

import { expect, it } from 'vitest';
import type { DType } from '../../offload/port/dtype.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { SLOTS, slotOf, tablesOf } from './state-operands.js';
import { check as checkOn, type KernelDevice, rowsOf, WEIGHT_TYPES, type Workbench } from './workbench.js';

type OpOf<Name extends Op['op']> = Extract<Op, { op: Name }>;

/** [tokens, positions before them] of each sequence. */
const BATCHES = [
  [[1, 0]],
  [[1, 11]],
  [
    [1, 4],
    [7, 0],
    [1, 0],
    [2, 5],
    [13, 3],
    [1, 7],
  ],
  [
    [19, 0],
    [0, 3],
    [3, 1],
    [9, 6],
  ],
] as const;
/** Tokens of a run, series, values of an entry, pairs that turn. */
const COMPRESSED = [
  [4, 2, 40, 8],
  [8, 1, 40, 20],
  [1, 1, 7, 0],
  [2, 2, 130, 3],
  [3, 1, 513, 32],
  [16, 2, 1, 0],
] as const;
/** Heads, values of a head, positions of the window, tokens of a run; 0 without entries. */
const WINDOWS = [
  [1, 1, 1, 0],
  [4, 16, 8, 2],
  [3, 70, 5, 0],
  [17, 128, 16, 4],
  [2, 130, 33, 3],
  [5, 512, 3, 1],
] as const;
const MOST_TOKENS = 24;

export function compressedCases(
  device: KernelDevice,
  { activations }: { readonly activations: readonly DType[] },
): void {
  const check = (bench: Workbench, op: Op, tolerance?: number) => checkOn(device, bench, op, tolerance);
  const batchesOf = (index: number) => [BATCHES[2], BATCHES[[0, 1, 3][index % 3] ?? 0] ?? []] as const;

  it('compress: runs of any length in one series or two, over ragged batches', async () => {
    device.use();
    for (const [index, dims] of [...COMPRESSED, ...COMPRESSED].entries()) {
      for (const batch of batchesOf(index)) {
        const bench = device.workbench(index, index % 2 === 0);
        const { tables, tokens } = tablesOf(bench, batch);
        const op = compressOf(bench, { dims, tokens, dtype: WEIGHT_TYPES[index % 3] ?? 'f32' });
        keepPossible(bench, op, batch);
        await check(bench, { ...op, tables }, 2e-5);
      }
    }
  });

  it('window_attention: with and without entries and sinks, over ragged batches', async () => {
    device.use();
    for (const [index, dims] of [...WINDOWS, ...WINDOWS].entries()) {
      for (const batch of batchesOf(index)) {
        const bench = device.workbench(index + 50, index % 2 === 0);
        const { tables, tokens } = tablesOf(bench, batch);
        const op = attentionOf(bench, dims, tokens, activations[index % activations.length]);
        const sinks = index % 3 === 0 ? null : bench.vector(WEIGHT_TYPES[index % 3] ?? 'f32', dims[0]);
        await check(bench, { ...op, sinks, tables }, 2e-5);
      }
    }
  });

  it('window_attention: so many tokens and heads that none shares its keys with other threads', async () => {
    device.use();
    const batch = [
      [24, 0],
      [24, 0],
      [23, 1],
    ] as const;
    const bench = device.workbench(12, false);
    const { tables, tokens } = tablesOf(bench, batch);
    const op = attentionOf(bench, [128, 8, 5, 8], tokens);
    await check(bench, { ...op, sinks: bench.vector('f32', 128), tables }, 2e-5);
  });

  it('window_attention: what no token may see reaches nobody', async () => {
    device.use();
    const bench = device.workbench(9);
    const { tables, tokens } = tablesOf(bench, BATCHES[2]);
    const op = attentionOf(bench, [2, 40, 16, 4], tokens);
    // Positions and entries that the slot's sequence does not have; NaN in every slot that is nobody's.
    const hide = (tensor: Tensor | null, count: (tokens: number, before: number) => number) => {
      const [, rows = 0, depth = 0] = tensor?.shape ?? [];
      const seen = new Map(BATCHES[2].map(([added, before], s) => [slotOf(s), count(added, before)]));
      const isSeen = (row: number) => row % rows < (seen.get(Math.floor(row / rows)) ?? 0);
      if (tensor)
        bench.memory.fill(tensor, (i) => (isSeen(Math.floor(i / depth)) ? bench.normal() : Number.NaN));
    };
    hide(op.window, (_, before) => before);
    hide(op.entries, (added, before) => Math.floor((added + before) / 4));
    await check(bench, { ...op, tables }, 2e-5);
  });

  it('the same bits wherever a prompt is cut, and with any number of threads', async () => {
    const tokens = MOST_TOKENS;
    const bench = device.workbench(21);
    for (const dims of [COMPRESSED[0], COMPRESSED[1]]) {
      const op = compressOf(bench, { dims, tokens, dtype: 'bf16' });
      await expectSameBits(device, bench, op, ['entries', 'state']);
    }
    for (const dims of [WINDOWS[1], WINDOWS[3]]) {
      const op = attentionOf(bench, dims, tokens);
      await expectSameBits(device, bench, { ...op, sinks: bench.vector('f32', dims[0]) }, ['out', 'window']);
    }
  });

  it.each([1, 2, 3, 4, 8])('hyper_weights and hyper_mix: %d streams', async (streams) => {
    device.use();
    for (const [index, dtype] of WEIGHT_TYPES.entries()) {
      const bench = device.workbench(streams + index, index % 2 === 0);
      const tokens = 1 + index * 5;
      for (const writes of [true, false]) {
        const count = writes ? (2 + streams) * streams : streams;
        await check(bench, {
          op: 'hyper_weights',
          gather: bench.activation([tokens, streams]),
          spread: writes ? bench.activation([tokens, streams]) : null,
          mix: writes ? bench.activation([tokens, streams, streams]) : null,
          logits: bench.activation([tokens, count], 4),
          base: bench.vector(dtype, count),
          scale: bench.vector(dtype, writes ? 3 : 1),
          iterations: [1, 3, 20][index] ?? 1,
          eps: 1e-6,
        });
      }
      for (const length of [1, 40, 333]) {
        await check(bench, {
          op: 'hyper_mix',
          x: bench.activation([tokens, streams, length]),
          y: bench.activation([tokens, length]),
          spread: bench.activation([tokens, streams]),
          mix: bench.activation([tokens, streams, streams]),
        });
      }
    }
  });
}

type Compress = OpOf<'compress'>;
type Attend = OpOf<'window_attention'>;

function compressOf(
  bench: Workbench,
  given: {
    readonly dims: readonly [number, number, number, number];
    readonly tokens: number;
    readonly dtype: DType;
  },
): Omit<Compress, 'tables'> {
  const { dims, tokens, dtype } = given;
  const [ratio, series, depth, pairs] = dims;
  return {
    op: 'compress',
    entries: bench.activation([SLOTS, Math.ceil((MOST_TOKENS + 1) / ratio), depth]),
    values: bench.activation([tokens, series, depth]),
    gates: bench.activation([tokens, series, depth], 3),
    bias: bench.weight(dtype, [ratio, series * depth]),
    norm: bench.vector(dtype, depth),
    inverseFrequencies: bench.activation([pairs]),
    state: bench.activation([SLOTS, series, 3, depth]),
    eps: 1e-6,
    rotaryScale: 1.25,
  };
}

/** Sums of weights are positive, and nothing has been seen of a run that has not begun. */
function keepPossible(
  bench: Workbench,
  { state, bias }: Pick<Compress, 'state' | 'bias'>,
  batch: readonly (readonly [number, number])[],
): void {
  const [, series = 0, , depth = 0] = state.shape;
  const ratio = bias.shape[0] ?? 1;
  const atStart = new Set(batch.flatMap(([, before], s) => (before % ratio === 0 ? [slotOf(s)] : [])));
  bench.memory.fill(state, (i) => {
    const [which, part] = [Math.floor(i / depth) % 3, Math.floor(i / (3 * depth)) % series];
    if (part === series - 1 && atStart.has(Math.floor(i / (3 * depth * series))))
      return [Number.NEGATIVE_INFINITY, 0, 0][which] ?? 0;
    return which === 1 ? 0.5 + Math.abs(bench.normal()) : bench.normal();
  });
}

function attentionOf(
  bench: Workbench,
  dims: readonly [number, number, number, number],
  tokens: number,
  dtype: DType = 'f32',
): Omit<Attend, 'tables'> {
  const [count, depth, windowTokens, ratio] = dims;
  return {
    op: 'window_attention',
    out: bench.activation([tokens, count, depth], 1, dtype),
    q: bench.activation([tokens, count, depth], 2, dtype),
    k: bench.activation([tokens, depth]),
    window: bench.activation([SLOTS, windowTokens, depth]),
    entries: ratio === 0 ? null : bench.activation([SLOTS, Math.ceil((MOST_TOKENS + 1) / ratio), depth]),
    sinks: null,
    ratio: Math.max(1, ratio),
    scale: 0.5,
  };
}

/** Runs one sequence at once, then in steps, and compares those tensors. */
async function expectSameBits(
  device: KernelDevice,
  bench: Workbench,
  op: Omit<Compress, 'tables'> | Omit<Attend, 'tables'>,
  written: readonly string[],
): Promise<void> {
  const slots = bench.index([2]);
  const results = (of: typeof op) =>
    Object.entries(of).flatMap(([name, tensor]) =>
      written.includes(name)
        ? [bench.memory.read(name === 'out' ? (tensor as Tensor) : rowsOf(tensor as Tensor, 2, 1))]
        : [],
    );
  const tablesFor = (start: number, count: number) => ({
    sequences: bench.table([[0, count, start + count, 0]]),
    slots,
  });
  const forget = () => {
    for (const [name, tensor] of Object.entries(op))
      if (written.includes(name)) bench.memory.fill(tensor as Tensor, () => Number.NaN);
  };
  device.use(1);
  forget();
  await device.run({ ...op, tables: tablesFor(0, MOST_TOKENS) }, bench);
  const whole = results(op);
  expect(whole).toHaveLength(written.length);
  device.use(2);
  for (const step of [1, 3, 7]) {
    forget();
    for (let start = 0; start < MOST_TOKENS; start += step) {
      const count = Math.min(step, MOST_TOKENS - start);
      const some = (tensor: Tensor) => rowsOf(tensor, start, count);
      const tables = tablesFor(start, count);
      await device.run(
        op.op === 'compress'
          ? { ...op, values: some(op.values), gates: some(op.gates), tables }
          : { ...op, q: some(op.q), k: some(op.k), out: some(op.out), tables },
        bench,
      );
    }
    expect(results(op), `${op.op} in steps of ${step}`).toEqual(whole);
  }
}
