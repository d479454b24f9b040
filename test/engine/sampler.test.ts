// Random bits: the published values of the generator, and independence of everything but what is drawn.

import { describe, expect, it } from 'vitest';
import {
  checkSampling,
  GREEDY,
  isGreedy,
  philox,
  type SamplingSettings,
  samplingRow,
} from '../../src/engine/sampler.js';

const NO_TOKENS = () => new Int32Array(0);
const settings = (changes: Partial<SamplingSettings>): SamplingSettings => ({
  ...GREEDY,
  temperature: 1,
  ...changes,
});
const bits = (changes: Partial<SamplingSettings>, prompt: number, sample: number, step: number) =>
  samplingRow(settings(changes), { prompt, sample, step }, NO_TOKENS).randomBits;

describe('philox', () => {
  // Known answers of the authors' library, Random123 (kat_vectors, philox4x32 10).
  it.each([
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      '408f276d 41c83b0e a20bc7c6 6d5451fd',
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    ],
  ] as const)('%j with key %j', ([a, b, c, d], [k0, k1], expected) => {
    const words = philox([a, b, c, d], [k0, k1]).map((word) => word.toString(16).padStart(8, '0'));
    expect(words.join(' ')).toBe(expected);
  });

  it('is even: every share of the range gets its share of the draws', () => {
    const buckets = new Array<number>(16).fill(0);
    for (let step = 0; step < 16_000; step++) {
      const bucket = Math.floor((bits({ seed: 5 }, 0, 0, step) / 2 ** 32) * 16);
      buckets[bucket] = (buckets[bucket] ?? 0) + 1;
    }
    // Five standard deviations.
    for (const count of buckets) expect(Math.abs(count - 1000)).toBeLessThan(155);
  });
});

describe('random bits', () => {
  it('differ by seed, prompt, sample and step, and by nothing else', () => {
    const first = bits({ seed: 1 }, 2, 3, 4);
    expect(bits({ seed: 1, temperature: 2, topK: 9, topP: 0.5 }, 2, 3, 4)).toBe(first);
    const others = [
      bits({ seed: 0 }, 2, 3, 4),
      bits({ seed: 1 }, 0, 3, 4),
      bits({ seed: 1 }, 2, 0, 4),
      bits({ seed: 1 }, 2, 3, 0),
      bits({ seed: 1 + 2 ** 32 }, 2, 3, 4),
      bits({ seed: Number.MAX_SAFE_INTEGER }, 2, 3, 4),
    ];
    expect(new Set([first, ...others]).size).toBe(7);
  });
});

it('the history is asked for only where a penalty looks at it', () => {
  const draw = { prompt: 0, sample: 0, step: 0 };
  const refuse = () => {
    throw new Error('asked for');
  };
  expect(samplingRow(settings({}), draw, refuse).history).toHaveLength(0);
  const tokens = Int32Array.of(1, 2);
  expect(samplingRow(settings({ repetitionPenalty: 1.1 }), draw, () => tokens).history).toBe(tokens);
});

it('greedy means: no temperature, and no penalty either', () => {
  expect(isGreedy(GREEDY)).toBe(true);
  expect(isGreedy({ ...GREEDY, topP: 0.5, seed: 4 })).toBe(true);
  expect(isGreedy({ ...GREEDY, repetitionPenalty: 1.1 })).toBe(false);
  expect(isGreedy(settings({}))).toBe(false);
});

it.each([
  ['temperature', { temperature: -1 }],
  ['temperature', { temperature: Number.NaN }],
  ['temperature', { temperature: Number.POSITIVE_INFINITY }],
  ['top_k', { topK: -1 }],
  ['top_k', { topK: 1.5 }],
  ['top_p', { topP: 0 }],
  ['top_p', { topP: 1.01 }],
  ['min_p', { minP: -0.1 }],
  ['min_p', { minP: 2 }],
  ['repetition_penalty', { repetitionPenalty: 0 }],
  ['seed', { seed: -1 }],
  ['seed', { seed: 2 ** 53 }],
])('--%s refuses %j', (name, changes) => {
  expect(() => checkSampling(settings(changes))).toThrow(`--${name} is`);
  checkSampling(settings({}));
});
