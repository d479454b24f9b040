// Cases of drawing tokens for any device: every filter against float64 with the same random bits, and their edges.

import { expect, it } from 'vitest';
import {
  type AddedLogits,
  type AllowedTokens,
  NO_TOKEN,
  type SamplingTables,
  type Tensor,
} from '../../offload/port/ops.js';
import { check, type KernelDevice, rowsOf, type Workbench } from './workbench.js';

export interface Row {
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly penalty?: number;
  readonly bits?: number;
  readonly history?: readonly number[];
  /** By token; default nothing. */
  readonly added?: Readonly<Record<number, number>> | undefined;
  /** Default all. */
  readonly allowed?: readonly number[] | undefined;
}

export const PLAIN: Row = { temperature: 1 };

/** Masks lie in another order than rows, and some are nobody's. */
function masksOf(bench: Workbench, rows: readonly Row[], vocabulary: number): AllowedTokens {
  const words = Math.ceil(vocabulary / 32);
  const masks: number[][] = [Array.from({ length: words }, () => 0)];
  const maskOf = rows.map(({ allowed }) => {
    if (!allowed) return -1;
    // Bits beyond the vocabulary say nothing.
    const mask = Array.from({ length: words }, (_, word) => (word === words - 1 ? beyond(vocabulary) : 0));
    for (const token of allowed) mask[token >> 5] = (mask[token >> 5] ?? 0) | (1 << (token & 31));
    masks.unshift(mask);
    return masks.length;
  });
  return {
    maskOf: bench.index(maskOf.map((place) => (place < 0 ? -1 : masks.length - place))),
    masks: bench.table(masks),
  };
}

function beyond(vocabulary: number): number {
  return vocabulary % 32 === 0 ? 0 : -1 << (vocabulary % 32);
}

/** Entries lie in another order than rows, and some are nobody's. */
function addedOf(bench: Workbench, rows: readonly Row[]): AddedLogits {
  const entries: [number, number][] = [[0, 1000]];
  const entriesOf = rows.toReversed().map(({ added = {} }) => {
    const own = Object.entries(added).map(([token, value]): [number, number] => [Number(token), value]);
    entries.push(...own);
    return [entries.length - own.length, own.length];
  });
  const values = bench.memory.tensor('f32', [entries.length]);
  return {
    entriesOf: bench.table(entriesOf.toReversed()),
    tokens: bench.index(entries.map(([token]) => token)),
    values: bench.memory.fill(values, (i) => entries[i]?.[1] ?? 0),
  };
}

/** @param vocabulary needed where some rows have masks */
export function tablesOf(bench: Workbench, rows: readonly Row[], vocabulary?: number): SamplingTables {
  const history: number[] = [];
  const draws = rows.map(({ topK = 0, bits = 0, history: own = [] }) => {
    history.push(...own);
    return [topK, bits | 0, history.length - own.length, own.length];
  });
  const settings = rows.flatMap(({ temperature, topP = 1, minP = 0, penalty = 1 }) => [
    temperature,
    topP,
    minP,
    penalty,
  ]);
  const columns = vocabulary ?? 0;
  return {
    ...(rows.some(({ added }) => added) ? { added: addedOf(bench, rows) } : {}),
    ...(rows.some(({ allowed }) => allowed) ? { allowed: masksOf(bench, rows, columns) } : {}),
    settings: bench.memory.fill(bench.memory.tensor('f32', [rows.length, 4]), (i) => settings[i] ?? 0),
    draws: bench.table(draws),
    history: bench.index(history),
  };
}

/** One draw per row from the same logits. */
async function drawOn(
  device: KernelDevice,
  logits: readonly number[],
  rows: readonly Row[],
): Promise<number[]> {
  const bench = device.workbench(1);
  const tensor = bench.memory.fill(
    bench.memory.tensor('f32', [rows.length, logits.length]),
    (i) => logits[i % logits.length] ?? 0,
  );
  const out = bench.index(rows.map(() => -1));
  await device.run(
    { op: 'sample', out, logits: tensor, tables: tablesOf(bench, rows, logits.length) },
    bench,
  );
  return [...bench.memory.read(out)];
}

/** The k-th of `count` evenly spaced draws. */
const evenly = (count: number, row: Row): Row[] =>
  Array.from({ length: count }, (_, k) => ({ ...row, bits: Math.floor(((k + 0.5) / count) * 2 ** 32) }));

const shares = (drawn: readonly number[], tokens: number) =>
  Array.from({ length: tokens }, (_, token) => drawn.filter((one) => one === token).length / drawn.length);

function manyAdded(bench: Workbench, columns: number): Record<number, number> {
  return Object.fromEntries(Array.from({ length: 30 }, () => [bench.int(columns), 4 * bench.random() - 2]));
}

