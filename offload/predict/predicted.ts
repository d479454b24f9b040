// What is predicted of a pass.

/** `turns`: hops and compute wait for each other, because the windows leave nothing to overlap. */
export type Bound = 'drive' | 'link' | 'memory' | 'arithmetic' | 'turns';

export interface PredictedPass {
  readonly totalMs: number;
  /** If it had nothing to wait for. */
  readonly computeMs: number;
  readonly driveMs: number;
  readonly linkMs: number;
  readonly stallMs: number;
  readonly bound: Bound;
  readonly tokens: number;
  readonly driveBytes: number;
  /** Weights that compute reads: all layers, once per micro-batch. */
  readonly weightBytes: number;
  readonly flops: number;
}
