// The second half of a block since Llama: a gated feed-forward (Shazeer 2020), dense or spread over experts.

import {
  type Activation,
  columns,
  dimension,
  type ForwardOps,
  PLAIN_ROUTE,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type TensorDef, tensorsUnder } from './architecture.js';
import { project } from './decoder-parts.js';

export interface FeedForward {
  /** What a layer holds below `path`. */
  tensors(path: string): readonly TensorDef[];
  /** Adds the result for x normed [T, H] to x [T, H]; `norm` makes that tensor, or fills the one it is given. */
  add(k: ForwardOps, w: Weights, norm: (out?: Tensor) => Tensor, x: Tensor): void;
  /** The result for `normed` [T, H] alone, for blocks that norm it before they add it; not every kind has it. */
  result?(k: ForwardOps, w: Weights, normed: Tensor): Tensor;
}

/** H hidden size, I inner size. */
export function denseFeedForward(H: number, I: number, activation: Activation, bias = false): FeedForward {
  const inner = (k: ForwardOps, w: Weights, normed: Tensor) => {
    const gate = project(k, w, normed, 'mlp.gate_proj'); // [T, I]
    return k.gated(gate, project(k, w, normed, 'mlp.up_proj'), activation); // [T, I]
  };
  return {
    tensors: (path) =>
      tensorsUnder(path, {
        'mlp.gate_proj.weight': [I, H],
        'mlp.gate_proj.bias': bias ? [I] : undefined,
        'mlp.up_proj.weight': [I, H],
        'mlp.up_proj.bias': bias ? [I] : undefined,
        'mlp.down_proj.weight': [H, I],
        'mlp.down_proj.bias': bias ? [H] : undefined,
      }),
    add: (k, w, norm, x) => void project(k, w, inner(k, w, norm()), 'mlp.down_proj', x),
    result: (k, w, normed) => project(k, w, inner(k, w, normed), 'mlp.down_proj'),
  };
}

/** The same where gate and up are one matrix, the gate's rows first. */
export function fusedFeedForward(H: number, I: number, activation: Activation): FeedForward {
  const inner = (k: ForwardOps, w: Weights, normed: Tensor) => {
    const gateUp = k.linear(normed, w.matrix('mlp.gate_up_proj.weight')); // [T, 2I]
    return k.gated(columns(gateUp, 0, I), columns(gateUp, I, I), activation); // [T, I]
  };
  return {
    tensors: (path) =>
      tensorsUnder(path, { 'mlp.gate_up_proj.weight': [2 * I, H], 'mlp.down_proj.weight': [H, I] }),
    add: (k, w, norm, x) => void project(k, w, inner(k, w, norm()), 'mlp.down_proj', x),
    result: (k, w, normed) => project(k, w, inner(k, w, normed), 'mlp.down_proj'),
  };
}

export interface Mixture {
  /** Hidden and inner size of an expert. */
  readonly H: number;
  readonly I: number;
  readonly expertCount: number;
  /** Experts that a token goes to. */
  readonly chosen: number;
  /** The chosen experts' weights sum to one. */
  readonly normalize: boolean;
  readonly activation: Activation;
  /** Names of the router and of the parts of expert e, below a layer. */
  readonly router: string;
  readonly gate: (e: number) => string;
  readonly up: (e: number) => string;
  readonly down: (e: number) => string;
}

/** How many experts there are and how many a token goes to. Experts that every token goes to are not supported. */
export function readChoices(config: ConfigReader, fallback: { experts: number; chosen: number }) {
  const shared = ['num_shared_experts', 'n_shared_experts', 'shared_expert_intermediate_size'];
  config.refuseUnless(0, ...shared);
  const expertCount = config.count(['num_experts', 'num_local_experts'], fallback.experts);
  const chosen = config.count(['num_experts_per_tok'], fallback.chosen);
  if (chosen > expertCount) {
    throw config.unsupported('num_experts_per_tok', chosen, `1 to ${expertCount}, the number of experts`);
  }
  return { expertCount, chosen };
}

/**
 * Every expert's matrices are weights of their own, also where a checkpoint stores those of a layer as one tensor (as
 * transformers 5 does when it is told not to keep the original names).
 */
export function sparseFeedForward(mixture: Mixture): FeedForward {
  const { H, I, expertCount, chosen, normalize, activation, router } = mixture;
  const experts = Array.from({ length: expertCount }, (_, e) => e);
  const [gates, ups, downs] = [mixture.gate, mixture.up, mixture.down].map((name) => experts.map(name));
  return {
    tensors(path) {
      const fusedRouter = { name: `${path}mlp.gate.weight`, shape: [expertCount, H], firstElement: 0 };
      const matrix = (
        key: string,
        shape: readonly number[],
        { fused, firstElement, rows }: { fused: string; firstElement: number; rows: number },
      ) => ({
        key,
        name: `${path}${key}`,
        shape,
        elsewhere: [
          { name: `${path}mlp.experts.${fused}`, shape: [expertCount, rows, shape[1] ?? 0], firstElement },
        ],
      });
      const gateUp = 'gate_up_proj';
      return [
        {
          key: router,
          name: `${path}${router}`,
          shape: [expertCount, H],
          isRouter: true,
          elsewhere: [fusedRouter],
        },
        ...experts.flatMap((e) => [
          matrix(mixture.gate(e), [I, H], { fused: gateUp, firstElement: 2 * e * I * H, rows: 2 * I }),
          matrix(mixture.up(e), [I, H], { fused: gateUp, firstElement: (2 * e + 1) * I * H, rows: 2 * I }),
          matrix(mixture.down(e), [H, I], { fused: 'down_proj', firstElement: e * H * I, rows: H }),
        ]),
      ];
    },
    add(k, w, norm, x) {
      // Not rounded: where two experts are nearly even, that would turn the choice.
      const normed = norm(k.floats(x.shape)); // [T, H]
      const logits = k.floats([dimension(x, 0), expertCount]);
      const rule = { ...PLAIN_ROUTE, normalize };
      const routing = k.route(k.linear(normed, w.matrix(router), {}, logits), chosen, rule); // [T, chosen]
      const through = (from: Tensor, keys: readonly string[] = []) =>
        k.expertLinear(from, routing, keys.map(w.matrix));
      const inner = k.gated(through(normed, gates), through(normed, ups), activation); // [T · chosen, I]
      k.combine(through(inner, downs), routing, { addTo: x });
    },
  };
}