export function sampleCases(device: KernelDevice): void {
  const draw = (logits: readonly number[], rows: readonly Row[]) => drawOn(device, logits, rows);

  it('agrees with the reference in any mixture of settings', async () => {
    device.use();
    // GPUs take 4096 tokens at once.
    for (const columns of [1, 5, 37, 1000, 4097]) {
      const bench = device.workbench(columns);
      const logits = bench.activation([40, columns], 4);
      const rows = Array.from(
        { length: 40 },
        (): Row => ({
          temperature: bench.int(8) === 0 ? 0 : bench.random() * 2 + 0.05,
          topK: [0, bench.int(60), bench.int(60), columns - bench.int(2)][bench.int(4)] ?? 0,
          topP: bench.int(3) === 0 ? 1 : bench.random(),
          minP: bench.int(2) === 0 ? 0 : bench.random() * 0.2,
          penalty: bench.int(2) === 0 ? 1 : 0.5 + bench.random(),
          bits: Math.floor(bench.random() * 2 ** 32),
          history: Array.from({ length: bench.int(20) }, () => bench.int(columns)),
          added: [undefined, { 0: -3, [columns - 1]: 1.5 }, manyAdded(bench, columns)][bench.int(3)],
          allowed: [
            undefined,
            [bench.int(columns)],
            Array.from({ length: 20 }, () => bench.int(columns)),
            Array.from({ length: columns }, (_, token) => token).filter(
              () => bench.int(4) > 0 || columns < 5,
            ),
          ][bench.int(4)],
        }),
      );
      const out = bench.index(rows.map(() => -1));
      await check(device, bench, { op: 'sample', out, logits, tables: tablesOf(bench, rows, columns) }, 0);
      // Coarse values make ties.
      bench.memory.fill(logits, () => bench.int(5));
      await check(device, bench, { op: 'sample', out, logits, tables: tablesOf(bench, rows, columns) }, 0);
    }
  });

  it('gives each token its share', async () => {
    device.use();
    const logits = [0.1, 0.2, 0.3, 0.4].map(Math.log);
    const within = (drawn: number[], expected: readonly number[]) =>
      shares(drawn, 4).forEach((share, token) => {
        expect(share).toBeCloseTo(expected[token] ?? 0, 2);
      });
    within(await draw(logits, evenly(1000, PLAIN)), [0.1, 0.2, 0.3, 0.4]);
    const squares = [1, 4, 9, 16].map((square) => square / 30);
    within(await draw(logits, evenly(1000, { temperature: 0.5 })), squares);
    within(await draw(logits, evenly(1000, { ...PLAIN, topK: 2 })), [0, 0, 3 / 7, 4 / 7]);
    within(await draw(logits, evenly(1000, { ...PLAIN, topP: 0.69 })), [0, 0, 3 / 7, 4 / 7]);
    within(await draw(logits, evenly(1000, { ...PLAIN, topP: 0.71 })), [0, 2 / 9, 3 / 9, 4 / 9]);
    within(await draw(logits, evenly(1000, { ...PLAIN, minP: 0.6 })), [0, 0, 3 / 7, 4 / 7]);
    // After top-k the shares are 3/7 and 4/7, of which the larger reaches 0.5 alone.
    within(await draw(logits, evenly(1000, { ...PLAIN, topK: 2, topP: 0.5 })), [0, 0, 0, 1]);
  });

  it('edges: no filter, one token, a cold or a hot temperature', async () => {
    device.use();
    const logits = [1, 3, 2, 3];
    const all = [...new Set(await draw(logits, evenly(50, PLAIN)))].sort();
    expect(all).toEqual([0, 1, 2, 3]);
    expect(new Set(await draw(logits, evenly(50, { ...PLAIN, topK: 9, topP: 1 })))).toEqual(new Set(all));
    // Both that equal the k-th stay, as in transformers.
    expect(new Set(await draw(logits, evenly(50, { ...PLAIN, topK: 1 })))).toEqual(new Set([1, 3]));
    expect(new Set(await draw(logits, evenly(50, { ...PLAIN, topP: 0 })))).toEqual(new Set([1]));
    expect(new Set(await draw(logits, evenly(50, { ...PLAIN, minP: 1 })))).toEqual(new Set([1, 3]));
    expect(new Set(await draw([1, 3, 2], evenly(50, { temperature: 1e-30 })))).toEqual(new Set([1]));
    expect(await draw(logits, [{ temperature: 0 }])).toEqual([1]);
    const hot = shares(await draw(logits, evenly(400, { temperature: 1e30 })), 4);
    for (const share of hot) expect(share).toBeCloseTo(0.25, 2);
    expect(await draw([-5], evenly(3, PLAIN))).toEqual([0, 0, 0]);
    expect(
      await draw(logits, [
        { ...PLAIN, bits: 0 },
        { ...PLAIN, bits: 2 ** 32 - 1 },
      ]),
    ).toEqual([0, 3]);
  });

  it('the penalty divides positive logits and multiplies negative ones, once each', async () => {
    device.use();
    const penalized = { penalty: 2, history: [0, 0, 1] };
    expect(await draw([3, 0, 1.6], [{ temperature: 0, ...penalized }])).toEqual([2]);
    expect(await draw([3, 0, 1.4], [{ temperature: 0, ...penalized }])).toEqual([0]);
    expect(await draw([-9, -2, -3.9], [{ temperature: 0, ...penalized }])).toEqual([2]);
    expect(await draw([-9, -2, -4.1], [{ temperature: 0, ...penalized }])).toEqual([1]);
  });

  it("what is said of single tokens is added behind the penalty, to a row's own logits", async () => {
    device.use();
    const likeliest = { temperature: 0 };
    const rows = [
      { ...likeliest, added: { 1: 2.5 } },
      likeliest,
      { ...likeliest, added: { 0: -100, 2: -4 } },
    ];
    expect(await draw([3, 1, 2], rows)).toEqual([1, 0, 1]);
    const penalized = { ...likeliest, penalty: 2, history: [0] };
    expect(await draw([4, 3, 0], [{ ...penalized, added: { 0: 0.9 } }])).toEqual([1]);
    expect(await draw([4, 3, 0], [{ ...penalized, added: { 0: 1.1 } }])).toEqual([0]);
    expect(await draw([4, 3, 0], [{ ...likeliest, allowed: [0, 2], added: { 1: 100 } }])).toEqual([0]);
    const halved = shares(await draw([0, 0], evenly(900, { ...PLAIN, added: { 1: Math.log(2) } })), 2);
    expect(halved[0]).toBeCloseTo(1 / 3, 2);
  });

  it('a row with a logit that is no finite number gives no token, and the others theirs', async () => {
    device.use();
    const rows = [PLAIN, { temperature: 0 }, { ...PLAIN, topK: 1 }, { ...PLAIN, penalty: 3, history: [0] }];
    const tokens = 37;
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const at of [0, 8, 31, tokens - 1]) {
        const logits = Array.from({ length: tokens }, (_, token) => (token === at ? value : token % 5));
        expect(await draw(logits, rows)).toEqual(rows.map(() => NO_TOKEN));
      }
    }
    const bench = device.workbench(4);
    const logits = bench.activation([3, tokens]);
    bench.memory.fill(logits, (i) => (i === tokens + 5 ? Number.NaN : i % tokens));
    const out = bench.index([7, 7, 7]);
    const likeliest = { temperature: 0 };
    const tables = tablesOf(bench, [likeliest, likeliest, likeliest]);
    await device.run({ op: 'sample', out, logits, tables }, bench);
    expect([...bench.memory.read(out)]).toEqual([tokens - 1, NO_TOKEN, tokens - 1]);
  });

  it('a penalty may take logits beyond all numbers', async () => {
    device.use();
    const most = 3e38;
    const divided = { ...PLAIN, penalty: 0.1, history: [0, 2] };
    expect(new Set(await draw([most, 1, most], evenly(50, divided)))).toEqual(new Set([0, 2]));
    const multiplied = { ...PLAIN, penalty: 10, history: [0, 2] };
    expect(new Set(await draw([-most, 1, -most], evenly(50, multiplied)))).toEqual(new Set([1]));
    expect(await draw([-most, -most], [{ ...multiplied, history: [0, 1] }])).toEqual([0]);
  });

  it('draws nothing but what may be, whatever else decides', async () => {
    device.use();
    const tokens = 70;
    const logits = Array.from({ length: tokens }, (_, token) => token / 4);
    const drawn = async (row: Partial<Row>) => [
      ...new Set(await draw(logits, evenly(60, { ...PLAIN, ...row }))),
    ];
    const allowed = [2, 33, 64];
    expect(await drawn({ temperature: 0, allowed })).toEqual([64]);
    expect((await drawn({ temperature: 1e30, allowed })).sort((a, b) => a - b)).toEqual(allowed);
    expect(await drawn({ temperature: 1e30, allowed, topK: 2 })).toEqual([33, 64]);
    expect(await drawn({ temperature: 1e30, allowed, topK: 9, topP: 0.3 })).toEqual([64]);
    expect(await drawn({ allowed: [5], topP: 0, minP: 1 })).toEqual([5]);
    expect(await drawn({ temperature: 0, allowed, penalty: 100, history: [64, 69] })).toEqual([33]);
    // A row's mask is its own, and leaves what is no finite number to be found.
    expect(await draw(logits, [{ temperature: 0, allowed: [3] }, { temperature: 0 }])).toEqual([3, 69]);
    const broken = logits.map((logit, token) => (token === 50 ? Number.NaN : logit));
    expect(await draw(broken, [{ temperature: 0, allowed: [3] }])).toEqual([NO_TOKEN]);
  });

  it('a row draws the same alone and among others', async () => {
    const bench = device.workbench(6);
    const logits = bench.activation([30, 3000], 3);
    const rows = evenly(30, { temperature: 0.8, topK: 50, topP: 0.9, penalty: 1.2, history: [3, 700] });
    const tables = tablesOf(bench, rows);
    const out = bench.index(rows.map(() => -1));
    device.use(2);
    await device.run({ op: 'sample', out, logits, tables }, bench);
    const together = bench.memory.read(out);
    bench.memory.fill(out, () => -1);
    device.use(1);
    for (let row = 0; row < rows.length; row++) {
      const part = (tensor: Tensor) => rowsOf(tensor, row, 1);
      const own = { ...tables, settings: part(tables.settings), draws: part(tables.draws) };
      await device.run({ op: 'sample', out: part(out), logits: part(logits), tables: own }, bench);
    }
    expect(bench.memory.read(out)).toEqual(together);
  });

  it('many rows draw what each draws alone', async () => {
    const [rowCount, columns] = [300, 16_385];
    const bench = device.workbench(7);
    const all = bench.activation([1, rowCount + columns], 3);
    // Each row begins a token after the row before it.
    const logits: Tensor = { ...all, shape: [rowCount, columns], strides: [1, 1] };
    const filters: readonly Partial<Row>[] = [
      {},
      { topK: 20 },
      { topP: 0.9 },
      { topK: 50, topP: 0.8, minP: 0.01 },
      { temperature: 0 },
    ];
    const rows = evenly(rowCount, PLAIN).map((row, r) => ({ ...row, ...filters[r % filters.length] }));
    const tables = tablesOf(bench, rows);
    const out = bench.index(rows.map(() => -1));
    device.use(2);
    await device.run({ op: 'sample', out, logits, tables }, bench);
    const together = bench.memory.read(out);
    for (const row of [0, 1, 62, 143, 198, 299]) {
      const part = (tensor: Tensor) => rowsOf(tensor, row, 1);
      const own = { ...tables, settings: part(tables.settings), draws: part(tables.draws) };
      const alone = bench.index([-1]);
      await device.run({ op: 'sample', out: alone, logits: part(logits), tables: own }, bench);
      expect([...bench.memory.read(alone)]).toEqual([together[row]]);
    }
  });

  it('among equal logits the lowest tokens stay, wherever the row is cut into parts', async () => {
    device.use();
    const high = Array.from({ length: 16 }, (_, i) => 4090 + i);
    const logits = Array.from({ length: 9000 }, (_, token) => (high.includes(token) ? 10 : -10));
    const drawn = async (row: Partial<Row>) => [
      ...new Set(await draw(logits, evenly(40, { ...PLAIN, ...row }))),
    ];
    expect(await drawn({ topK: 16, topP: 0.5 })).toEqual(high.slice(0, 8));
    expect(await drawn({ topK: 3, topP: 0.25 })).toEqual(high.slice(0, 4));
    // A little more than half of the sixteen, because all others weigh something.
    expect(await drawn({ topP: 0.5 })).toEqual(high.slice(0, 9));
    expect(await drawn({ topP: 1e-9 })).toEqual(high.slice(0, 1));
    expect(await drawn({ topK: 5 })).toEqual(high);
    expect(await drawn({ topK: 9000, minP: 0.5 })).toEqual(high);
    expect(await drawn({ topK: 8999, topP: 0.999 })).toEqual(high);
  });

  it('a million equal tokens', async () => {
    device.use();
    const tokens = 2 ** 20;
    const last = 2 ** 32 - 1;
    const logits = Array.from({ length: tokens }, () => 2.5);
    expect(
      await draw(logits, [
        { ...PLAIN, bits: 5 * 2 ** 12 },
        { ...PLAIN, topK: 3, bits: last },
        { ...PLAIN, topP: 0.25, bits: last },
      ]),
    ).toEqual([5, tokens - 1, tokens / 4 - 1]);
  });

  it('rows with settings of their own side by side: each filter alone leaves the likeliest', async () => {
    device.use();
    const rows: Row[] = [
      { temperature: 1, topP: 0 },
      { temperature: 1, topK: 1, bits: 2 ** 32 - 1 },
      { temperature: 1e-30 },
      { temperature: 0 },
    ];
    expect(await draw([1, 3, 2, 3], rows)).toEqual([1, 3, 1, 1]);
  });
}
