// A mixture of experts (Shazeer et al. 2017) as the second half of a block: a router chooses some experts for each token, others
// every token goes to.

import {
  type Activation,
  columns,
  dimension,
  type ForwardOps,
  type RouteOptions,
  type RouteRule,
  type Routing,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { TensorDef, TensorSource } from './architecture.js';
import type { FeedForward } from './feed-forward.js';

/** How tokens choose: names are those below a layer, the usual one first. */
export interface Router {
  readonly names: readonly string[];
  /** Experts that a token goes to. */
  readonly chosen: number;
  readonly rule: RouteRule;
  /** [E], or stored [1, E]: added to scores for the choice alone. */
  readonly bias?: { readonly names: readonly string[]; readonly stored?: readonly number[] };
}

/** What the parts of expert e are called below a layer, and the tensors that hold those of all of them. */
export interface ExpertNames {
  readonly gate: (e: number) => string;
  readonly up: (e: number) => string;
  readonly down: (e: number) => string;
  /** [E, 2I, H] with the gate's rows first, and [E, H, I]. */
  readonly fused: readonly [string, string];
  /**
   * The fused ones are stored [E, H, 2I] and [E, I, H], where gate and up are one matrix of an expert. Either way is found by their
   * sizes; this is what they are where those leave it open.
   */
  readonly inputsFirst?: boolean;
  /** [E, I, H] twice, of gates and of what they multiply, and [E, H, I]: another way to have them of all experts. */
  readonly stacked?: Readonly<Record<Part, string>>;
}

type Part = 'gate' | 'up' | 'down';

const FUSED = ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'] as const;
export const MLP_EXPERTS: ExpertNames = {
  gate: (e) => `mlp.experts.${e}.gate_proj.weight`,
  up: (e) => `mlp.experts.${e}.up_proj.weight`,
  down: (e) => `mlp.experts.${e}.down_proj.weight`,
  fused: FUSED,
};
/** As Mixtral's makers called them, and others after them. */
export const MIXTRAL_EXPERTS: ExpertNames = {
  gate: (e) => `block_sparse_moe.experts.${e}.w1.weight`,
  up: (e) => `block_sparse_moe.experts.${e}.w3.weight`,
  down: (e) => `block_sparse_moe.experts.${e}.w2.weight`,
  fused: FUSED,
};
const SPELLINGS = [MLP_EXPERTS, MIXTRAL_EXPERTS] as const;

export interface Mixture {
  /** Hidden and inner size of an expert. */
  readonly H: number;
  readonly I: number;
  readonly expertCount: number;
  readonly activation: Activation;
  /** Where gates and what they multiply end: see the operation `gated`. */
  readonly limits?: { readonly limit: number; readonly limitAfter: boolean };
  readonly router: Router;
  readonly names: ExpertNames;
  /** A choice's weight is a factor on what goes into the expert, not on what comes out. */
  readonly scalesInputs?: boolean;
  /** What every token goes to as well. */
  readonly shared?: FeedForward | undefined;
}

/** How many experts there are and how many a token goes to. */
export function readChoices(
  config: ConfigReader,
  fallback: { readonly experts: number; readonly chosen: number },
  chosenNames: readonly string[] = ['num_experts_per_tok'],
): { expertCount: number; chosen: number } {
  const names = ['num_experts', 'num_local_experts', 'n_routed_experts', 'moe_num_experts'];
  const expertCount = config.count(names, fallback.experts);
  const chosen = config.count(chosenNames, fallback.chosen);
  if (chosen > expertCount) {
    throw config.unsupported(chosenNames[0] ?? '', chosen, `1 to ${expertCount}, the number of experts`);
  }
  return { expertCount, chosen };
}

/** For families without any: experts that every token goes to would change the result. */
export function refuseSharedExperts(config: ConfigReader): void {
  config.refuseUnless(0, 'num_shared_experts', 'n_shared_experts', 'shared_expert_intermediate_size');
}

/** Every expert's matrices are weights of their own, also where a checkpoint stores those of a layer as one tensor. */
export function mixtureFeedForward(mixture: Mixture): FeedForward {
  const { router, shared } = mixture;
  const experts = routedExperts(mixture);
  const routed = (k: ForwardOps, w: Weights, normed: Tensor, x?: Tensor) =>
    experts.result(k, w, normed, { routing: chooseExperts(k, w, normed, mixture), addTo: x });
  return {
    tensors: (path) => [
      ...routerTensors(router, mixture, path),
      ...experts.tensors(path),
      ...(shared?.tensors(path) ?? []),
    ],
    add(k, w, norm, x) {
      // Not rounded: where two experts are nearly even, that would turn the choice.
      const normed = norm(k.floats(x.shape)); // [T, H]
      shared?.add(k, w, () => normed, x);
      routed(k, w, normed, x);
    },
    result: (k, w, normed) => routed(k, w, normed, shared?.result?.(k, w, normed)),
  };
}

/** What rows [T, H] become in the experts that were chosen for them, by whatever router. */
export function routedExperts(mixture: Omit<Mixture, 'router' | 'shared'>) {
  const { I, activation, limits, names, expertCount, scalesInputs = false } = mixture;
  const experts = Array.from({ length: expertCount }, (_, e) => e);
  const [gates = [], ups = [], downs = [], both = []] = [
    names.gate,
    names.up,
    names.down,
    gateUpOf(names),
  ].map((name) => experts.map(name));
  // The same in every layer but for where it is, and there are tens of thousands.
  const parts = experts.flatMap((e) => expertTensors(mixture, e));
  return {
    tensors: (path: string) => parts.map((def) => under(path, def)),
    result(
      k: ForwardOps,
      w: Weights,
      rows: Tensor,
      { routing, addTo }: { readonly routing: Routing; readonly addTo?: Tensor | undefined },
    ): Tensor {
      const through = (from: Tensor, keys: readonly string[], scales = false) => {
        const result = k.expertLinear(from, routing, w.experts(keys));
        // A factor on what goes into a product is one on what comes out of it.
        if (scales) k.scaleChoices(result, routing);
        return result;
      };
      const gateAndUp = (): readonly [Tensor, Tensor] => {
        if (!w.hasMatrix(both[0] ?? ''))
          return [through(rows, gates, scalesInputs), through(rows, ups, scalesInputs)];
        const pair = through(rows, both, scalesInputs); // [T · chosen, 2I]
        return [columns(pair, 0, I), columns(pair, I, I)];
      };
      const [gate, up] = gateAndUp();
      const inner = k.gated(gate, up, activation, limits); // [T · chosen, I]
      return k.combine(through(inner, downs), routing, { addTo, weighted: !scalesInputs });
    },
  };
}

/** Which experts each row of normed [T, H] goes to. */
export function chooseExperts(
  k: ForwardOps,
  w: Weights,
  normed: Tensor,
  {
    router,
    expertCount,
    named,
  }: Pick<Mixture, 'router' | 'expertCount'> & {
    /** A table says which, and only their weights follow the rule. */
    readonly named?: RouteOptions['named'];
  },
) {
  const { names, chosen, rule, bias } = router;
  const logits = k.floats([dimension(normed, 0), expertCount]);
  k.linear(normed, w.matrix(names[0] ?? ''), {}, logits);
  const stored = bias && w(bias.names[0] ?? ''); // [E] or [1, E]
  return k.route(logits, chosen, rule, {
    bias: stored ? { ...stored, shape: [expertCount], strides: [1] } : null,
    ...(named ? { named } : {}),
  });
}

function routerTensors({ names, bias }: Router, { expertCount, H }: Mixture, path: string): TensorDef[] {
  const router = { ...spelt(path, names, [expertCount, H]), isRouter: true };
  if (!bias) return [router];
  return [router, { ...spelt(path, bias.names, bias.stored ?? [expertCount]), isBias: true }];
}

/** A tensor that checkpoints have under one of these names. */
function spelt(path: string, names: readonly string[], shape: readonly number[]): TensorDef {
  const [key = '', ...others] = names;
  const elsewhere = others.map((name) => ({ name: `${path}${name}`, shape, firstElement: 0 }));
  return { key, name: `${path}${key}`, shape, elsewhere };
}

/** A definition whose names are those below a layer, in the layer at `path`. */
function under(path: string, def: TensorDef): TensorDef {
  const elsewhere = def.elsewhere?.map((source) => ({ ...source, name: path + source.name })) ?? [];
  return { ...def, name: path + def.name, elsewhere };
}

/** An expert's gate and up where they are one matrix. */
function gateUpOf({ gate }: ExpertNames): (e: number) => string {
  return (e) => gate(e).replace(/(?:gate_proj|w1)(?=\.weight$)/, 'gate_up_proj');
}

/** Names that the tensors of all experts have: the family's own, and those of transformers 5 in its place or where others are. */
function fusedPairs({ gate, fused }: ExpertNames): (readonly [string, string])[] {
  const path = gate(0).replace(/0\.\w+\.weight$/, '');
  const all = [fused, FUSED, [`${path}gate_up_proj`, `${path}down_proj`] as const];
  return [...new Map(all.map((pair) => [pair[0], pair])).values()];
}

function expertTensors(
  { H, I, expertCount, names }: Omit<Mixture, 'router' | 'shared'>,
  e: number,
): TensorDef[] {
  const pairs = fusedPairs(names);
  const within = (name: string, rows: number, inputs: number, firstRow: number): TensorSource => ({
    name,
    shape: [expertCount, rows, inputs],
    firstElement: (e * rows + firstRow) * inputs,
  });
  const ofGateUp = (firstRow: number) => pairs.map(([name]) => within(name, 2 * I, H, firstRow));
  const ofDown = pairs.map(([, name]) => within(name, H, I, 0));
  const def = (part: Part, shape: readonly [number, number], fused: readonly TensorSource[]) => {
    const stack = names.stacked ? [within(names.stacked[part], ...shape, 0)] : [];
    const others = SPELLINGS.map((spelling) => spelling[part](e)).filter((name) => name !== names[part](e));
    const { elsewhere = [], ...own } = spelt('', [names[part](e), ...others], shape);
    return { ...own, elsewhere: [...stack, ...fused, ...elsewhere] };
  };
  const both = gateUpOf(names)(e);
  const turned = (source: TensorSource) => ({ ...source, inputMajor: true });
  const joined = [
    { key: both, name: both, shape: [2 * I, H], sections: [I, I], elsewhere: ofGateUp(0).map(turned) },
    def('down', [H, I], ofDown.map(turned)),
  ];
  const apart = [
    def('gate', [I, H], ofGateUp(0)),
    def('up', [I, H], ofGateUp(I)),
    def('down', [H, I], ofDown),
  ];
  const ways = names.inputsFirst ? [joined, apart] : [apart, joined];
  // The first matrix tells the way, so it must be one whose sizes do.
  const tellingFirst = (defs: readonly TensorDef[]) => (2 * I === H ? [...defs].reverse() : defs);
  return ways.flatMap((defs, way) => tellingFirst(defs).map((each) => ({ ...each, way })));
}
