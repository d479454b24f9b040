// MiMo-V2-Flash (Xiaomi 2026): keys wider than values, and layers that slide with sinks and more heads of keys and values.

import { heads, type LayerForward, type Tensor } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import {
  type Architecture,
  type ArchitectureModel,
  PLAIN_LOGITS,
  type TensorDef,
  tensorsUnder,
} from './architecture.js';
import { embedTokens, project } from './decoder-parts.js';
import type { FeedForward } from './feed-forward.js';
import { type LayerRopes, ropesByType } from './layer-ropes.js';
import { type LayerType, readLayerTypes } from './layer-windows.js';
import { readRope } from './rope.js';
import { deepseekFeedForwards } from './shared-experts.js';

export const mimoV2Flash: Architecture = { modelTypes: ['mimo_v2_flash'], build };

/** Where the configuration names none. */
const VALUE_SCALE = 707 / 1000;
const SINKS = 'self_attn.attention_sink_bias';

interface Attention {
  readonly nHeads: number;
  readonly kvHeads: (blockIndex: number) => number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** Factor on values. */
  readonly valueScale: number;
  readonly ropes: LayerRopes;
  readonly slides: (blockIndex: number) => boolean;
  readonly windowTokens: number;
}

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless(false, 'add_full_attention_sink_bias');
  config.refuseUnless(true, 'add_swa_attention_sink_bias');
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const attention = readAttention(config, blockCount);
  const { nHeads, kvHeads, keyDim, valueDim, ropes, slides } = attention;
  const eps = config.number(['rms_norm_eps', 'layernorm_epsilon'], 1e-5);
  const bias = config.flag(['attention_bias'], false);
  const feedForward = deepseekFeedForwards(config, {
    ...{ I: 2048, denseI: 16384, experts: 256, chosen: 8, shared: 0, dense: 1, normalized: true },
    sparse: readSparse(config, blockCount),
  });
  const projection = (rows: number) => ({ weight: [rows, H], bias: bias ? [rows] : undefined });
  return {
    architecture: 'mimo_v2_flash',
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: Array.from({ length: blockCount }, (_, index) => ({
      kind: 'paged',
      kvHeads: kvHeads(index),
      keyDim,
      valueDim,
      valuesInKeys: false,
      ...(slides(index) ? { windowTokens: attention.windowTokens } : {}),
    })),
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H] }),
    block: (index) => {
      const [q, key, value] = [nHeads * keyDim, kvHeads(index) * keyDim, kvHeads(index) * valueDim].map(
        projection,
      );
      return [
        ...tensorsUnder(`layers.${index}.`, {
          'input_layernorm.weight': [H],
          'self_attn.q_proj.weight': q?.weight,
          'self_attn.q_proj.bias': q?.bias,
          'self_attn.k_proj.weight': key?.weight,
          'self_attn.k_proj.bias': key?.bias,
          'self_attn.v_proj.weight': value?.weight,
          'self_attn.v_proj.bias': value?.bias,
          'self_attn.o_proj.weight': [H, nHeads * valueDim],
          'post_attention_layernorm.weight': [H],
        }),
        ...(slides(index) ? [sinks(`layers.${index}.self_attn`, nHeads)] : []),
        ...feedForward(index).tensors(`layers.${index}.`),
      ];
    },
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: ropes.constants,
    forward: forward(attention, feedForward, eps),
  };
}

/** As published, and as transformers 5 calls them. */
function sinks(path: string, nHeads: number): TensorDef {
  const shape = [nHeads];
  const elsewhere = [{ name: `${path}.sinks`, shape, firstElement: 0 }];
  return { key: SINKS, name: `${path}.attention_sink_bias`, shape, elsewhere };
}

