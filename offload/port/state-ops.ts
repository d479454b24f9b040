// Operations of layers that keep a state per sequence in place of cached keys and values. T tokens.

import type { Activation, Effects, Tensor } from './operands.js';

/** Which tokens of a micro-batch belong to which sequence, and where their states lie. */
export interface StateTables {
  /** As in AttentionTables. A sequence whose tokens here are all that it has begins now: whatever its slot held is not read. */
  readonly sequences: Tensor;
  /** i32 [S]: the slot of each sequence in a block's states; no two have the same one. */
  readonly slots: Tensor;
}

export type StateOp =
  /**
   * A convolution along each sequence, channel by channel: out[t, c] = act(bias[c] + Σⱼ weight[c, j] · x[t − (W − 1) + j, c]).
   * x, out [T, G, D] of C = G · D channels, weight [C, W] and bias [C] of a float type, state f32 [slots, W − 1, C]: the inputs
   * before the first of these, where the sequence has any, and zeros before those. It holds the last W − 1 afterwards.
   */
  | {
      readonly op: 'causal_conv';
      out: Tensor;
      x: Tensor;
      weight: Tensor;
      bias: Tensor | null;
      state: Tensor;
      tables: StateTables;
      activation: Activation;
    }
  /**
   * A linear recurrence along each sequence, with a state S [Dk, Dv] of each head h of v in place of a cache. Per token, with
   * s = softplus(step[h] + stepBias[h]), at least minStep and at most maxStep, and γ = exp(−exp(decay[h]) · s):
   * S ← γ·S; δ = s·v, or with `beta` sigmoid(beta[h]) · (v − Sᵀk); S ← S + k·δᵀ; out = Sᵀq (+ skip[h] · v).
   * q, k [T, Hk, Dk], each of which serves Hv / Hk neighbouring heads; v, out [T, Hv, Dv]; step, beta [T, Hk, Hv / Hk]; stepBias,
   * decay, skip [Hv] of a float type; state f32 [slots, Hv, Dk, Dv]. Where `normEps` is not 0, q and k are first divided by
   * √(Σx² + normEps); q counts `queryScale` times.
   */
  | {
      readonly op: 'state_scan';
      out: Tensor;
      q: Tensor;
      k: Tensor;
      v: Tensor;
      step: Tensor;
      beta: Tensor | null;
      stepBias: Tensor;
      decay: Tensor;
      skip: Tensor | null;
      state: Tensor;
      tables: StateTables;
      minStep: number;
      /** May be infinite. */
      maxStep: number;
      normEps: number;
      queryScale: number;
    }
  /**
   * Over the last dimension: x / sqrt(mean(x²) + eps) · weight · silu(gate), or with `gateFirst` the same of x · silu(gate) without
   * a gate behind. out, x, gate of one shape […, G, D]; weight of a float type [D], or [G · D] where every group has its own.
   */
  | {
      readonly op: 'gated_rms';
      out: Tensor;
      x: Tensor;
      gate: Tensor;
      weight: Tensor;
      eps: number;
      gateFirst: boolean;
    }
  /**
   * One entry for every run of R tokens of a sequence, counted from its first: each channel the mean of values, weighed by a softmax
   * over the run of gate + bias. values, gates f32 [T, S, D]: with S = 1 an entry is of its own run; with S = 2 of the second series of
   * its own run and the first series of the run before, where there is one. Then the entry is normed as by `rms_norm` with `norm`
   * [D], and its last 2·F values turn as by `rotary`, interleaved, by the position of the run's first token.
   * bias [R, S · D], norm of a float type. Entries f32 [slots, E, D]: that of run w is written where its last token is among
   * these. state f32 [slots, S, 3, D], of what has been seen of runs that are open: largest, sum, and weighted sum.
   */
  | {
      readonly op: 'compress';
      entries: Tensor;
      values: Tensor;
      gates: Tensor;
      bias: Tensor;
      norm: Tensor;
      inverseFrequencies: Tensor;
      state: Tensor;
      tables: StateTables;
      eps: number;
      rotaryScale: number;
    }
  /**
   * out[t, h] of q [T, heads, D] = attention over the latest W positions of the sequence, the token's own included, and after these
   * the entries of all runs of `ratio` tokens that have ended with it; a key is its own value. k f32 [T, D] are the tokens' own keys,
   * window f32 [slots, W, D] those of positions before, each at position % W: it holds the latest ones afterwards.
   * entries f32 [slots, E, D] or null, sinks as in ScoreRule.
   */
  | {
      readonly op: 'window_attention';
      out: Tensor;
      q: Tensor;
      k: Tensor;
      window: Tensor;
      entries: Tensor | null;
      sinks: Tensor | null;
      tables: StateTables;
      ratio: number;
      scale: number;
    };

export function stateEffects(op: StateOp): Effects {
  switch (op.op) {
    case 'causal_conv': {
      const { x, weight, bias, state, tables } = op;
      const reads = [x, weight, state, tables.sequences, tables.slots];
      return { reads: bias ? [...reads, bias] : reads, writes: [op.out, state] };
    }
    case 'state_scan': {
      const { q, k, v, step, beta, stepBias, decay, skip, state, tables } = op;
      const all = [q, k, v, step, beta, stepBias, decay, skip, state, tables.sequences, tables.slots];
      return { reads: all.filter((tensor) => tensor !== null), writes: [op.out, state] };
    }
    case 'gated_rms':
      return { reads: [op.x, op.gate, op.weight], writes: [op.out] };
    case 'compress': {
      const { values, gates, bias, norm, inverseFrequencies, state, tables, entries } = op;
      const reads = [values, gates, bias, norm, inverseFrequencies, state, tables.sequences, tables.slots];
      return { reads, writes: [entries, state] };
    }
    case 'window_attention': {
      const { q, k, window, entries, sinks, tables } = op;
      const all = [q, k, window, entries, sinks, tables.sequences, tables.slots];
      return { reads: all.filter((tensor) => tensor !== null), writes: [op.out, window] };
    }
  }
}
