// What the methods of a forward take by name, and what some of them give back.

import type { Activation, ExpertSlots, HostMail, Op, Tensor, Weight } from '../port/ops.js';

/** How many tokens of the micro-batch the next sequence has, and how many are known of it in all. */
export interface SequenceLength {
  readonly tokens: number;
  readonly knownTokens: number;
}

/** A table [rows · pairs] of frequencies: the first row up to `firstLength` tokens, then one per token more. */
export interface FrequenciesByLength {
  readonly pairs: number;
  readonly firstLength: number;
}

/** A factor that grows with a token's position: 1 + beta · ln(1 + ⌊(position + offset) / length⌋). */
export interface PositionScale {
  readonly beta: number;
  readonly offset: number;
  readonly length: number;
}

export interface NormFromOne {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly eps: number;
  readonly out?: Tensor | undefined;
}

/** Which rows of a head's share of a weight are multiplied with. */
export interface HeadRows {
  readonly firstRow: number;
  readonly rows: number;
  readonly transposed?: boolean;
}

export interface LinearOptions {
  readonly bias?: Tensor | null;
  readonly activation?: Activation;
  /** Adds the product to this tensor (the residual) instead of making a new one. */
  readonly addTo?: Tensor;
}

export interface RouteOptions {
  /** [E]: added to scores for the choice alone. */
  readonly bias?: Tensor | null;
  /** [E]: factors on the chosen ones' weights. */
  readonly expertScale?: Tensor | null;
  /** Experts by a table's rows, one for each token, in place of the best. */
  readonly named?: { readonly table: Tensor; readonly rows: Tensor };
}

/** Which k experts each token of a mixture goes to, and how much each of them counts. */
export interface Routing {
  /** i32 [T, k] */
  readonly experts: Tensor;
  /** f32 [T, k] */
  readonly weights: Tensor;
}

/** One matrix of all experts: each at its own place, or in slots that the chosen ones are brought into first. */
export type ExpertWeights = readonly Weight[] | ExpertsInSlots;

export interface ExpertsInSlots {
  /** What the first slot and the last would hold. */
  readonly ends: readonly [Weight, Weight];
  readonly slots: ExpertSlots;
  /** Brings experts of the layer, once they are chosen. */
  readonly bring: Omit<Extract<Op, { op: 'bring_experts' }>, 'op' | 'experts' | 'aside'>;
  /** What the host can compute of them for so many tokens, in the device's place. */
  readonly aside?: ((tokens: number) => HostPart | undefined) | undefined;
}

/** From the first product with chosen experts to their sum, as a job of the host. */
export interface HostPart {
  readonly mail: HostMail;
  readonly job: number;
  /** i32 [T, k] of the device: the choices that are left to it. */
  readonly here: Tensor;
  /** In memory of the host, what the job takes: inputs f32 [T, K], choices i32 [T, k], and their weights f32 [T, k] where it uses them. */
  readonly x: Tensor;
  readonly experts: Tensor;
  readonly weights: Tensor | null;
  /** What it leaves there: f32 [T · k, N]. */
  readonly y: Tensor;
}

/** A matrix [N, K] of which the device has the first rows, or none, and the host multiplies with the others. */
export interface SplitWeight extends Weight {
  /** Parts of the weight itself are its as well, so that nobody else reads rows that are not there. */
  readonly here: Weight | null;
  readonly there: HostRows;
}

/** The last rows of a matrix, in memory of the host. */
export interface HostRows {
  readonly weight: Weight;
  /** The same for all that one host multiplies with. */
  readonly host: HostProducts;
  /** A vector of the layer, as the host finds it. */
  inHost(vector: Tensor): Tensor;
}

/** A product whose result the host leaves in its memory. */
export interface HostProduct {
  readonly rows: HostRows;
  /** On the device, of all rows of the matrix. */
  readonly bias: Tensor | null;
  readonly activation: Activation;
}

/** Asks the host for products, and takes what it has made of them: one question at a time. */
export interface HostProducts {
  /** The operation that hands over x [T, K], for the products of every one. */
  ask(x: Tensor, products: readonly HostProduct[]): { readonly ask: Op; readonly results: readonly Tensor[] };
  /** The operation that waits for the host and copies a result, or a part of its columns, to the device. */
  take(out: Tensor, result: Tensor): Op;
  /** f32 [T, N] on the device, for what is added to something; until the next one. */
  room(shape: readonly [number, number]): Tensor;
}

/** Which columns of all logits are folded into likelihoods. */
export interface Fold {
  readonly firstColumn: number;
  readonly first: boolean;
}

export interface HyperOptions {
  readonly base: Tensor;
  readonly scale: Tensor;
  readonly iterations: number;
  readonly eps: number;
}

/** What streams of a residual weigh when a layer reads them and when it writes them: see the operation `hyper_weights`. */
export interface HyperWeights {
  readonly gather: Tensor;
  readonly spread: Tensor | null;
  readonly mix: Tensor | null;
}
