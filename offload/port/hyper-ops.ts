// Operations of hyper-connections: a residual of several streams, which layers read a mean of and write back to each. T tokens.

import type { Effects, Tensor } from './operands.js';

export type HyperOp =
  /**
   * What n streams weigh, of logits f32 [T, n + n + n · n], or [T, n] where spread and mix are null: gather f32 [T, n] =
   * sigmoid(logit · scale[0] + base) + eps; spread f32 [T, n] = 2 · sigmoid(logit · scale[1] + base); mix f32 [T, n, n] = a softmax of
   * each row of logit · scale[2] + base, plus eps, whose columns and then, `iterations` − 1 times, rows and columns are divided
   * by their sum + eps. base as long as a row of logits, scale [3] or [1], both of a float type.
   */
  | {
      readonly op: 'hyper_weights';
      gather: Tensor;
      spread: Tensor | null;
      mix: Tensor | null;
      logits: Tensor;
      base: Tensor;
      scale: Tensor;
      iterations: number;
      eps: number;
    }
  /** x[t, j] = spread[t, j] · y[t] + Σᵢ mix[t, i, j] · x[t, i]; x, y f32 [T, n, H], [T, H]. */
  | { readonly op: 'hyper_mix'; x: Tensor; y: Tensor; spread: Tensor; mix: Tensor };

export function hyperEffects(op: HyperOp): Effects {
  switch (op.op) {
    case 'hyper_weights': {
      const { gather, spread, mix, logits, base, scale } = op;
      return {
        reads: [logits, base, scale],
        writes: [gather, spread, mix].filter((tensor) => tensor !== null),
      };
    }
    case 'hyper_mix':
      return { reads: [op.x, op.y, op.spread, op.mix], writes: [op.x] };
  }
}
