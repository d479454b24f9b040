// Families with layers that keep a state: which layers do, how configurations say so, and what is refused by name.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { buildArchitecture } from '../../src/models/registry.js';
import { modelFolder } from '../helpers/fixtures.js';

type Changes = Readonly<Record<string, unknown>>;

function built(fixture: string, changes: Changes = {}) {
  const path = `${modelFolder(fixture)}/config.json`;
  return buildArchitecture({ ...JSON.parse(readFileSync(path, 'utf8')), ...changes }, path);
}

const kinds = (fixture: string, changes: Changes = {}) =>
  built(fixture, changes)
    .caches.map(({ kind }) => kind[0])
    .join('');

describe('layers that keep a state', () => {
  it('are those that a list names, as versions spelt them, or all but every so-manieth', () => {
    expect(kinds('qwen3_5_text')).toBe('rrrp');
    const interval = { layer_types: undefined, num_hidden_layers: 6 };
    expect(kinds('qwen3_5_text', interval)).toBe('rrrprr');
    expect(kinds('qwen3_5_text', { ...interval, full_attention_interval: 2 })).toBe('rprprp');
    expect(kinds('granitemoehybrid')).toBe('rprr');
    expect(kinds('granitemoehybrid', { layer_types: undefined })).toBe('rrrr');
    expect(
      kinds('granitemoehybrid', {
        layer_types: ['mamba', 'linear_attention', 'attention', 'full_attention'],
      }),
    ).toBe('rrpp');
  });

  it('of Nemotron-H stand in a list or a text, and its other blocks cache nothing', () => {
    expect(kinds('nemotron_h')).toBe('rnpnrn');
    expect(kinds('nemotron_h', { layers_block_type: undefined, hybrid_override_pattern: 'ME*-ME' })).toBe(
      'rnpnrn',
    );
    expect(kinds('nemotron_h', { layers_block_type: ['mamba', 'attention', 'mlp'] })).toBe('rpn');
  });
});

it('the size of a state is that of its heads, and of the inputs that a convolution looks back at', () => {
  const [state] = built('qwen3_next', { linear_conv_kernel_dim: 3 }).caches;
  expect(state).toEqual({
    kind: 'recurrent',
    fields: [
      { name: 'inputs', shape: [2, 2 * 2 * 16 + 4 * 16], dtype: 'f32' },
      { name: 'memory', shape: [4, 16, 16], dtype: 'f32' },
    ],
  });
});

it('as many tokens as have no more entries than an index would choose are seen without it', () => {
  const tokens = (changes: Changes) => built('deepseek_v4', { ...changes }).maxContextTokens;
  expect(tokens({ index_topk: 10 })).toBe(21);
  expect(tokens({ index_topk: 10, compress_rates: { compressed_sparse_attention: 4 } })).toBe(43);
  expect(tokens({})).toBe(256);
});

describe('refused by name', () => {
  it.each<readonly [string, Changes, RegExp]>([
    ['qwen3_5_text', { attn_output_gate: false }, /attn_output_gate/],
    ['qwen3_5_text', { linear_num_value_heads: 3 }, /linear_num_value_heads over linear_num_key_heads: 3/],
    [
      'qwen3_5_text',
      { layer_types: ['linear_attention', 'chunked_attention', 'full_attention', 'full_attention'] },
      /layer_types "chunked/,
    ],
    ['qwen3_5_moe_text', { norm_topk_prob: false }, /norm_topk_prob/],
    ['nemotron_h', { layers_block_type: undefined, hybrid_override_pattern: 'MX' }, /layers_block_type "X"/],
    ['nemotron_h', { layers_block_type: undefined }, /layers_block_type null/],
    ['nemotron_h', { mlp_hidden_act: 'silu' }, /mlp_hidden_act "silu"/],
    ['nemotron_h', { n_groups: 3 }, /mamba_num_heads over n_groups: 4/],
    ['nemotron_h', { mamba_hidden_act: 'gelu' }, /mamba_hidden_act "gelu"/],
    ['nemotron_h', { sliding_window: 8 }, /sliding_window 8/],
    ['nemotron_h', { time_step_limit: [1, 0.5] }, /time_step_limit/],
    ['granitemoehybrid', { mamba_d_head: 5 }, /mamba_d_head 5/],
    ['granitemoehybrid', { position_embedding_type: 'alibi' }, /position_embedding_type "alibi"/],
    ['granitemoehybrid', { time_step_limit: [0, 'never'] }, /time_step_limit/],
  ])('%s with %j', (fixture, changes, message) => {
    expect(() => built(fixture, changes)).toThrow(message);
  });
});

it('limits of a step may be infinite, in every way that this is written', () => {
  for (const most of [1.5, 'Infinity', { __float__: 'Infinity' }, Number.POSITIVE_INFINITY]) {
    expect(kinds('granitemoehybrid', { time_step_limit: [0, most] })).toBe('rprr');
  }
});
