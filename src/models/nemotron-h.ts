// Nemotron-H and Nemotron 3 (NVIDIA 2025): every block is one mixer behind a norm: Mamba 2, attention that knows nothing of positions,
// a feed-forward without a gate, or a mixture of such.

import { type Activation, heads } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { embedTokens, type GroupedHeads, project, readGroupedHeads } from './decoder-parts.js';
import { mamba, readStepLimits } from './mamba.js';
import type { Mixer } from './mixer.js';
import { readMixture } from './nemotron-mixture.js';

type BlockType = 'mamba' | 'attention' | 'moe' | 'mlp';

/** What configurations call them, in a list or as letters of a text. */
const TYPES: Readonly<Record<string, BlockType>> = {
  linear_attention: 'mamba',
  mamba: 'mamba',
  M: 'mamba',
  full_attention: 'attention',
  attention: 'attention',
  '*': 'attention',
  moe: 'moe',
  E: 'moe',
  mlp: 'mlp',
  '-': 'mlp',
};

export const nemotronH: Architecture = { modelTypes: ['nemotron_h'], build };

function build(config: ConfigReader): ArchitectureModel {
  // The reference passes over these, so they may only say what it does.
  config.refuseUnless(false, 'attention_bias', 'mamba_proj_bias', 'residual_in_fp32');
  config.refuseUnless(null, 'sliding_window');
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const types = readTypes(config);
  const eps = config.number(['layer_norm_epsilon', 'norm_eps'], 1e-5);
  const activation = readActivation(config, ['mlp_hidden_act'], 'relu2');
  const bias = config.flag(['mlp_bias'], false);
  const grouped = readGroupedHeads(config, H, 128);
  const I = types.includes('mlp') ? config.count(['intermediate_size']) : 0;
  const known = new Map<BlockType, Mixer>();
  const make: Readonly<Record<BlockType, () => Mixer>> = {
    mamba: () => readMamba(config, H, eps),
    attention: () => attention(H, grouped),
    mlp: () => plainFeedForward({ H, I, activation, bias }),
    moe: () => readMixture(config, { H, activation, bias }),
  };
  const mixers = types.map((type) => {
    const mixer = known.get(type) ?? make[type]();
    known.set(type, mixer);
    return mixer;
  });
  const mixerOf = (index: number) => mixers[index] ?? make.mlp();
  return {
    architecture: 'nemotron_h',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: config.count(['max_position_embeddings'], 4096),
    caches: mixers.map(({ cache }) => cache),
    blockCount: types.length,
    prefixes: ['backbone.', 'model.'],
    tables: [{ key: 'tokens', name: 'embeddings.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm_f.weight': [H] }),
    block: (index) => [
      ...tensorsUnder(`layers.${index}.`, { 'norm.weight': [H] }),
      ...mixerOf(index).tensors(`layers.${index}.`),
    ],
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: {},
    forward: {
      embed: embedTokens,
      block(k, w, x, blockIndex) {
        mixerOf(blockIndex).add(k, w, (out) => k.rmsNorm(x, w('norm.weight'), eps, 0, out), x);
      },
      headInput(k, w, x, out) {
        k.rmsNorm(x, w('norm_f.weight'), eps, 0, out); // [R, H]
      },
    },
  };
}

/** A list of names, or one letter per block. */
function readTypes(config: ConfigReader): BlockType[] {
  const listed = config.raw('layers_block_type', 'layer_types', 'hybrid_override_pattern');
  const names: unknown[] = typeof listed === 'string' ? [...listed] : Array.isArray(listed) ? listed : [];
  if (names.length === 0) {
    throw config.unsupported('layers_block_type', listed ?? null, 'a list with a kind for every block');
  }
  return names.map((name) => {
    const type = typeof name === 'string' && Object.hasOwn(TYPES, name) ? TYPES[name] : undefined;
    if (type) return type;
    throw config.unsupported('layers_block_type', name, Object.keys(TYPES).join(', '));
  });
}

function readMamba(config: ConfigReader, H: number, eps: number): Mixer {
  config.refuseUnless('silu', 'mamba_hidden_act');
  const { minStep, maxStep } = readStepLimits(config);
  const heads = config.count(['mamba_num_heads'], 128);
  const groups = config.count(['n_groups', 'mamba_n_groups'], 8);
  config.divided(heads, groups, 'mamba_num_heads over n_groups');
  const bias = config.flag(['use_bias'], false);
  return mamba('mixer', {
    H,
    heads,
    P: config.count(['mamba_head_dim'], 64),
    N: config.count(['ssm_state_size'], 128),
    groups,
    normGroups: groups,
    W: config.count(['conv_kernel', 'mamba_d_conv'], 4),
    convBias: config.flag(['use_conv_bias', 'mamba_conv_bias'], true),
    bias,
    eps,
    // The reference takes the smallest step from another key, and no largest one.
    minStep: Math.max(minStep, config.number(['time_step_min', 'mamba_dt_min'], 0.001)),
    maxStep,
  });
}

function attention(H: number, { nHeads, nKv, D }: GroupedHeads): Mixer {
  return {
    tensors: (path) =>
      tensorsUnder(path, {
        'mixer.q_proj.weight': [nHeads * D, H],
        'mixer.k_proj.weight': [nKv * D, H],
        'mixer.v_proj.weight': [nKv * D, H],
        'mixer.o_proj.weight': [H, nHeads * D],
      }),
    cache: { kind: 'paged', kvHeads: nKv, keyDim: D, valueDim: D, valuesInKeys: false },
    add(k, w, norm, x) {
      const normed = norm(); // [T, H]
      const part = (name: string, count: number) => heads(project(k, w, normed, `mixer.${name}`), count, D);
      const [q, key, value] = [part('q_proj', nHeads), part('k_proj', nKv), part('v_proj', nKv)];
      const seen = k.attention(q, key, value, { scale: 1 / Math.sqrt(D) }); // [T, nHeads · D]
      project(k, w, seen, 'mixer.o_proj', x);
    },
  };
}

interface PlainDimensions {
  readonly H: number;
  readonly I: number;
  readonly activation: Activation;
  readonly bias: boolean;
}

/** x + down(act(up(norm x))). */
function plainFeedForward({ H, I, activation, bias }: PlainDimensions): Mixer {
  return {
    tensors: (path) =>
      tensorsUnder(path, {
        'mixer.up_proj.weight': [I, H],
        'mixer.up_proj.bias': bias ? [I] : undefined,
        'mixer.down_proj.weight': [H, I],
        'mixer.down_proj.bias': bias ? [H] : undefined,
      }),
    cache: { kind: 'none' },
    add(k, w, norm, x) {
      const inner = k.linear(norm(), w.matrix('mixer.up_proj.weight'), {
        bias: w.optional('mixer.up_proj.bias'),
        activation,
      }); // [T, I]
      project(k, w, inner, 'mixer.down_proj', x);
    },
  };
}
