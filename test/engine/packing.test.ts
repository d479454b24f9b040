// Cutting sequences into passes and micro-batches: nothing lost, nothing reordered, no size exceeded.

import { describe, expect, it } from 'vitest';
import { PAGE_TOKENS, pagesFor, tokenCount } from '../../offload/index.js';
import {
  type Feed,
  fillPass,
  inTurn,
  type PackedPass,
  packPass,
  passesToFeed,
} from '../../src/engine/packing.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const lengths = [1, 40, 7, 16, 129, 3, 64];

function sequences(): { name: number; tokens: Int32Array; pages: number[] }[] {
  return lengths.map((length, name) => ({
    name,
    tokens: Int32Array.from({ length }, (_, index) => name * 1000 + index),
    pages: Array.from({ length: pagesFor(length) }, (_, index) => name * 100 + index),
  }));
}

describe.each([
  { microBatchTokens: 1, microBatchSequences: 1, passTokens: 1 },
  { microBatchTokens: 16, microBatchSequences: 2, passTokens: 48 },
  { microBatchTokens: 64, microBatchSequences: 64, passTokens: 4096 },
  { microBatchTokens: 7, microBatchSequences: 3, passTokens: 1000 },
])('micro-batches of $microBatchTokens tokens, passes of $passTokens', (plan) => {
  const all = sequences();
  const fed = all.map(() => 0);
  const passes: PackedPass<number>[] = [];
  const feeds = () =>
    all.flatMap(({ name, tokens, pages }): Feed<number>[] => {
      const start = fed[name] ?? 0;
      return start === tokens.length
        ? []
        : [{ sequence: name, tokens: tokens.subarray(start), start, pages }];
    });
  for (let next = feeds(); next.length > 0; next = feeds()) {
    const work = fillPass(next, plan);
    for (const { sequence, slice } of work) fed[sequence] = slice.startPosition + slice.tokens.length;
    passes.push(packPass(work, plan));
  }
  const microBatches = passes.flatMap((pass) => pass.microBatches);

  it('keeps every token of every sequence in order', () => {
    const seen = microBatches.flatMap(({ slices }) => slices.flatMap(({ tokens }) => [...tokens]));
    expect(seen).toEqual(all.flatMap(({ tokens }) => [...tokens]));
  });

  it('exceeds no size', () => {
    for (const pass of passes) {
      const tokens = pass.microBatches.reduce((sum, microBatch) => sum + tokenCount(microBatch), 0);
      expect(tokens).toBeLessThanOrEqual(plan.passTokens);
    }
    for (const microBatch of microBatches) {
      expect(tokenCount(microBatch)).toBeLessThanOrEqual(plan.microBatchTokens);
      expect(microBatch.slices.length).toBeLessThanOrEqual(plan.microBatchSequences);
    }
  });

  it('asks for one output per sequence, of its last token', () => {
    const outputs = passes.flatMap((pass) => {
      const tokens = pass.microBatches.map(({ slices }) => slices.flatMap((slice) => [...slice.tokens]));
      return pass.microBatches.flatMap(({ outputs: wanted }, index) =>
        [...wanted].map((at) => tokens[index]?.[at]),
      );
    });
    expect(outputs).toEqual(all.map(({ tokens }) => tokens.at(-1)));
    expect(passes.flatMap(({ outputsOf }) => outputsOf)).toEqual(all.map(({ name }) => name));
  });

  it('gives each slice the position and pages of its sequence', () => {
    for (const { slices } of microBatches) {
      for (const slice of slices) {
        const first = slice.tokens[0] ?? -1;
        expect(slice.startPosition).toBe(first % 1000);
        expect(slice.pages.length * PAGE_TOKENS).toBeGreaterThanOrEqual(
          slice.startPosition + slice.tokens.length,
        );
      }
    }
  });
});

it('targets follow their outputs', () => {
  const plan = { microBatchTokens: 5, microBatchSequences: 9, passTokens: 100 };
  const tokens = Int32Array.of(1, 2, 3, 4, 5, 6, 7);
  const targets = tokens.map((token) => token + 1);
  const feed = { sequence: 'text', tokens, start: 0, pages: [0], outputs: 'all', targets } as const;
  const { microBatches } = packPass(fillPass([feed], plan), plan);
  expect(microBatches.map((one) => [...(one.targets ?? [])])).toEqual([
    [2, 3, 4, 5, 6],
    [7, 8],
  ]);
});

describe('a sequence whose first pages another one fills', () => {
  const plan = { microBatchTokens: 16, microBatchSequences: 9, passTokens: 40 };
  const feed = (sequence: string, start: number, length: number) => ({
    sequence,
    tokens: new Int32Array(length),
    start,
    pages: [],
  });

  it('begins in the same pass, in a later micro-batch', () => {
    const first = feed('first', 0, 20);
    const second = { ...feed('second', 16, 3), after: { sequence: 'first', position: 16 } };
    const third = { ...feed('third', 16, 2), after: { sequence: 'first', position: 16 } };
    const { microBatches } = packPass(fillPass([first, second, third], plan), plan);
    const sizes = microBatches.map(({ slices }) => slices.map(({ tokens }) => tokens.length));
    expect(sizes).toEqual([[16], [4], [3, 2]]);
  });

  it('waits for a pass in which the other comes so far', () => {
    const first = feed('first', 0, 90);
    const second = { ...feed('second', 64, 3), after: { sequence: 'first', position: 64 } };
    expect(fillPass([first, second], plan).map(({ sequence }) => sequence)).not.toContain('second');
    expect(fillPass([second, feed('other', 0, 1)], plan).map(({ sequence }) => sequence)).toEqual(['other']);
    const later = fillPass([feed('first', 40, 30), second], plan);
    expect(later.map(({ sequence }) => sequence)).toContain('second');
  });
});

