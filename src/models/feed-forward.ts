// The second half of a block since Llama: a gated feed-forward (Shazeer 2020).

import { type Activation, columns, type ForwardOps, type Tensor, type Weights } from '../../offload/index.js';
import { inSections, type TensorDef, tensorsUnder } from './architecture.js';
import { project } from './decoder-parts.js';

export interface FeedForward {
  /** What a layer holds below `path`. */
  tensors(path: string): readonly TensorDef[];
  /** Adds the result for x normed [T, H] to x [T, H]; `norm` makes that tensor, or fills the one it is given. */
  add(k: ForwardOps, w: Weights, norm: (out?: Tensor) => Tensor, x: Tensor): void;
  /** The result for `normed` [T, H] alone, for blocks that norm it before they add it; not every kind has it. */
  result?(k: ForwardOps, w: Weights, normed: Tensor): Tensor;
}

export interface Gated {
  /** Hidden and inner size. */
  readonly H: number;
  readonly I: number;
  readonly activation: Activation;
  /** Names below a layer before `.gate_proj`, `.up_proj` and `.down_proj`, the usual one first. */
  readonly at?: readonly string[];
  readonly bias?: boolean;
  /** A matrix [1, H] below a layer whose sigmoid is a factor on all that a token is given (Qwen2-MoE's shared expert). */
  readonly tokenGate?: string;
  /** Where gates and what they multiply end: see the operation `gated`. */
  readonly limits?: { readonly limit: number; readonly limitAfter: boolean } | undefined;
}

/** One for all tokens: a whole layer's, or what a mixture has beside its chosen experts. */
export function gatedFeedForward(options: Gated): FeedForward {
  const { H, I, activation, at: [at = '', ...others] = ['mlp'], bias = false, tokenGate, limits } = options;
  const inner = (k: ForwardOps, w: Weights, normed: Tensor) => {
    const gate = project(k, w, normed, `${at}.gate_proj`); // [T, I]
    const result = k.gated(gate, project(k, w, normed, `${at}.up_proj`), activation, limits); // [T, I]
    // A factor on what goes into the last product is one on what comes out of it.
    if (tokenGate) k.gateSigmoid(result, k.linear(normed, w.matrix(tokenGate)));
    return result;
  };
  const shapes = { gate_proj: [I, H], up_proj: [I, H], down_proj: [H, I] };
  return {
    tensors: (path) => [
      ...Object.entries(shapes).flatMap(([name, shape]) => [
        alsoUnder(path, [at, ...others], `${name}.weight`, shape),
        ...(bias ? [alsoUnder(path, [at, ...others], `${name}.bias`, shape.slice(0, 1))] : []),
      ]),
      ...(tokenGate ? [{ key: tokenGate, name: `${path}${tokenGate}`, shape: [1, H], isRouter: true }] : []),
    ],
    add: (k, w, norm, x) => void project(k, w, inner(k, w, norm()), `${at}.down_proj`, x),
    result: (k, w, normed) => project(k, w, inner(k, w, normed), `${at}.down_proj`),
  };
}

function alsoUnder(
  path: string,
  [at, ...others]: readonly string[],
  name: string,
  shape: readonly number[],
): TensorDef {
  const elsewhere = others.map((other) => ({ name: `${path}${other}.${name}`, shape, firstElement: 0 }));
  return { key: `${at}.${name}`, name: `${path}${at}.${name}`, shape, elsewhere };
}

/** H hidden size, I inner size. */
export function denseFeedForward(H: number, I: number, activation: Activation, bias = false): FeedForward {
  return gatedFeedForward({ H, I, activation, bias });
}

const FUSED = ['mlp.gate_up_proj.weight', 'mlp.down_proj.weight'] as const;

/** The same where gate and up are one matrix, the gate's rows first. @param names of that and of the other one */
export function fusedFeedForward(
  H: number,
  I: number,
  activation: Activation,
  [gateUpName, downName]: readonly [string, string] = FUSED,
): FeedForward {
  const inner = (k: ForwardOps, w: Weights, normed: Tensor) => {
    const gateUp = k.linear(normed, w.matrix(gateUpName)); // [T, 2I]
    return k.gated(columns(gateUp, 0, I), columns(gateUp, I, I), activation); // [T, I]
  };
  return {
    tensors: (path) =>
      inSections(tensorsUnder(path, { [gateUpName]: [2 * I, H], [downName]: [H, I] }), {
        [gateUpName]: [I, I],
      }),
    add: (k, w, norm, x) => void k.linear(inner(k, w, norm()), w.matrix(downName), { addTo: x }),
    result: (k, w, normed) => k.linear(inner(k, w, normed), w.matrix(downName)),
  };
}
