// What layers with a state per sequence ask of a forward.

import type { Activation, StateTables, Tensor } from '../port/ops.js';
import type { StateFields } from './state-cache.js';

/** What a block keeps per sequence, by name and slot, and which slot each sequence of the micro-batch has. */
export interface LayerStates {
  readonly fields: StateFields;
  readonly tables: StateTables;
}

export interface ConvolutionOptions {
  /** Where the layer keeps the latest inputs: columns of one of its states, [slots, W − 1, C]. */
  readonly state: Tensor;
  readonly bias?: Tensor | null;
  readonly activation?: Activation;
}

/** Operands of `state_scan` by name; numbers that are absent change nothing. */
export interface ScanOptions {
  readonly step: Tensor;
  readonly beta?: Tensor;
  readonly stepBias: Tensor;
  readonly decay: Tensor;
  readonly skip?: Tensor;
  /** [slots, Hv, Dk, Dv] */
  readonly state: Tensor;
  readonly minStep?: number;
  readonly maxStep?: number;
  readonly normEps?: number;
  readonly queryScale?: number;
}

/** Operands of `compress` by name. */
export interface CompressOptions {
  /** [slots, E, D] */
  readonly entries: Tensor;
  /** [slots, S, 3, D] */
  readonly state: Tensor;
  readonly bias: Tensor;
  readonly norm: Tensor;
  readonly inverseFrequencies: Tensor;
  readonly eps: number;
  readonly rotaryScale: number;
}

/** Operands of `window_attention` by name. */
export interface WindowOptions {
  /** [slots, W, D] */
  readonly window: Tensor;
  /** [slots, E, D], of runs of `ratio` tokens. */
  readonly entries: Tensor | null;
  readonly ratio: number;
  readonly sinks: Tensor | null;
  readonly scale: number;
}