function readAttention(config: ConfigReader, blockCount: number): Attention {
  const nHeads = config.count(['num_attention_heads']);
  const full = config.count(['num_key_value_heads'], 4);
  const sliding = config.count(['swa_num_key_value_heads'], 2 * full);
  const [keyDim, valueDim] = [config.count(['head_dim'], 192), config.count(['v_head_dim'], 128)];
  if (keyDim % 2 !== 0) throw config.unsupported('head_dim', keyDim, 'even numbers');
  config.refuseUnless(nHeads, 'swa_num_attention_heads');
  config.refuseUnless(keyDim, 'swa_head_dim');
  config.refuseUnless(valueDim, 'swa_v_head_dim');
  for (const count of [full, sliding]) config.divided(nHeads, count, 'num_attention_heads over key heads');
  const pattern = readPattern(config, 'hybrid_layer_pattern', blockCount);
  const byDefault = (index: number) => pattern?.[index] ?? !(index === 0 || (index + 1) % 6 === 0);
  const types = readLayerTypes(config, blockCount, byDefault);
  const slides = (index: number) => types[index] === 'sliding_attention';
  const windowTokens = types.includes('sliding_attention') ? config.count(['sliding_window'], 128) : 0;
  config.refuseUnless(windowTokens, 'sliding_window_size');
  const bases: Record<LayerType, readonly [string, number]> = {
    full_attention: ['rope_theta', 5e6],
    sliding_attention: ['swa_rope_theta', 1e4],
  };
  const ropes = ropesByType(config, types, (layerType) => {
    const [name, defaultBase] = bases[layerType];
    const part = { partNames: ['partial_rotary_factor'], defaultPart: 0.334 };
    return readRope(config, {
      headDim: keyDim,
      defaultContext: 131072,
      layerType,
      baseNames: [name],
      defaultBase,
      ...part,
    });
  });
  return {
    nHeads,
    kvHeads: (index) => (slides(index) ? sliding : full),
    keyDim,
    valueDim,
    valueScale: config.number(
      ['attention_value_scale'],
      config.has('attention_value_scale') ? 1 : VALUE_SCALE,
    ),
    ropes,
    slides,
    windowTokens,
  };
}

/** Published configurations list the layers that slide, and those that are mixtures, by zeros and ones. */
function readPattern(config: ConfigReader, name: string, blockCount: number): boolean[] | undefined {
  const listed = config.raw(name);
  if (listed === undefined) return undefined;
  if (
    !Array.isArray(listed) ||
    listed.length !== blockCount ||
    !listed.every((one) => one === 0 || one === 1)
  ) {
    throw config.unsupported(name, listed, `lists of ${blockCount} zeros and ones`);
  }
  return listed.map((one) => one === 1);
}

function readSparse(config: ConfigReader, blockCount: number): (index: number) => boolean {
  const pattern = readPattern(config, 'moe_layer_freq', blockCount);
  return (index) => pattern?.[index] ?? index > 0;
}

/** T tokens, H hidden size. */
function forward(
  attention: Attention,
  feedForward: (blockIndex: number) => FeedForward,
  eps: number,
): LayerForward {
  const { nHeads, kvHeads, keyDim, valueDim, valueScale, ropes, slides, windowTokens } = attention;
  return {
    embed: embedTokens,

    block(k, w, x, blockIndex) {
      const normed = k.rmsNorm(x, w('input_layernorm.weight'), eps); // [T, H]
      const q = heads(project(k, w, normed, 'self_attn.q_proj'), nHeads, keyDim);
      const key = heads(project(k, w, normed, 'self_attn.k_proj'), kvHeads(blockIndex), keyDim);
      const values = project(k, w, normed, 'self_attn.v_proj');
      if (valueScale !== 1) k.scaleCap(values, valueScale, 0);
      const rope = ropes.of(blockIndex);
      if (rope) {
        for (const one of [q, key]) k.rotary(one, k.constant(rope.constant), { scale: rope.use.scale });
      }
      const attended = k.attention(q, key, heads(values, kvHeads(blockIndex), valueDim), {
        scale: 1 / Math.sqrt(keyDim),
        ...(slides(blockIndex) ? { windowTokens, sinks: w(SINKS) } : {}),
      }); // [T, nHeads · valueDim]
      project(k, w, attended, 'self_attn.o_proj', x);

      const after = (out?: Tensor) => k.rmsNorm(x, w('post_attention_layernorm.weight'), eps, 0, out); // [T, H]
      feedForward(blockIndex).add(k, w, after, x);
    },

    headInput(k, w, x, out) {
      k.rmsNorm(x, w('norm.weight'), eps, 0, out); // [R, H]
    },
  };
}
