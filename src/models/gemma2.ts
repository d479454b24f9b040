// Gemma 2 (Riviere et al. 2024): norms before and after each half, capped scores and logits, every other layer slides.

import { isDeepStrictEqual } from 'node:util';
import type { LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, tensorsUnder } from './architecture.js';
import {
  attentionShapes,
  project,
  type RotaryAttention,
  readGroupedHeads,
  separateAttention,
} from './decoder-parts.js';
import { readLayerTypes, readLayerWindows } from './layer-windows.js';
import { readRope } from './rope.js';

export const gemma2: Architecture = { modelTypes: ['gemma2'], build };

/** Norm weights are stored as their deviation from one. */
const NORM_OFFSET = 1;
const DEFAULT_CAPS = { attn_logit_softcapping: 50, final_logit_softcapping: 30 } as const;

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless(false, 'use_bidirectional_attention');
  const H = config.count(['hidden_size']);
  const I = config.count(['intermediate_size']);
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const grouped = readGroupedHeads(config, H, 256);
  const { nKv, D } = grouped;
  const attentionBias = config.flag(['attention_bias'], false);
  const slidesByDefault = (index: number) => index % 2 === 0;
  const types = readLayerTypes(config, blockCount, slidesByDefault);
  const rope = (layerType: 'full_attention' | 'sliding_attention') =>
    readRope(config, { headDim: D, defaultContext: 8192, layerType });
  const [full, sliding] = [rope('full_attention'), rope('sliding_attention')];
  if (!isDeepStrictEqual(full.use, sliding.use))
    throw config.unsupported(
      'rope_parameters',
      'scalings of two kinds',
      'one kind of scaling, with any bases',
    );
  return {
    architecture: 'gemma2',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: Math.min(full.contextTokens, sliding.contextTokens),
    recomputeAtTokens: full.recomputeAtTokens,
    lengthDependentAfterTokens: full.lengthDependentAfterTokens,
    kvHeads: nKv,
    headDim: D,
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H] }),
    block: (index) =>
      tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        ...attentionShapes(H, grouped, { qkv: attentionBias, out: attentionBias }),
        'post_attention_layernorm.weight': [H],
        'pre_feedforward_layernorm.weight': [H],
        'mlp.gate_proj.weight': [I, H],
        'mlp.up_proj.weight': [I, H],
        'mlp.down_proj.weight': [H, I],
        'post_feedforward_layernorm.weight': [H],
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: { scale: 1, softCap: readCap(config, 'final_logit_softcapping') },
    constants: { full_attention: full.inverseFrequencies, sliding_attention: sliding.inverseFrequencies },
    forward: forward({
      H,
      attention: {
        ...grouped,
        scale: 1 / Math.sqrt(config.number(['query_pre_attn_scalar'], 256)),
        rope: full.use,
        windowTokens: readLayerWindows(config, blockCount, slidesByDefault, 4096),
        softCap: readCap(config, 'attn_logit_softcapping'),
        frequencies: (index) => types[index] ?? 'full_attention',
      },
      eps: config.number(['rms_norm_eps'], 1e-6),
      activation: readActivation(config, ['hidden_activation'], 'gelu_pytorch_tanh'),
    }),
  };
}

/** Null means none; absent means the paper's. */
function readCap(config: ConfigReader, name: keyof typeof DEFAULT_CAPS): number {
  return config.number([name], config.has(name) ? 0 : DEFAULT_CAPS[name]);
}

interface Dimensions {
  readonly H: number;
  readonly attention: RotaryAttention;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ H, attention, eps, activation }: Dimensions): LayerForward {
  return {
    embed(k, _w, rows, x) {
      const { table, rows: indices } = rows('tokens');
      k.gather(x, table, indices, { scale: Math.sqrt(H) }); // [T, H]
    },

    block(k, w, x, blockIndex) {
      const norm = (from: typeof x, name: string) =>
        k.rmsNorm(from, w(`${name}_layernorm.weight`), eps, NORM_OFFSET); // [T, H]
      const attended = separateAttention(k, w, norm(x, 'input'), attention, blockIndex); // [T, nHeads · D]
      k.add(x, norm(project(k, w, attended, 'self_attn.o_proj'), 'post_attention'), x);

      const before = norm(x, 'pre_feedforward');
      const gate = project(k, w, before, 'mlp.gate_proj'); // [T, I]
      const inner = k.gated(gate, project(k, w, before, 'mlp.up_proj'), activation); // [T, I]
      k.add(x, norm(project(k, w, inner, 'mlp.down_proj'), 'post_feedforward'), x);
    },

    headInput(k, w, x, out) {
      k.rmsNorm(x, w('norm.weight'), eps, NORM_OFFSET, out); // [R, H]
    },
  };
}
