// The kernel vocabulary: every operation a device can run, as plain data that names what it reads and writes.

import { DTYPE_BYTES } from './dtype.js';
import type { Exchange } from './exchange.js';
import { type HostOp, hostEffects } from './host-ops.js';
import { type HyperOp, hyperEffects } from './hyper-ops.js';
import { type MixtureOp, mixtureEffects } from './mixture-ops.js';
import { type Activation, type Effects, partsOf, type Tensor, type Weight } from './operands.js';
import { type StateOp, stateEffects } from './state-ops.js';

export type { AsideExperts, HostMail, HostSlots, HostSlotTables } from './host-ops.js';
export type { ExpertSlots, SlotTables } from './mixture-ops.js';
export { type Activation, type Memory, partsOf, type Tensor, type Weight } from './operands.js';
export { PLAIN_ROUTE, type RouteRule, type RouteScore } from './route-rule.js';
export type { StateTables } from './state-ops.js';

/**
 * Which tokens of a micro-batch belong to which sequence, and where the sequences' cached keys and values lie.
 * Tokens of all sequences are packed without padding: T = Σ query counts.
 */
export interface AttentionTables {
  /**
   * i32 [S, 4] per sequence: first token in the micro-batch, token count, context length after it, first entry in
   * `pages`; in order of the first token.
   */
  readonly sequences: Tensor;
  /** i32 [P]: page numbers of each sequence, in order of context position. */
  readonly pages: Tensor;
  /** i32 [T]: slot = page · pageTokens + offset, where each token's key and value are stored. */
  readonly slots: Tensor;
  /** i32 [T]: position of each token in its sequence. */
  readonly positions: Tensor;
  /** i32 [T]: the tokens themselves, where a model's blocks ask for them. */
  readonly tokens?: Tensor | undefined;
  /** No sequence has a longer context. */
  readonly maxContextTokens: number;
}

/**
 * One block's cached keys and values: [pages, kvHeads, pageTokens, D or Dv] of f32, f16 or bf16, or as codes beside scales, which
 * are bf16 [pages, kvHeads, pageTokens, groups] and null for floats. A value is code · scale.
 *
 * | type | code | scale = largest magnitude / | groups |
 * |---|---|---|---|
 * | e4m3 | itself | 448 | 1: of a token's head |
 * | i8 | itself | 127 | 1 |
 * | u8 [pages, kvHeads, pageTokens, D / 2] | a nibble − 8, the even d's in the low one | 7 | of 32 values each, 1 where D is no multiple of 32 |
 *
 * The scale is rounded to bf16 first, then value / scale in f32 to the nearest code, ties to even, within the largest. A
 * group of zeros has scale 0 and codes 0; one whose scale is no finite number has scale NaN, so that all of it reads as
 * NaN. Codes of a scale of 0 or NaN are those of 0.
 */
export interface BlockCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly keyScales: Tensor | null;
  readonly valueScales: Tensor | null;
}

/** What attention makes of the product of a query and a key: score = scale · q·k, and what is added to that. */
export interface ScoreRule {
  readonly scale: number;
  /**
   * Press et al. 2022: score + slope · key position, slopes f32 [heads]. With `rounded`, position, product and so the bias are
   * rounded to bfloat16 and count before the scale: score = scale · (q·k + bf16(slope · bf16(position))).
   */
  readonly alibi?: { readonly slopes: Tensor; readonly rounded?: boolean };
  /** Then softCap · tanh(score / softCap); 0 or absent for none. */
  readonly softCap?: number;
  /** [heads] of a float type: one more score in a head's softmax, which weighs nothing. */
  readonly sinks?: Tensor | undefined;
  /** A token sees this many latest positions, itself included; 0 or absent for all. */
  readonly windowTokens?: number;
  /** A token sees positions of its own run of so many, counted from the first one; 0 or absent for all. */
  readonly chunkTokens?: number;
}

/** How each row's token is drawn. */
export interface SamplingTables {
  /** f32 [R, 4]: temperature (0 takes the largest), top-p, min-p, repetition penalty. */
  readonly settings: Tensor;
  /** i32 [R, 4]: top-k (0 for all), 32 random bits, first entry in `history`, number of entries. */
  readonly draws: Tensor;
  /** i32 [H]: tokens that the repetition penalty applies to. */
  readonly history: Tensor;
  /** Absent: nothing. */
  readonly added?: AddedLogits | undefined;
  /** Absent: every token may be drawn. */
  readonly allowed?: AllowedTokens | undefined;
}

