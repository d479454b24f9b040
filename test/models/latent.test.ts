// Latent attention: what a block caches, how steep its scores are, which of its values norms and rotations take, and where it ends.

import { describe, expect, it } from 'vitest';
import { fieldOf, recordForward, scoreOf } from '../helpers/recorded-forward.js';
import { build } from './small-configs.js';

const YARN = { rope_type: 'yarn', rope_theta: 10000, factor: 4, original_max_position_embeddings: 32 };

describe('latent attention', () => {
  it('caches the latent and the turned part of a key once for all heads', () => {
    const { caches } = build('deepseek_v3');
    const cache = { kind: 'paged', kvHeads: 1, keyDim: 20, valueDim: 16, valuesInKeys: true };
    expect(caches).toEqual([cache, cache, cache, cache]);
    const ops = recordForward(build('deepseek_v3')).blocks[0] ?? [];
    const stores = ops.filter(({ op }) => op === 'kv_store');
    expect(stores).toMatchObject([{ v: null, k: { shape: [3, 1, 20] } }]);
    expect(fieldOf(build('deepseek_v3'), 'attention', 'out')[0]?.shape).toEqual([3, 4, 16]);
  });

  it('multiplies rows of keys into queries, and those of values into results', () => {
    const products = recordForward(build('deepseek_v3')).blocks[0]?.filter(({ op }) => op === 'head_linear');
    expect(products).toMatchObject([
      { headRows: 18, firstRow: 0, transposed: true, out: { shape: [3, 4, 16] } },
      { headRows: 18, firstRow: 8, transposed: false, out: { shape: [3, 4, 10] } },
    ]);
  });

  it('has scores of the whole key, steeper where rotations were stretched', () => {
    expect(scoreOf(build('deepseek_v3'), 'scale')[0]).toBeCloseTo(1 / Math.sqrt(12), 12);
    const stretched = (more: object) =>
      scoreOf(build('deepseek_v3', { rope_parameters: { ...YARN, ...more } }), 'scale')[0];
    expect(stretched({})).toBeCloseTo(1 / Math.sqrt(12), 12);
    const steeper = (0.1 * 0.7 * Math.log(4) + 1) ** 2 / Math.sqrt(12);
    expect(stretched({ mscale: 1, mscale_all_dim: 0.7 })).toBeCloseTo(steeper, 12);
  });

  it('norms inside with an epsilon of its own', () => {
    const epsilons = fieldOf(build('deepseek_v3', { rms_norm_eps: 0.01 }), 'rms_norm', 'eps').slice(0, 4);
    expect(epsilons).toEqual([0.01, 1e-6, 1e-6, 0.01]);
  });

  it('turns neighbours, unless the configuration says halves', () => {
    const turned = (changes: Record<string, unknown>) =>
      new Set(fieldOf(build('deepseek_v3', changes), 'rotary', 'interleaved'));
    expect(turned({})).toEqual(new Set([true]));
    expect(turned({ rope_interleave: false })).toEqual(new Set([false]));
  });

  it('of an index ends where that would choose', () => {
    expect(build('deepseek_v32', { max_position_embeddings: 4096 }).maxContextTokens).toBe(2048);
    expect(build('deepseek_v32', { index_topk: 64 }).maxContextTokens).toBe(64);
    expect(build('deepseek_v32', { index_topk: 640 }).maxContextTokens).toBe(128);
  });

  it('has one projection of queries where there is no rank', () => {
    const names = build('deepseek_v3', { q_lora_rank: null })
      .block(0)
      .map(({ key }) => key);
    expect(names.filter((key) => key.includes('.q_'))).toEqual(['self_attn.q_proj.weight']);
  });
});
