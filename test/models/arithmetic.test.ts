// Configuration fields that change the arithmetic change it: windows, caps, scales, norms, the order of a block.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import type { ArchitectureModel } from '../../src/models/architecture.js';
import { tensorList } from '../../src/models/registry.js';
import { fieldOf, recordForward, scoreOf } from '../helpers/recorded-forward.js';
import { build } from './small-configs.js';

const windows = (model: ArchitectureModel) => scoreOf(model, 'windowTokens');
const names = (model: ArchitectureModel) => tensorList(model).map(({ name }) => name);
const LAYERS = ['full_attention', 'sliding_attention', 'full_attention', 'sliding_attention'];

describe('windows', () => {
  it('slide in every layer of Mistral, or in none', () => {
    expect(windows(build('mistral'))).toEqual([16, 16, 16, 16]);
    expect(windows(build('mistral', { sliding_window: null }))).toEqual([0, 0, 0, 0]);
    expect(windows(build('mistral', { sliding_window: undefined }))).toEqual([4096, 4096, 4096, 4096]);
  });

  it('slide in the upper layers of Qwen2 only where the configuration asks for it', () => {
    const given = { sliding_window: 16, max_window_layers: 3 };
    expect(windows(build('qwen2', { ...given, use_sliding_window: true }))).toEqual([0, 0, 0, 16]);
    expect(windows(build('qwen2', { ...given, use_sliding_window: false }))).toEqual([0, 0, 0, 0]);
  });

  it('follow layer_types', () => {
    const given = { sliding_window: 8, use_sliding_window: true, layer_types: LAYERS };
    for (const family of ['qwen3', 'gemma2']) expect(windows(build(family, given))).toEqual([0, 8, 0, 8]);
  });

  it('alternate in Gemma 2 and GPT-Neo', () => {
    expect(windows(build('gemma2'))).toEqual([16, 0, 16, 0]);
    expect(windows(build('gpt_neo'))).toEqual([0, 16, 0, 16]);
  });

  it('slide in Phi-3 and StarCoder2 where there is a window', () => {
    for (const family of ['phi3', 'starcoder2']) {
      expect(windows(build(family))).toEqual([0, 0, 0, 0]);
      expect(windows(build(family, { sliding_window: 8 }))).toEqual([8, 8, 8, 8]);
    }
  });
});

describe('scales and caps', () => {
  it('are none in GPT-Neo', () => {
    expect(new Set(scoreOf(build('gpt_neo'), 'scale'))).toEqual(new Set([1]));
  });

  it('come from query_pre_attn_scalar in Gemma 2, with caps that null switches off', () => {
    const [capped, uncapped] = [
      build('gemma2'),
      build('gemma2', { attn_logit_softcapping: null, final_logit_softcapping: null }),
    ];
    expect(scoreOf(capped, 'scale')[0]).toBe(1 / 8);
    expect(scoreOf(capped, 'softCap')[0]).toBe(50);
    expect(capped.logits).toEqual({ scale: 1, softCap: 30 });
    expect(scoreOf(uncapped, 'softCap')[0]).toBe(0);
    expect(uncapped.logits).toEqual({ scale: 1, softCap: 0 });
  });

  it('multiply Gemma 2 embeddings, and its norm weights are deviations from one', () => {
    const { embed, blocks, head } = recordForward(build('gemma2'));
    expect(embed).toMatchObject([{ op: 'gather_rows', scale: Math.sqrt(32) }]);
    const norms = [...blocks.flat(), ...head].filter(({ op }) => op === 'rms_norm');
    expect(norms).toHaveLength(4 * 4 + 1);
    for (const norm of norms) expect(norm).toMatchObject({ weightOffset: 1 });
  });
});