describe('passes that are filled', () => {
  const plans = Array.from({ length: 200 }, (_, seed) => {
    const random = randomFrom(seed + 1);
    const count = 1 + randomInt(random, 12);
    const microBatchTokens = 1 + randomInt(random, 20);
    const passTokens = Math.max(count, microBatchTokens) + randomInt(random, 60);
    const plan = { microBatchTokens, microBatchSequences: 1 + randomInt(random, count), passTokens };
    const lengths = Array.from({ length: count }, () =>
      random() < 0.5 ? 1 : 1 + randomInt(random, 70),
    ).sort((a, b) => Number(a > 1) - Number(b > 1));
    return { plan, lengths };
  });
  const feedsOf = (lengths: readonly number[], fed: readonly number[]): Feed<number>[] =>
    lengths.map((length, sequence) => {
      const start = fed[sequence] ?? 0;
      const tokens = Int32Array.from({ length: length - start }, (_, i) => sequence * 1000 + start + i);
      return { sequence, tokens, start, pages: [] };
    });

  it('take as much as fits, in order, cut where micro-batches are full', () => {
    for (const { plan, lengths } of plans) {
      const work = fillPass(feedsOf(lengths, []), plan);
      const all = lengths.flatMap((length, name) => Array.from({ length }, (_, i) => name * 1000 + i));
      const seen = work.flatMap(({ slice }) => [...slice.tokens]);
      expect(seen).toEqual(all.slice(0, plan.passTokens));
      const { microBatches, outputsOf } = packPass(work, plan);
      for (const [index, { slices }] of microBatches.entries()) {
        const tokens = slices.reduce((sum, slice) => sum + slice.tokens.length, 0);
        expect(tokens).toBeLessThanOrEqual(plan.microBatchTokens);
        const full = tokens === plan.microBatchTokens || slices.length === plan.microBatchSequences;
        if (index < microBatches.length - 1) expect(full).toBe(true);
      }
      // What the tables of a pass have room for.
      const most = Math.ceil(plan.passTokens / plan.microBatchTokens) + lengths.length;
      expect(microBatches.length).toBeLessThanOrEqual(most);
      expect(work.length).toBeLessThanOrEqual(most + lengths.length);
      let end = 0;
      const whole = lengths.flatMap((length, name) => {
        end += length;
        return end <= plan.passTokens ? [name] : [];
      });
      expect(outputsOf).toEqual(whole);
    }
  });

  it('all know how long their sequence is, however it is cut', () => {
    for (const { plan, lengths } of plans) {
      for (const { sequence, slice } of fillPass(feedsOf(lengths, []), plan)) {
        expect(slice.knownTokens).toBe(lengths[sequence]);
      }
    }
  });

  it('are as many as were foretold', () => {
    for (const { plan, lengths } of plans) {
      const foretold = passesToFeed(lengths, plan);
      const fed = lengths.map(() => 0);
      for (let pass = 1; pass <= Math.max(...foretold); pass++) {
        // Those that are taken in go on with a token in every pass.
        const going = lengths.map((length, name) => fed[name] === length);
        const room = { ...plan, passTokens: plan.passTokens - going.filter(Boolean).length };
        for (const { sequence, slice } of fillPass(feedsOf(lengths, fed), room)) {
          fed[sequence] = slice.startPosition + slice.tokens.length;
        }
        foretold.forEach((last, name) => {
          expect(fed[name] === lengths[name]).toBe(pass >= last);
        });
      }
    }
  });
});

const DRAWN = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  history: new Int32Array(0),
  randomBits: 0,
};

describe('feeds of which every output is wanted', () => {
  const plan = { microBatchTokens: 16, microBatchSequences: 8, passTokens: 64 };
  const tokens = (length: number) => Int32Array.from({ length }, (_, index) => index);
  const free = (sequence: number, length: number): Feed<number> => ({
    sequence,
    tokens: tokens(length),
    start: 0,
    pages: [0, 1],
  });
  const scored = (sequence: number, length: number): Feed<number> => ({
    ...free(sequence, length),
    outputs: 'all',
    targets: tokens(length),
  });

  it('take the outputs that others leave, and share no micro-batch with those that are drawn', () => {
    const feeds = inTurn([scored(0, 30), free(1, 1), scored(2, 4), free(3, 5)]);
    expect(feeds.map(({ sequence }) => sequence)).toEqual([1, 3, 0, 2]);
    const work = fillPass(feeds, plan, 10);
    expect(work.map(({ sequence, slice }) => [sequence, slice.tokens.length])).toEqual([
      [1, 1],
      [3, 5],
      [0, 7],
      [2, 1],
    ]);
    const { microBatches, outputsOf } = packPass(work, plan, { sampling: () => ({ ...DRAWN }) });
    expect(outputsOf).toEqual([1, 3, 0, 0, 0, 0, 0, 0, 0, 2]);
    expect(
      microBatches.map(({ slices, targets, sampling }) => [slices.length, targets?.length, sampling?.length]),
    ).toEqual([
      [2, undefined, 2],
      [2, 8, undefined],
    ]);
    expect([...(microBatches[1]?.targets ?? [])]).toEqual([0, 1, 2, 3, 4, 5, 6, 0]);
  });

  it('take all where there is an output for each', () => {
    expect(fillPass([scored(0, 30)], plan, 64).map(({ slice }) => slice.tokens.length)).toEqual([16, 14]);
  });
});
