// GPT-J (Wang & Komatsuzaki 2021): attention and feed-forward side by side after one norm, interleaved partial rotary.

import { alikeCaches, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { embedTokens } from './decoder-parts.js';
import { plainFrequencies } from './rope.js';

export const gptj: Architecture = { modelTypes: ['gptj'], build };

const ROPE_BASE = 10000;

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['n_embd', 'hidden_size']);
  const nHeads = config.count(['n_head', 'num_attention_heads']);
  const V = config.count(['vocab_size']);
  const I = config.count(['n_inner'], 4 * H);
  const D = config.divided(H, nHeads, 'n_embd over n_head');
  const rotatedDims = readRotatedDims(config, D);
  config.refuseUnless(null, 'rope_scaling', 'rope_parameters');
  config.refuseUnless(true, 'rotary', 'scale_attn_weights');
  const blockCount = config.count(['n_layer', 'num_hidden_layers']);
  return {
    architecture: 'gptj',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: config.count(['n_positions', 'max_position_embeddings'], 2048),
    caches: alikeCaches(blockCount, nHeads, D),
    blockCount,
    prefixes: ['transformer.'],
    tables: [{ key: 'tokens', name: 'wte.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'ln_f.weight': [H], 'ln_f.bias': [H] }),
    block: (index) =>
      tensorsUnder(`h.${index}.`, {
        'ln_1.weight': [H],
        'ln_1.bias': [H],
        'attn.q_proj.weight': [H, H],
        'attn.k_proj.weight': [H, H],
        'attn.v_proj.weight': [H, H],
        'attn.out_proj.weight': [H, H],
        'mlp.fc_in.weight': [I, H],
        'mlp.fc_in.bias': [I],
        'mlp.fc_out.weight': [H, I],
        'mlp.fc_out.bias': [H],
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      bias: { key: 'bias', name: 'lm_head.bias', shape: [V] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: { inverse_frequencies: Float32Array.from(plainFrequencies(rotatedDims, ROPE_BASE)) },
    forward: forward({
      nHeads,
      D,
      eps: config.number(['layer_norm_epsilon'], 1e-5),
      activation: readActivation(config, ['activation_function'], 'gelu_new'),
    }),
  };
}

function readRotatedDims(config: ConfigReader, D: number): number {
  const dims = config.has('rotary_dim') ? config.raw('rotary_dim') : 64;
  if (typeof dims === 'number' && dims >= 2 && dims <= D && dims % 2 === 0) return dims;
  throw config.unsupported('rotary_dim', dims ?? null, `even numbers up to the ${D} dimensions of a head`);
}

interface Dimensions {
  readonly nHeads: number;
  readonly D: number;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ nHeads, D, eps, activation }: Dimensions): LayerForward {
  return {
    embed: embedTokens,

    block(k, w, x) {
      const normed = k.layerNorm(x, w('ln_1.weight'), w('ln_1.bias'), eps); // [T, H], for both halves
      const part = (name: string) => heads(k.linear(normed, w.matrix(`attn.${name}.weight`)), nHeads, D);
      const [q, key, value] = [part('q_proj'), part('k_proj'), part('v_proj')]; // [T, nHeads, D]
      const frequencies = k.constant('inverse_frequencies'); // [rotated dimensions / 2]
      k.rotary(q, frequencies, { interleaved: true });
      k.rotary(key, frequencies, { interleaved: true });
      const attended = k.attention(q, key, value, { scale: 1 / Math.sqrt(D) }); // [T, H]
      k.linear(attended, w.matrix('attn.out_proj.weight'), { addTo: x });

      const inner = k.linear(normed, w.matrix('mlp.fc_in.weight'), { bias: w('mlp.fc_in.bias'), activation }); // [T, I]
      k.linear(inner, w.matrix('mlp.fc_out.weight'), { bias: w('mlp.fc_out.bias'), addTo: x });
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('ln_f.weight'), w('ln_f.bias'), eps, out); // [R, H]
    },
  };
}