describe('blocks', () => {
  const order = (model: ArchitectureModel) =>
    present(recordForward(model).blocks[0], 'block').map(({ op }) => op);

  it('of GPT-NeoX norm both halves before the attention, or one after the other', () => {
    const parallel = order(build('gpt_neox'));
    const sequential = order(build('gpt_neox', { use_parallel_residual: false }));
    expect(parallel.slice(0, 2)).toEqual(['layer_norm', 'layer_norm']);
    expect(sequential.lastIndexOf('layer_norm')).toBeGreaterThan(sequential.indexOf('attention'));
  });

  it('of Qwen3 norm queries and keys head by head', () => {
    const inBlock = present(recordForward(build('qwen3')).blocks[0], 'block');
    const shapes = inBlock.flatMap((op) => (op.op === 'rms_norm' ? [op.x.shape] : []));
    expect(shapes).toEqual([
      [3, 32],
      [3, 4, 16],
      [3, 2, 16],
      [3, 32],
    ]);
  });

  it('of GPT-J rotate neighbours, of the others halves', () => {
    expect(fieldOf(build('gptj'), 'rotary', 'interleaved')).toEqual([true, true, true, true]);
    expect(fieldOf(build('llama'), 'rotary', 'interleaved')).not.toContain(true);
    expect(build('gptj').constants.inverse_frequencies).toHaveLength(2);
  });

  it('of OPT-350m norm after each half, and the head takes the last one', () => {
    const model = build('opt', { do_layer_norm_before: false, word_embed_proj_dim: 16 });
    const { embed, blocks, head } = recordForward(model);
    expect(embed.map(({ op }) => op)).toEqual(['gather_rows', 'linear', 'gather_rows']);
    expect(blocks.map((ops) => ops.filter(({ op }) => op === 'layer_norm').length)).toEqual([2, 1]);
    expect(head.map(({ op }) => op)).toEqual(['layer_norm', 'linear']);
    expect(names(model).filter((name) => name.endsWith('final_layer_norm.weight'))).toHaveLength(2);
  });

  it('of OPT take no norm weights and no biases where the configuration says so', () => {
    const model = build('opt', { enable_bias: false, layer_norm_elementwise_affine: false });
    expect(names(model).filter((name) => /bias|norm/.test(name))).toEqual([]);
    expect(() => recordForward(model)).not.toThrow();
    expect(recordForward(build('opt', { _remove_final_layer_norm: true })).head).toMatchObject([
      { op: 'add' },
    ]);
  });

  it('of Falcon hold one norm, or two side by side, or one after the other', () => {
    const norms = (changes: Record<string, unknown>) =>
      names(build('falcon', changes)).filter((name) => /h\.0\..*(ln|norm).*weight/.test(name));
    const grouped = { new_decoder_architecture: true, num_kv_heads: 2 };
    expect(norms({})).toHaveLength(1);
    expect(norms(grouped)).toEqual(['transformer.h.0.ln_attn.weight', 'transformer.h.0.ln_mlp.weight']);
    expect(norms({ ...grouped, num_ln_in_parallel_attn: 1 })).toEqual([
      'transformer.h.0.input_layernorm.weight',
    ]);
    expect(norms({ parallel_attn: false })).toHaveLength(2);
  });

  it('of Falcon with ALiBi are rounded, and nothing rotates', () => {
    const model = build('falcon', { alibi: true, multi_query: false });
    expect(model.maxContextTokens).toBeUndefined();
    expect(fieldOf(model, 'rotary', 'scale')).toEqual([]);
    expect([...present(model.constants.alibi, 'slopes')]).toEqual([1 / 4, 1 / 16, 1 / 64, 1 / 256]);
    const rounded = (of: ArchitectureModel) => scoreOf(of, 'alibi').map((alibi) => alibi?.rounded ?? false);
    expect(rounded(model)).toEqual([true, true]);
    expect(rounded(build('bloom'))).toEqual([false, false]);
  });

  it('of Falcon take null for false, and heads of keys only where the layout has them', () => {
    const norms = (changes: Record<string, unknown>) =>
      names(build('falcon', changes)).filter((name) => /h\.0\..*norm\.weight$/.test(name)).length;
    expect([norms({}), norms({ parallel_attn: null }), norms({ parallel_attn: false })]).toEqual([1, 2, 2]);
    const { caches } = build('falcon', { multi_query: false });
    expect(build('falcon', { multi_query: null }).caches).toEqual(caches);
    expect(build('falcon', { num_kv_heads: 4 }).caches[0]).toMatchObject({ kvHeads: 1 });
    expect(() => build('falcon', { multi_query: false, num_kv_heads: 2 })).toThrow(
      /num_kv_heads 2 is not supported/,
    );
  });

  it('have biases where the configuration says so', () => {
    const biases = (family: string, changes = {}) =>
      names(build(family, changes)).filter((name) => /layers\.0\.(?!.*norm).*bias$/.test(name)).length;
    expect([biases('llama'), biases('llama', { attention_bias: true, mlp_bias: true })]).toEqual([0, 7]);
    expect([biases('qwen2'), biases('qwen3'), biases('qwen3', { attention_bias: true })]).toEqual([3, 0, 4]);
    expect([biases('starcoder2'), biases('starcoder2', { use_bias: false })]).toEqual([6, 0]);
    expect([biases('gpt_neox'), biases('gpt_neox', { attention_bias: false })]).toEqual([4, 2]);
  });

  it('use the activation that is named', () => {
    const activation = (name: string) =>
      fieldOf(build('opt', { activation_function: name }), 'linear', 'activation');
    for (const [name, kernel] of Object.entries({ relu: 'relu', gelu: 'gelu', gelu_fast: 'gelu_tanh' })) {
      expect(activation(name)).toContain(kernel);
    }
  });
});
