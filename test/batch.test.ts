// Cutting sequences into passes and micro-batches: nothing lost, nothing reordered, no size exceeded.

import { describe, expect, it } from 'vitest';
import { PAGE_TOKENS, pagesFor, tokenCount } from '../offload/index.js';
import { cutPasses, cutSequence, packPass } from '../src/batch.js';

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
  const work = all.flatMap((sequence) =>
    cutSequence(
      sequence.name,
      sequence.tokens,
      0,
      sequence.pages,
      plan,
      (at) => at === sequence.tokens.length - 1,
    ),
  );
  const passes = cutPasses(work, plan).map((pass) => packPass(pass, plan));
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
  const work = cutSequence(
    'text',
    Int32Array.of(1, 2, 3, 4, 5, 6, 7),
    0,
    [0],
    plan,
    () => true,
    (at) => at + 2,
  );
  const { microBatches } = packPass(work, plan);
  expect(microBatches.map(({ targets }) => [...(targets ?? [])])).toEqual([
    [2, 3, 4, 5, 6],
    [7, 8],
  ]);
});
