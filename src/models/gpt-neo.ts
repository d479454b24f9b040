// GPT-Neo (Black et al. 2021): GPT-2 with every other layer's attention local, and scores that are not scaled.

import { alikeCaches, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { embedTokensAndPositions } from './decoder-parts.js';

export const gptNeo: Architecture = { modelTypes: ['gpt_neo'], build };

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const nHeads = config.count(['num_heads', 'num_attention_heads']);
  const V = config.count(['vocab_size']);
  const I = config.count(['intermediate_size'], 4 * H);
  const D = config.divided(H, nHeads, 'hidden_size over num_heads');
  const blockCount = config.count(['num_layers', 'num_hidden_layers']);
  const context = config.count(['max_position_embeddings'], 2048);
  const windows = readWindows(config, blockCount);
  return {
    architecture: 'gpt_neo',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: context,
    caches: alikeCaches(blockCount, nHeads, D, { windowTokens: (index) => windows[index] ?? 0 }),
    blockCount,
    prefixes: ['transformer.'],
    tables: [
      { key: 'tokens', name: 'wte.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 },
      { key: 'positions', name: 'wpe.weight', shape: [context, H], rowsFrom: 'position', rowOffset: 0 },
    ],
    fixed: tensorsUnder('', { 'ln_f.weight': [H], 'ln_f.bias': [H] }),
    block: (index) =>
      tensorsUnder(`h.${index}.`, {
        'ln_1.weight': [H],
        'ln_1.bias': [H],
        'attn.attention.q_proj.weight': [H, H],
        'attn.attention.k_proj.weight': [H, H],
        'attn.attention.v_proj.weight': [H, H],
        'attn.attention.out_proj.weight': [H, H],
        'attn.attention.out_proj.bias': [H],
        'ln_2.weight': [H],
        'ln_2.bias': [H],
        'mlp.c_fc.weight': [I, H],
        'mlp.c_fc.bias': [I],
        'mlp.c_proj.weight': [H, I],
        'mlp.c_proj.bias': [H],
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: {},
    forward: forward({
      nHeads,
      D,
      eps: config.number(['layer_norm_epsilon'], 1e-5),
      activation: readActivation(config, ['activation_function'], 'gelu_new'),
      windows,
    }),
  };
}

/** @returns tokens a layer sees, 0 for all */
function readWindows(config: ConfigReader, blockCount: number): number[] {
  const window = config.count(['window_size'], 256);
  const name = config.raw('attention_layers') === undefined ? 'attention_types' : 'attention_layers';
  const kinds = name === 'attention_layers' ? config.raw(name) : readTypes(config, blockCount);
  if (!Array.isArray(kinds) || kinds.length !== blockCount) {
    throw config.unsupported(name, config.raw(name), `kinds of ${blockCount} layers`);
  }
  return kinds.map((kind: unknown) => {
    if (kind !== 'global' && kind !== 'local') throw config.unsupported(name, kind, 'global, local');
    return kind === 'local' ? window : 0;
  });
}

/** `[[['global', 'local'], 12]]` repeats the kinds 12 times; a list of all layers' kinds beside it counts more. */
function readTypes(config: ConfigReader, blockCount: number): unknown[] {
  const types = config.raw('attention_types') ?? [[['global', 'local'], blockCount / 2]];
  const groups = Array.isArray(types) ? types : [];
  return groups.flatMap((group: unknown) => {
    const [names, times] = Array.isArray(group) ? group : [];
    const isWhole =
      typeof times === 'number' && Number.isSafeInteger(times) && times >= 0 && times <= blockCount;
    return Array.isArray(names) && isWhole ? Array<unknown[]>(times).fill(names).flat() : [];
  });
}

interface Dimensions {
  readonly nHeads: number;
  readonly D: number;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
  /** By layer; 0 for all tokens. */
  readonly windows: readonly number[];
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ nHeads, D, eps, activation, windows }: Dimensions): LayerForward {
  return {
    embed: embedTokensAndPositions,

    block(k, w, x, blockIndex) {
      const normed = k.layerNorm(x, w('ln_1.weight'), w('ln_1.bias'), eps); // [T, H]
      const part = (name: string) =>
        heads(k.linear(normed, w.matrix(`attn.attention.${name}.weight`)), nHeads, D);
      const [q, key, value] = [part('q_proj'), part('k_proj'), part('v_proj')]; // [T, nHeads, D]
      // The first checkpoints were trained without 1 / √D, and all have kept it so.
      const attended = k.attention(q, key, value, { scale: 1, windowTokens: windows[blockIndex] ?? 0 }); // [T, H]
      k.linear(attended, w.matrix('attn.attention.out_proj.weight'), {
        bias: w('attn.attention.out_proj.bias'),
        addTo: x,
      });

      const after = k.layerNorm(x, w('ln_2.weight'), w('ln_2.bias'), eps); // [T, H]
      const inner = k.linear(after, w.matrix('mlp.c_fc.weight'), { bias: w('mlp.c_fc.bias'), activation }); // [T, I]
      k.linear(inner, w.matrix('mlp.c_proj.weight'), { bias: w('mlp.c_proj.bias'), addTo: x });
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('ln_f.weight'), w('ln_f.bias'), eps, out); // [R, H]
    },
  };
}
