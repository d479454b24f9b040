// Gated DeltaNet (Yang et al. 2024): a convolution, then a state per head that forgets and is corrected by every token.

import {
  type Activation,
  columns,
  type ForwardOps,
  heads,
  innermost,
  reshaped,
  rows,
  splitHeads,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { tensorsUnder } from './architecture.js';
import { project } from './decoder-parts.js';
import type { Mixer } from './mixer.js';

/** A constant of the reference: added to the squares of a query or key. */
const UNIT_EPS = 1e-6;

interface Dimensions {
  readonly H: number;
  /** Heads of queries and keys, and of values; `each` of these share one of those. */
  readonly nK: number;
  readonly nV: number;
  readonly each: number;
  /** Dimensions of a key and of a value. */
  readonly Dk: number;
  readonly Dv: number;
  /** Taps of the convolution. */
  readonly W: number;
  readonly eps: number;
  readonly activation: Activation;
}

/** What the projections give: queries, keys and values after the convolution, and what gates them. */
interface Projected {
  /** [T, nK · Dk + nK · Dk + nV · Dv] */
  readonly mixed: Tensor;
  /** The norm's input is seen in its shape. */
  readonly gate: Tensor;
  /** [T, nK, each] */
  readonly a: Tensor;
  readonly b: Tensor;
}

interface Spelling {
  readonly shapes: (d: Dimensions) => Readonly<Record<string, readonly number[]>>;
  readonly project: (k: ForwardOps, w: Weights, normed: Tensor, d: Dimensions) => Projected;
}

/** In Qwen3.5: a matrix for each, and all heads of one kind beside each other. */
const APART: Spelling = {
  shapes: ({ H, nK, nV, Dk, Dv }) => ({
    'linear_attn.in_proj_qkv.weight': [2 * nK * Dk + nV * Dv, H],
    'linear_attn.in_proj_z.weight': [nV * Dv, H],
    'linear_attn.in_proj_b.weight': [nV, H],
    'linear_attn.in_proj_a.weight': [nV, H],
  }),
  project(k, w, normed, { nK, nV, each, Dv }) {
    const qkv = project(k, w, normed, 'linear_attn.in_proj_qkv'); // [T, C]
    const [T = 0, C = 0] = qkv.shape;
    const mixed = k.empty([T, C]);
    convolve(k, w, { x: heads(qkv, 1, C), out: heads(mixed, 1, C), channel: 0 });
    const gate = heads(project(k, w, normed, 'linear_attn.in_proj_z'), nV, Dv); // [T, nV, Dv]
    // Not rounded: they decide how fast a state is forgotten.
    const number = (name: string) => heads(k.linear(normed, w.matrix(name), {}, k.floats([T, nV])), nK, each); // [T, nK, each]
    return {
      mixed,
      gate,
      a: number('linear_attn.in_proj_a.weight'),
      b: number('linear_attn.in_proj_b.weight'),
    };
  },
};

/** In Qwen3-Next: two matrices, with all that belongs to a key's head beside each other. */
const BY_KEY_HEAD: Spelling = {
  shapes: ({ H, nK, nV, Dk, Dv }) => ({
    'linear_attn.in_proj_qkvz.weight': [2 * nK * Dk + 2 * nV * Dv, H],
    'linear_attn.in_proj_ba.weight': [2 * nV, H],
  }),
  project(k, w, normed, { nK, nV, each, Dk, Dv }) {
    const all = project(k, w, normed, 'linear_attn.in_proj_qkvz'); // [T, nK · (2 · Dk + 2 · each · Dv)]
    const [T = 0] = all.shape;
    const spacing = 2 * Dk + 2 * each * Dv;
    const part = (first: number, size: number) => heads(all, nK, size, first, spacing); // [T, nK, size]
    const mixed = k.empty([T, 2 * nK * Dk + nV * Dv]);
    let channel = 0;
    for (const [first, size] of [
      [0, Dk],
      [Dk, Dk],
      [2 * Dk, each * Dv],
    ] as const) {
      const count = nK * size;
      const out = heads(columns(mixed, channel, count), nK, size); // [T, nK, size]
      convolve(k, w, { x: part(first, size), out, channel });
      channel += count;
    }
    const ba = k.linear(normed, w.matrix('linear_attn.in_proj_ba.weight'), {}, k.floats([T, 2 * nV]));
    const gate = splitHeads(part(2 * Dk + each * Dv, each * Dv), each); // [T, nK, each, Dv]
    return { mixed, gate, a: heads(ba, nK, each, each, 2 * each), b: heads(ba, nK, each, 0, 2 * each) };
  },
};

interface Channels {
  /** [T, G, D] each. */
  readonly x: Tensor;
  readonly out: Tensor;
  /** The first of them among all. */
  readonly channel: number;
}

function convolve(k: ForwardOps, w: Weights, { x, out, channel }: Channels): void {
  const weight = w('linear_attn.conv1d.weight'); // [C, 1, W]
  const [C = 0, , W = 0] = weight.shape;
  const count = (x.shape[1] ?? 0) * (x.shape[2] ?? 0);
  k.causalConv(x, rows(reshaped(weight, [C, W]), channel, count), out, {
    state: innermost(k.state('inputs'), channel, count),
    activation: 'silu',
  });
}

/** @param byKeyHead how the projections are stored. Throws BAD_CONFIG or UNSUPPORTED. */
export function gatedDelta(config: ConfigReader, H: number, byKeyHead: boolean): Mixer {
  const nK = config.count(['linear_num_key_heads'], 16);
  const nV = config.count(['linear_num_value_heads'], 32);
  const each = config.divided(nV, nK, 'linear_num_value_heads over linear_num_key_heads');
  const Dk = config.count(['linear_key_head_dim'], 128);
  const Dv = config.count(['linear_value_head_dim'], 128);
  const W = config.count(['linear_conv_kernel_dim'], 4);
  const eps = config.number(['rms_norm_eps'], 1e-6);
  const activation = readActivation(config, ['hidden_act'], 'silu');
  if (activation !== 'silu') throw config.unsupported('hidden_act', config.raw('hidden_act'), 'silu');
  const d = { H, nK, nV, each, Dk, Dv, W, eps, activation };
  const C = 2 * nK * Dk + nV * Dv;
  const spelling = byKeyHead ? BY_KEY_HEAD : APART;
  return {
    tensors: (path) =>
      tensorsUnder(path, {
        ...spelling.shapes(d),
        'linear_attn.conv1d.weight': [C, 1, W],
        'linear_attn.A_log': [nV],
        'linear_attn.dt_bias': [nV],
        'linear_attn.norm.weight': [Dv],
        'linear_attn.out_proj.weight': [H, nV * Dv],
      }),
    cache: {
      kind: 'recurrent',
      fields: [
        { name: 'inputs', shape: [W - 1, C], dtype: 'f32' },
        { name: 'memory', shape: [nV, Dk, Dv], dtype: 'f32' },
      ],
    },
    add(k, w, norm, x) {
      const normed = norm(); // [T, H]
      const { mixed, gate, a, b } = spelling.project(k, w, normed, d);
      const keys = (first: number) => heads(columns(mixed, first, nK * Dk), nK, Dk); // [T, nK, Dk]
      const values = heads(columns(mixed, 2 * nK * Dk, nV * Dv), nV, Dv); // [T, nV, Dv]
      const read = k.stateScan(keys(0), keys(nK * Dk), values, {
        state: k.state('memory'),
        step: a,
        beta: b,
        stepBias: w('linear_attn.dt_bias'),
        decay: w('linear_attn.A_log'),
        normEps: UNIT_EPS,
        queryScale: Dk ** -0.5,
      }); // [T, nV, Dv]
      const seen = reshaped(read, gate.shape);
      const normal = k.gatedRms(seen, gate, w('linear_attn.norm.weight'), { eps, gateFirst: false });
      const [T = 0] = x.shape;
      project(k, w, reshaped(normal, [T, nV * Dv]), 'linear_attn.out_proj', x);
    },
  };
}