/** What is added to the logits of single tokens; a row names each token once. */
export interface AddedLogits {
  /** i32 [R, 2]: a row's first entry, and how many it has. */
  readonly entriesOf: Tensor;
  /** i32 [A] */
  readonly tokens: Tensor;
  /** f32 [A] */
  readonly values: Tensor;
}

/** Which tokens may be drawn, for some rows. */
export interface AllowedTokens {
  /** i32 [R]: the row of `masks` that a row of logits has, or a negative number for all tokens. */
  readonly maskOf: Tensor;
  /** i32 [M, ⌈V / 32⌉]: bit t % 32 of word t / 32 is set where token t may be drawn. */
  readonly masks: Tensor;
}

/** In place of a token where the logits say nothing. */
export const NO_TOKEN = -1;

/**
 * One operation. Activations are f32 where a device computes on host memory; elsewhere each may also be f16 or bf16, and
 * sums are f32 all the same. Weights keep their stored format. T tokens, H hidden size, N outputs.
 */
export type Op =
  /** out[t] (+)= table[rows[t]] · scale; `out` [T, H], `table` [R, H] any type, `rows` i32 [T]. */
  | {
      readonly op: 'gather_rows';
      out: Tensor;
      table: Tensor;
      rows: Tensor;
      accumulate: boolean;
      scale: number;
    }
  /**
   * Over the last dimension of x: (x − mean) / sqrt(var + eps) · (weight + weightOffset) + bias. x, out [T, H] or
   * [T, heads, D]; weight is that dimension long, or [heads, D] where every head has its own.
   */
  | {
      readonly op: 'layer_norm';
      out: Tensor;
      x: Tensor;
      weight: Tensor;
      bias: Tensor | null;
      eps: number;
      weightOffset?: number;
    }
  /** Over the last dimension of x: x / sqrt(mean(x²) + eps) · (weight + weightOffset); without a weight, times nothing. */
  | {
      readonly op: 'rms_norm';
      out: Tensor;
      x: Tensor;
      weight: Tensor | null;
      eps: number;
      weightOffset: number;
    }
  /** out[T, N] = act(x[T, K] · Wᵀ + bias) (+ out when accumulate). */
  | {
      readonly op: 'linear';
      out: Tensor;
      x: Tensor;
      weight: Weight;
      bias: Tensor | null;
      activation: Activation;
      accumulate: boolean;
    }
  /**
   * A product per head, x [T, heads, K] → out [T, heads, N]: head h has rows [h · headRows, (h + 1) · headRows) of the weight, of
   * which N from `firstRow` on are multiplied; with `transposed` K rows, whose transpose is: out[t, h, n] = Σₖ x[t, h, k] · W[…k, n].
   */
  | {
      readonly op: 'head_linear';
      out: Tensor;
      x: Tensor;
      weight: Weight;
      headRows: number;
      firstRow: number;
      transposed: boolean;
    }
  /**
   * out[T, I] = act(gate) · up. With limit > 0 up is at least −limit and at most limit, and so is the gate at most, or
   * with limitAfter act(gate). NaN stays.
   */
  | {
      readonly op: 'gated';
      out: Tensor;
      gate: Tensor;
      up: Tensor;
      activation: Activation;
      limit: number;
      limitAfter: boolean;
    }
  /** x *= sigmoid(gate): gate of x's shape, or with 1 as its last dimension, for the whole row. */
  | { readonly op: 'gate_sigmoid'; x: Tensor; gate: Tensor }
  /** out = (a + b) · factor, all of one shape; factor [1] of a float type, absent for 1. */
  | { readonly op: 'add'; out: Tensor; a: Tensor; b: Tensor; factor?: Tensor | null }
  /**
   * x [T, H] (+)= Σ of what all ranks of the exchange's group have as `partial` [T, H], summed in f32 in the order of the ranks, so that
   * all have the same bits; both of f32, f16 or bf16. All of the group launch the same reduces in the same order, each on its compute
   * stream, and none runs on without the others. So whoever queues takes the devices in turns, layer by layer.
   */
  | { readonly op: 'reduce'; x: Tensor; partial: Tensor; exchange: Exchange; accumulate: boolean }
  | MixtureOp
  | HostOp
  | StateOp
  | HyperOp
  /**
   * Rotates the first 2·F of each head's D values in place: x [T, heads, D], positions i32 [T],
   * inverseFrequencies f32 [F]; pairs are (i, i+F), or (2i, 2i+1) when interleaved; cos and sin are times `scale`.
   * A negative frequency turns back, a frequency of 0 leaves its pair as it is but for `scale`; x may be a part of each head.
   */
  | {
      readonly op: 'rotary';
      x: Tensor;
      positions: Tensor;
      inverseFrequencies: Tensor;
      interleaved: boolean;
      scale: number;
    }
  /**
   * Stores k [T, kvHeads, D] and v [T, kvHeads, Dv] at their slots of the cache, rounded to its type or as codes; v is null
   * where values lie in keys. What is no finite number stays so, and so does what the cache's type cannot hold.
   */
  | (BlockCache & { readonly op: 'kv_store'; k: Tensor; v: Tensor | null; slots: Tensor })
  /**
   * out[T, heads, Dv] = causal attention of q [T, heads, D] over each sequence's pages; head h reads
   * kv head ⌊h · kvHeads / heads⌋. out and q are of one type, which need not be the cache's. A NaN that a token sees makes
   * its result NaN, and no other sequence's.
   */
  | (BlockCache & {
      readonly op: 'attention';
      out: Tensor;
      q: Tensor;
      tables: AttentionTables;
      score: ScoreRule;
    })
  /** out i32 [R] = column of the largest of f32 logits [R, V], the lowest one in a tie; NO_TOKEN for a row that is not finite. */
  | { readonly op: 'argmax'; out: Tensor; logits: Tensor }
  /** rows i32 [R] = tokens i32 [R], 0 for NO_TOKEN: which rows of a table follow from what has just been drawn. */
  | { readonly op: 'token_rows'; rows: Tensor; tokens: Tensor }
  /**
   * tokens i32 [R, K] = the columns of the K largest of f32 logits [R, V], values f32 [R, K] = those, the largest first and
   * of equal ones the lower column. NaN is none of them; NO_TOKEN and −inf where there are fewer.
   */
  | { readonly op: 'top_tokens'; tokens: Tensor; values: Tensor; logits: Tensor }
  /**
   * out i32 [R] = a token drawn from softmax(logits / temperature), logits f32 [R, V], among those that stay. In this order
   * (that of transformers): logits of tokens in the history are divided by the penalty if positive, else multiplied;
   * what is said of single tokens is added to theirs; the k largest stay, with all that equal the k-th; then the likeliest that together reach top-p; then those at
   * least min-p times as likely as the likeliest. The first token whose cumulative probability, in order of ids,
   * exceeds (bits + ½) / 2³² is it. Tokens that may not be drawn are as if there were none; where none may, it is any. A row with a logit that is no finite number gives NO_TOKEN. Of those that only the
   * penalty made +∞, all are equally likely.
   */
  | { readonly op: 'sample'; out: Tensor; logits: Tensor; tables: SamplingTables }
  /**
   * A log-softmax over pieces of the vocabulary, one after the other: folds f32 logits [R, piece] into state f32 [R, 3] =
   * (maximum, Σ exp(logit − maximum), logit of the target). targets i32 [R]; columns start at firstColumn. A target that
   * is in no piece, such as NO_TOKEN, leaves 0 in its place.
   * A state starts as (−inf, 0, 0): pass `first` with the first piece. All of it is NaN from the first logit on that is
   * no finite number.
   */
  | {
      readonly op: 'nll_fold';
      state: Tensor;
      logits: Tensor;
      targets: Tensor;
      firstColumn: number;
      first: boolean;
    }
  /**
   * found i32 [T]: `place` where it was negative and row t of x [T, H] holds a value that is no finite number; `first`
   * makes all of them −1 before.
   */
  | { readonly op: 'note_not_finite'; found: Tensor; x: Tensor; place: number; first: boolean }
  /**
   * x = softCap · tanh(x · scale / softCap), x f32, or x · scale when softCap is 0. What is no finite number does not
   * become one.
   */
  | { readonly op: 'scale_cap'; x: Tensor; scale: number; softCap: number }
  /** x[t] *= 1 + beta · ln(1 + ⌊(positions[t] + offset) / length⌋); x [T, heads, D], positions i32 [T]. */
  | {
      readonly op: 'position_scale';
      x: Tensor;
      positions: Tensor;
      beta: number;
      offset: number;
      length: number;
    }
  /** x within −limit and limit; NaN stays. */
  | { readonly op: 'clamp'; x: Tensor; limit: number };

