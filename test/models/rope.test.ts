// Rotary scalings: the properties that their papers state, and the contexts they hold for.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { fieldOf, recordForward } from '../helpers/recorded-forward.js';
import { build } from './small-configs.js';

/** A Llama with heads of 64 dimensions, trained on 128 tokens. */
function scaled(rope_type: string, parameters: Record<string, unknown> = {}) {
  const model = build('llama', {
    head_dim: 64,
    max_position_embeddings: 128,
    rope_parameters: { rope_type, rope_theta: 10000, ...parameters },
  });
  const frequencies = [...present(model.constants.inverse_frequencies, 'frequencies')];
  const scale = present(fieldOf(model, 'rotary', 'scale')[0], 'scale');
  const { maxContextTokens: context, recomputeAtTokens: recomputeAt } = model;
  return { frequencies, scale, context, recomputeAt };
}

const plain = scaled('default').frequencies;
/** scaled ÷ plain, by pair. */
const ratios = (frequencies: readonly number[]) => frequencies.map((f, i) => f / (plain[i] ?? 1));

describe('rotary scalings', () => {
  it('default: base^(−2i/d)', () => {
    expect(plain).toHaveLength(32);
    expect(plain[0]).toBe(1);
    expect(plain[16]).toBeCloseTo(0.01, 8);
  });

  it('linear divides every frequency and stretches the context', () => {
    const { frequencies, context } = scaled('linear', { factor: 4 });
    for (const ratio of ratios(frequencies)) expect(ratio).toBeCloseTo(0.25, 6);
    expect(context).toBe(512);
  });

  it('dynamic equals the default up to the configured context, then has a row per token more', () => {
    const { frequencies, context } = scaled('dynamic', { factor: 4 });
    const row = (length: number) => frequencies.slice((length - 128) * 32, (length - 127) * 32);
    expect(row(128)).toEqual(plain);
    const base = 10000 * (4 * (200 / 128) - 3) ** (64 / 62);
    row(200).forEach((frequency, i) => {
      expect(frequency / base ** ((-2 * i) / 64)).toBeCloseTo(1, 5);
    });
    expect(context).toBe(8 * 128);
    expect(frequencies).toHaveLength((7 * 128 + 1) * 32);
  });

  it('dynamic rotates each sequence by the length that is known of it, neighbours of one row together', () => {
    const model = build('llama', { rope_parameters: { rope_type: 'dynamic', rope_theta: 10000, factor: 2 } });
    const rotations = (known: readonly number[]) => {
      const lengths = known.map((knownTokens) => ({ tokens: 1, knownTokens }));
      const block = present(recordForward(model, lengths).blocks[0], 'block');
      const ofQueries = block.flatMap((op) => (op.op === 'rotary' && op.x.shape[1] === 4 ? [op] : []));
      return ofQueries.map(({ x, inverseFrequencies: f }) => [x.shape[0], f.offsetBytes / 4 / 4, f.shape[0]]);
    };
    // Heads of 8 dimensions, so rows of 4; the first row holds up to 128 tokens.
    expect(rotations([5, 128, 100])).toEqual([[3, 0, 4]]);
    expect(rotations([129, 129, 7])).toEqual([
      [2, 1, 4],
      [1, 0, 4],
    ]);
    expect(rotations([5000, 1024, 1024])).toEqual([[3, 896, 4]]);
  });

  it('yarn keeps pairs that turn often, divides those that turn seldom, and blends between', () => {
    const given = { factor: 8, original_max_position_embeddings: 64 };
    const { frequencies, context } = scaled('yarn', given);
    const all = ratios(frequencies);
    expect(all[0]).toBeCloseTo(1, 6);
    expect(all.at(-1)).toBeCloseTo(1 / 8, 6);
    expect(all.some((ratio) => ratio > 0.13 && ratio < 0.99)).toBe(true);
    expect(all).toEqual([...all].sort((a, b) => b - a));
    expect(context).toBe(512);
  });

  it('yarn ramps between pairs that beta_fast and beta_slow name, whole pairs unless truncate is false', () => {
    const given = { factor: 8, original_max_position_embeddings: 64, beta_fast: 4, beta_slow: 0.5 };
    const whole = ratios(scaled('yarn', given).frequencies);
    const exact = ratios(scaled('yarn', { ...given, truncate: false }).frequencies);
    // 64 / (4 · 2π) = 2.546 and 64 / (0.5 · 2π) = 20.37: pairs 32 · ln / ln 10000 = 3.25 and 10.47.
    expect(whole[3]).toBeCloseTo(1, 6);
    expect(whole[4]).toBeLessThan(1);
    expect(whole[11]).toBeCloseTo(1 / 8, 6);
    expect(exact[4]).toBeGreaterThan(present(whole[4], 'ratio'));
    expect(exact[10]).toBeLessThan(present(whole[10], 'ratio'));
  });

  it('yarn sharpens attention by its factor, by mscale, or by what the configuration gives', () => {
    const given = { factor: 8, original_max_position_embeddings: 64 };
    const sharpened = (weight: number) => 0.1 * weight * Math.log(8) + 1;
    expect(scaled('yarn', given).scale).toBeCloseTo(sharpened(1), 12);
    expect(scaled('yarn', { ...given, mscale: 2 }).scale).toBeCloseTo(sharpened(1), 12);
    const both = scaled('yarn', { ...given, mscale: 0.7, mscale_all_dim: 1.2 });
    expect(both.scale).toBeCloseTo(sharpened(0.7) / sharpened(1.2), 12);
    expect(scaled('yarn', { ...given, attention_factor: 1.25 }).scale).toBe(1.25);
  });

  it('llama3 keeps short wavelengths and divides long ones', () => {
    const { frequencies } = scaled('llama3', {
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    });
    const all = ratios(frequencies);
    expect(all[0]).toBe(1);
    expect(all.at(-1)).toBeCloseTo(1 / 8, 6);
  });

  it('longrope divides by its short factors up to the trained length, by its long ones beyond', () => {
    const short = plain.map((_, i) => 1 + i / 10);
    const given = {
      short_factor: short,
      long_factor: short.map((f) => 2 * f),
      original_max_position_embeddings: 64,
    };
    const stretch = Math.sqrt(1 + Math.log(2) / Math.log(64)); // 128 tokens after 64
    for (const type of ['longrope', 'su', 'yarn']) {
      const { frequencies, scale, context, recomputeAt } = scaled(type, given);
      expect(scale).toBeCloseTo(stretch, 12);
      const [within, beyond] = [ratios(frequencies.slice(0, 32)), ratios(frequencies.slice(32))];
      expect(frequencies).toHaveLength(64);
      short.forEach((divisor, i) => {
        expect(within[i]).toBeCloseTo(1 / divisor, 5);
        expect(beyond[i]).toBeCloseTo(1 / (2 * divisor), 5);
      });
      expect(context).toBe(128);
      expect(recomputeAt).toBe(65);
    }
    const unscaled = scaled('longrope', { ...given, original_max_position_embeddings: 128 });
    expect([unscaled.frequencies.length, unscaled.recomputeAt]).toEqual([32, undefined]);
    expect(scaled('longrope', { ...given, attention_factor: 1.5 }).scale).toBe(1.5);
    expect(scaled('longrope', { ...given, factor: 0.5 }).scale).toBe(1);
  });

  it('Phi-3 knows the trained length from the top level alone, where it is 4096 unless that says otherwise', () => {
    const factors = [1, 1, 1, 1];
    const rope = { rope_type: 'longrope', rope_theta: 10000, short_factor: factors, long_factor: factors };
    const given = { rope_parameters: { ...rope, original_max_position_embeddings: 64 } };
    const recomputeAt = (top: Record<string, unknown>) =>
      build('phi3', { ...given, max_position_embeddings: 8192, ...top }).recomputeAtTokens;
    expect(recomputeAt({})).toBe(4097);
    expect(recomputeAt({ original_max_position_embeddings: 64 })).toBe(65);
  });
});
