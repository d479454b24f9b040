// The tensors that each architecture names sum to the counts its publishers state.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { elementCount } from '../../offload/index.js';
import { buildArchitecture, tensorList } from '../../src/models/registry.js';

function parameterCount(config: Readonly<Record<string, unknown>>): number {
  return tensorList(buildArchitecture(config, 'config.json')).reduce(
    (sum, { shape }) => sum + elementCount(shape),
    0,
  );
}

const SHAPE_FILES: readonly (readonly [string, number])[] = [
  ['bloom-560m', 559_214_592],
  ['bloom-1b7', 1_722_408_960],
  ['bloom-7b1', 7_069_016_064],
  ['bloom-176b', 176_247_271_424],
  ['gpt2-xl', 1_557_611_200],
  ['gpt-neox-20b', 20_554_567_680],
  ['opt-1.3b', 1_315_758_080],
  ['opt-6.7b', 6_658_473_984],
  ['opt-13b', 12_853_473_280],
  ['opt-30b', 29_974_540_288],
  ['opt-66b', 65_719_701_504],
  ['opt-175b', 174_604_468_224],
  ['llama-2-7b', 6_738_415_616],
  ['llama-2-70b', 68_976_648_192],
  ['llama-3-8b', 8_030_261_248],
  ['llama-3-70b', 70_553_706_496],
  ['mixtral-8x7b', 46_702_792_704],
  ['qwen3-30b-a3b', 30_532_122_624],
  ['falcon-40b', 41_303_293_952],
];

it.each(SHAPE_FILES)('configs/models/%s has %d parameters', (name, published) => {
  const path = fileURLToPath(new URL(`../../configs/models/${name}.json`, import.meta.url));
  expect(parameterCount(JSON.parse(readFileSync(path, 'utf8')))).toBe(published);
});

/** Shapes as their publishers state them, less what the count does not depend on. */
const PUBLISHED: readonly (readonly [string, number, Readonly<Record<string, unknown>>])[] = [
  [
    'gpt-j-6b',
    6_050_882_784,
    { model_type: 'gptj', vocab_size: 50400, n_embd: 4096, n_layer: 28, n_head: 16, rotary_dim: 64 },
  ],
  [
    'gpt-neo-1.3b',
    1_315_575_808,
    {
      model_type: 'gpt_neo',
      vocab_size: 50257,
      hidden_size: 2048,
      num_layers: 24,
      num_heads: 16,
      attention_types: [[['global', 'local'], 12]],
    },
  ],
  [
    'opt-350m',
    331_196_416,
    {
      model_type: 'opt',
      vocab_size: 50272,
      hidden_size: 1024,
      word_embed_proj_dim: 512,
      ffn_dim: 4096,
      num_hidden_layers: 24,
      num_attention_heads: 16,
      do_layer_norm_before: false,
    },
  ],
  [
    'mistral-7b',
    7_241_732_096,
    {
      model_type: 'mistral',
      vocab_size: 32000,
      hidden_size: 4096,
      intermediate_size: 14336,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      num_key_value_heads: 8,
    },
  ],
  [
    'qwen2.5-7b',
    7_615_616_512,
    {
      model_type: 'qwen2',
      vocab_size: 152064,
      hidden_size: 3584,
      intermediate_size: 18944,
      num_hidden_layers: 28,
      num_attention_heads: 28,
      num_key_value_heads: 4,
      tie_word_embeddings: false,
    },
  ],
  [
    'qwen3-8b',
    8_190_735_360,
    {
      model_type: 'qwen3',
      vocab_size: 151936,
      hidden_size: 4096,
      intermediate_size: 12288,
      num_hidden_layers: 36,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      tie_word_embeddings: false,
    },
  ],
  [
    'falcon-7b',
    6_921_720_704,
    {
      model_type: 'falcon',
      vocab_size: 65024,
      hidden_size: 4544,
      num_hidden_layers: 32,
      num_attention_heads: 71,
    },
  ],
  [
    'falcon-rw-1b',
    1_311_625_216,
    {
      model_type: 'falcon',
      vocab_size: 50304,
      hidden_size: 2048,
      num_hidden_layers: 24,
      num_attention_heads: 32,
      alibi: true,
      bias: true,
      multi_query: false,
      parallel_attn: false,
    },
  ],
  [
    'phi-3-mini',
    3_821_079_552,
    {
      model_type: 'phi3',
      vocab_size: 32064,
      hidden_size: 3072,
      intermediate_size: 8192,
      num_hidden_layers: 32,
      num_attention_heads: 32,
    },
  ],
  [
    'gemma-2-2b',
    2_614_341_888,
    {
      model_type: 'gemma2',
      vocab_size: 256000,
      hidden_size: 2304,
      intermediate_size: 9216,
      num_hidden_layers: 26,
      num_attention_heads: 8,
      num_key_value_heads: 4,
    },
  ],
  [
    'starcoder2-3b',
    3_030_371_328,
    {
      model_type: 'starcoder2',
      vocab_size: 49152,
      hidden_size: 3072,
      intermediate_size: 12288,
      num_hidden_layers: 30,
      num_attention_heads: 24,
      num_key_value_heads: 2,
    },
  ],
];

describe('families without a shape file', () => {
  it.each(PUBLISHED)('%s has %d parameters', (_, published, config) => {
    expect(parameterCount(config)).toBe(published);
  });
});