/** Bytes from the first to one past the last element. */
export function spanBytes(tensor: Tensor): number {
  let last = 0;
  for (let i = 0; i < tensor.shape.length; i++) {
    const dimension = tensor.shape[i] ?? 0;
    if (dimension === 0) return 0;
    last += (dimension - 1) * (tensor.strides[i] ?? 0);
  }
  return (last + 1) * DTYPE_BYTES[tensor.dtype];
}

/** Row-major strides of a contiguous tensor, in elements. */
export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i] ?? 1;
  }
  return strides;
}

/** Keys and values, and their scales where there are any; values that lie in keys are no tensors of their own. */
export function cacheTensors(cache: BlockCache): Tensor[] {
  const { keys, values, keyScales, valueScales } = cache;
  const tensors = valuesLieInKeys(cache) ? [keys, keyScales] : [keys, values, keyScales, valueScales];
  return tensors.filter((tensor) => tensor !== null);
}

export function valuesLieInKeys({ keys, values }: BlockCache): boolean {
  return keys.memory === values.memory && keys.offsetBytes === values.offsetBytes;
}

export function effects(op: Op): Effects {
  switch (op.op) {
    case 'gather_rows':
      return { reads: op.accumulate ? [op.table, op.rows, op.out] : [op.table, op.rows], writes: [op.out] };
    case 'layer_norm':
      return { reads: op.bias ? [op.x, op.weight, op.bias] : [op.x, op.weight], writes: [op.out] };
    case 'rms_norm':
      return { reads: op.weight ? [op.x, op.weight] : [op.x], writes: [op.out] };
    case 'linear': {
      const reads = [op.x, ...partsOf(op.weight)];
      if (op.bias) reads.push(op.bias);
      if (op.accumulate) reads.push(op.out);
      return { reads, writes: [op.out] };
    }
    case 'head_linear':
      return { reads: [op.x, ...partsOf(op.weight)], writes: [op.out] };
    case 'gated':
      return { reads: [op.gate, op.up], writes: [op.out] };
    case 'gate_sigmoid':
      return { reads: [op.x, op.gate], writes: [op.x] };
    case 'route':
    case 'expert_linear':
    case 'bring_experts':
    case 'expert_bias':
    case 'gated_pairs':
    case 'combine':
    case 'scale_rows':
      return mixtureEffects(op);
    case 'causal_conv':
    case 'state_scan':
    case 'gated_rms':
    case 'compress':
    case 'window_attention':
      return stateEffects(op);
    case 'hyper_weights':
    case 'hyper_mix':
      return hyperEffects(op);
    case 'ask_host':
    case 'take_host':
    case 'find_experts':
      return hostEffects(op);
    case 'add':
      return { reads: op.factor ? [op.a, op.b, op.factor] : [op.a, op.b], writes: [op.out] };
    case 'rotary':
      return { reads: [op.x, op.positions, op.inverseFrequencies], writes: [op.x] };
    case 'kv_store':
      return { reads: op.v ? [op.k, op.v, op.slots] : [op.k, op.slots], writes: cacheTensors(op) };
    case 'attention': {
      const { sequences, pages, positions } = op.tables;
      const reads = [op.q, ...cacheTensors(op), sequences, pages, positions];
      if (op.score.alibi) reads.push(op.score.alibi.slopes);
      if (op.score.sinks) reads.push(op.score.sinks);
      return { reads, writes: [op.out] };
    }
    case 'reduce':
      return { reads: op.accumulate ? [op.partial, op.x] : [op.partial], writes: [op.x] };
    case 'argmax':
      return { reads: [op.logits], writes: [op.out] };
    case 'token_rows':
      return { reads: [op.tokens], writes: [op.rows] };
    case 'top_tokens':
      return { reads: [op.logits], writes: [op.tokens, op.values] };
    case 'sample': {
      const { settings, draws, history, added, allowed } = op.tables;
      const entries = added ? [added.entriesOf, added.tokens, added.values] : [];
      const masks = allowed ? [allowed.maskOf, allowed.masks] : [];
      return { reads: [op.logits, settings, draws, history, ...entries, ...masks], writes: [op.out] };
    }
    case 'nll_fold':
      return {
        reads: op.first ? [op.logits, op.targets] : [op.logits, op.targets, op.state],
        writes: [op.state],
      };
    case 'note_not_finite':
      return { reads: op.first ? [op.x] : [op.x, op.found], writes: [op.found] };
    case 'position_scale':
      return { reads: [op.x, op.positions], writes: [op.x] };
    case 'scale_cap':
    case 'clamp':
      return { reads: [op.x], writes: [op.x] };
  }
}
