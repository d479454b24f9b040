// OPT (Zhang et al. 2022): GPT-3's decoder; the 350M variant norms after each half and projects its embeddings.

import {
  alikeCaches,
  dimension,
  type ForwardOps,
  heads,
  type LayerForward,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { project } from './decoder-parts.js';

export const opt: Architecture = { modelTypes: ['opt'], isShareable: true, build };

const EPS = 1e-5;
/** Rows of the position table before that of position 0. */
const POSITION_OFFSET = 2;

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const E = config.count(['word_embed_proj_dim'], H);
  const I = config.shared(config.count(['ffn_dim']), 'ffn_dim');
  const V = config.count(['vocab_size']);
  const allHeads = config.count(['num_attention_heads']);
  const nHeads = config.shared(allHeads, 'num_attention_heads');
  const D = config.divided(H, allHeads, 'hidden_size over num_attention_heads');
  const A = nHeads * D;
  const context = config.count(['max_position_embeddings'], 2048);
  const blockCount = config.count(['num_hidden_layers']);
  const normFirst = config.flag(['do_layer_norm_before'], true);
  const normLast = !normFirst || !config.flag(['_remove_final_layer_norm'], false);
  const affine = config.flag(['layer_norm_elementwise_affine'], true);
  const biased = config.flag(['enable_bias'], true);
  const vector = (present: boolean, size = H) => (present ? [size] : undefined);
  const lastNorm = { 'final_layer_norm.weight': vector(affine), 'final_layer_norm.bias': vector(affine) };
  return {
    architecture: 'opt',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: context,
    caches: alikeCaches(blockCount, nHeads, D),
    blockCount,
    prefixes: ['model.decoder.', 'decoder.'],
    tables: [
      { key: 'tokens', name: 'embed_tokens.weight', shape: [V, E], rowsFrom: 'token', rowOffset: 0 },
      {
        key: 'positions',
        name: 'embed_positions.weight',
        shape: [context + POSITION_OFFSET, H],
        rowsFrom: 'position',
        rowOffset: POSITION_OFFSET,
      },
    ],
    fixed: [
      ...tensorsUnder('', {
        'project_in.weight': E === H ? undefined : [H, E],
        'project_out.weight': E === H ? undefined : [E, H],
      }),
      // Where norms come last, the head begins with the last block's.
      ...tensorsUnder(normFirst ? '' : `layers.${blockCount - 1}.`, normLast ? lastNorm : {}),
    ],
    block: (index) =>
      tensorsUnder(`layers.${index}.`, {
        'self_attn.q_proj.weight': [A, H],
        'self_attn.q_proj.bias': vector(biased, A),
        'self_attn.k_proj.weight': [A, H],
        'self_attn.k_proj.bias': vector(biased, A),
        'self_attn.v_proj.weight': [A, H],
        'self_attn.v_proj.bias': vector(biased, A),
        'self_attn.out_proj.weight': [H, A],
        'self_attn.out_proj.bias': vector(biased),
        'self_attn_layer_norm.weight': vector(affine),
        'self_attn_layer_norm.bias': vector(affine),
        'fc1.weight': [I, H],
        'fc1.bias': vector(biased, I),
        'fc2.weight': [H, I],
        'fc2.bias': vector(biased),
        ...(normFirst || index < blockCount - 1 ? lastNorm : {}),
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, E] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: { ones: new Float32Array(H).fill(1), zeros: new Float32Array(H) },
    forward: forward({
      H,
      E,
      nHeads,
      D,
      blockCount,
      normFirst,
      normLast,
      activation: readActivation(config, ['activation_function'], 'relu'),
    }),
  };
}

interface Dimensions {
  readonly H: number;
  /** Size of the embeddings, before and after the blocks. */
  readonly E: number;
  readonly nHeads: number;
  readonly D: number;
  readonly blockCount: number;
  /** Norms come before each half of a block, not after. */
  readonly normFirst: boolean;
  /** The head's input is normed. */
  readonly normLast: boolean;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, E embedding size, D head dimension, I inner size. */
function forward({ H, E, nHeads, D, blockCount, normFirst, normLast, activation }: Dimensions): LayerForward {
  return {
    embed(k, w, rows, x) {
      const [tokens, positions] = [rows('tokens'), rows('positions')];
      const embedded = k.gather(E === H ? x : k.empty([dimension(x, 0), E]), tokens.table, tokens.rows); // [T, E]
      if (E !== H) k.linear(embedded, w.matrix('project_in.weight'), {}, x); // [T, H]
      k.gather(x, positions.table, positions.rows, { accumulate: true });
    },

    block(k, w, x, blockIndex) {
      const input = normFirst ? norm(k, w, x, 'self_attn_layer_norm') : x; // [T, H]
      const part = (name: string) => heads(project(k, w, input, `self_attn.${name}`), nHeads, D);
      const [q, key, value] = [part('q_proj'), part('k_proj'), part('v_proj')]; // [T, nHeads, D]
      const attended = k.attention(q, key, value, { scale: 1 / Math.sqrt(D) }); // [T, A]
      project(k, w, attended, 'self_attn.out_proj', x);
      if (!normFirst) norm(k, w, x, 'self_attn_layer_norm', x);

      const after = normFirst ? norm(k, w, x, 'final_layer_norm') : x; // [T, H]
      const inner = k.linear(after, w.matrix('fc1.weight'), { bias: w.optional('fc1.bias'), activation }); // [T, I]
      project(k, w, inner, 'fc2', x);
      if (!normFirst && blockIndex < blockCount - 1) norm(k, w, x, 'final_layer_norm', x);
    },

    headInput(k, w, x, out) {
      const target = E === H ? out : undefined;
      const normed = normLast ? norm(k, w, x, 'final_layer_norm', target) : x; // [R, H]
      if (E !== H)
        k.linear(normed, w.matrix('project_out.weight'), {}, out); // [R, E]
      else if (!normLast) k.add(x, everyRow(k.constant('zeros'), dimension(x, 0)), out);
    },
  };
}

/** With `layer_norm_elementwise_affine` false the norm has neither weight nor bias. */
function norm(k: ForwardOps, w: Weights, x: Tensor, name: string, out?: Tensor): Tensor {
  const weight = w.optional(`${name}.weight`) ?? k.constant('ones');
  return k.layerNorm(x, weight, w.optional(`${name}.bias`), EPS, out);
}

/** A vector [H] seen as [count, H]. */
function everyRow(vector: Tensor, count: number): Tensor {
  return { ...vector, shape: [count, ...vector.shape], strides: [0, 1] };
}
