// Drawing tokens: every filter against float64 with the same random bits, and the edges of each setting.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/native.js';
import type { SamplingTables, Tensor } from '../../offload/ops.js';
import { check, ISAS, rowsOf, run, type Workbench, workbench } from './workbench.js';

interface Row {
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly penalty?: number;
  readonly bits?: number;
  readonly history?: readonly number[];
}

const PLAIN: Row = { temperature: 1 };

function tablesOf(bench: Workbench, rows: readonly Row[]): SamplingTables {
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
  return {
    settings: bench.memory.fill(bench.memory.tensor('f32', [rows.length, 4]), (i) => settings[i] ?? 0),
    draws: bench.table(draws),
    history: bench.index(history),
  };
}

/** One draw per row from the same logits. */
async function draw(logits: readonly number[], rows: readonly Row[]): Promise<number[]> {
  const bench = workbench(1);
  const tensor = bench.memory.fill(
    bench.memory.tensor('f32', [rows.length, logits.length]),
    (i) => logits[i % logits.length] ?? 0,
  );
  const out = bench.index(rows.map(() => -1));
  await run({ op: 'sample', out, logits: tensor, tables: tablesOf(bench, rows) });
  return [...bench.memory.read(out)];
}

/** The k-th of `count` evenly spaced draws. */
const evenly = (count: number, row: Row): Row[] =>
  Array.from({ length: count }, (_, k) => ({ ...row, bits: Math.floor(((k + 0.5) / count) * 2 ** 32) }));

const shares = (drawn: readonly number[], tokens: number) =>
  Array.from({ length: tokens }, (_, token) => drawn.filter((one) => one === token).length / drawn.length);

for (const isa of ISAS) {
  const present = native().instructionSets().includes(isa);
  describe.skipIf(!present)(`sample with ${isa}`, () => {
    const use = (threads = 2) => native().configureCpu({ threads, isa });

    it('agrees with the reference in any mixture of settings', async () => {
      use();
      for (const columns of [1, 5, 37, 1000, 5000]) {
        const bench = workbench(columns);
        const logits = bench.activation([40, columns], 4);
        const rows = Array.from(
          { length: 40 },
          (): Row => ({
            temperature: bench.random() * 2 + 0.05,
            topK: bench.int(3) === 0 ? 0 : bench.int(60),
            topP: bench.int(3) === 0 ? 1 : bench.random(),
            minP: bench.int(2) === 0 ? 0 : bench.random() * 0.2,
            penalty: bench.int(2) === 0 ? 1 : 0.5 + bench.random(),
            bits: Math.floor(bench.random() * 2 ** 32),
            history: Array.from({ length: bench.int(20) }, () => bench.int(columns)),
          }),
        );
        const out = bench.index(rows.map(() => -1));
        await check(bench, { op: 'sample', out, logits, tables: tablesOf(bench, rows) }, 0);
        // Coarse values make ties.
        bench.memory.fill(logits, () => bench.int(5));
        await check(bench, { op: 'sample', out, logits, tables: tablesOf(bench, rows) }, 0);
      }
    });

    it('gives each token its share', async () => {
      use();
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
      use();
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
      use();
      const penalized = { penalty: 2, history: [0, 0, 1] };
      expect(await draw([3, 0, 1.6], [{ temperature: 0, ...penalized }])).toEqual([2]);
      expect(await draw([3, 0, 1.4], [{ temperature: 0, ...penalized }])).toEqual([0]);
      expect(await draw([-9, -2, -3.9], [{ temperature: 0, ...penalized }])).toEqual([2]);
      expect(await draw([-9, -2, -4.1], [{ temperature: 0, ...penalized }])).toEqual([1]);
    });

    it('logits that are no numbers give a token all the same', async () => {
      use();
      const [nan, infinity] = [Number.NaN, Number.POSITIVE_INFINITY];
      expect(new Set(await draw([nan, 1, -infinity, 1], evenly(50, PLAIN)))).toEqual(new Set([1, 3]));
      expect(new Set(await draw([infinity, 1, infinity], evenly(50, PLAIN)))).toEqual(new Set([0, 2]));
      expect(await draw([nan, nan, nan], [PLAIN])).toEqual([0]);
      expect(await draw([-infinity, -infinity], [{ ...PLAIN, topK: 1, topP: 0.5 }])).toEqual([0]);
      expect(await draw([nan, -1], [{ ...PLAIN, penalty: 3, history: [0] }])).toEqual([1]);
    });

    it('a row draws the same alone and among others', async () => {
      const bench = workbench(6);
      const logits = bench.activation([30, 3000], 3);
      const rows = evenly(30, { temperature: 0.8, topK: 50, topP: 0.9, penalty: 1.2, history: [3, 700] });
      const tables = tablesOf(bench, rows);
      const out = bench.index(rows.map(() => -1));
      use(2);
      await run({ op: 'sample', out, logits, tables });
      const together = bench.memory.read(out);
      bench.memory.fill(out, () => -1);
      use(1);
      for (let row = 0; row < rows.length; row++) {
        const part = (tensor: Tensor) => rowsOf(tensor, row, 1);
        const own = { ...tables, settings: part(tables.settings), draws: part(tables.draws) };
        await run({ op: 'sample', out: part(out), logits: part(logits), tables: own });
      }
      expect(bench.memory.read(out)).toEqual(together);
    });

    it('tables that point beyond the history or the vocabulary end the operation', async () => {
      use();
      const bench = workbench(2);
      const [logits, out] = [bench.activation([1, 4]), bench.index([0])];
      const good = tablesOf(bench, [{ ...PLAIN, history: [1, 2] }]);
      const broken = async (tables: SamplingTables) => {
        const stream = native().createStream('sample');
        stream.launch(encodeOp({ op: 'sample', out, logits, tables }));
        await stream
          .record()
          .promise()
          .finally(() => stream.close());
      };
      await expect(broken({ ...good, draws: bench.table([[0, 0, 1, 2]]) })).rejects.toThrow('from 1 to 3');
      await expect(broken({ ...good, history: bench.index([1, 4]) })).rejects.toThrow('token 4 at 1');
    });
  });
}
