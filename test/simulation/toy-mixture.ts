// A block's mixture of a few experts, in any format: alike, so that slots can hold them, or not.

import type { ForwardOps } from '../../offload/model/forward-ops.js';
import type { MatrixSpec } from '../../offload/model/layout.js';
import type { Weights } from '../../offload/model/model.js';
import { PLAIN_ROUTE, type Tensor } from '../../offload/port/ops.js';
import { dimension } from '../../offload/port/tensor.js';
import { Random } from '../simulator/random.js';
import { drawMatrix, type Take } from './toy-weights.js';

export interface ToyMixture {
  readonly experts: number;
  /** How many a token goes to. */
  readonly chosen: number;
  readonly inner: number;
  /** The last expert is stored in another way than the others may be. */
  readonly unlike: boolean;
  readonly seed: number;
  readonly ups: readonly string[];
  readonly downs: readonly string[];
}

export function drawMixture(random: Random): ToyMixture {
  const experts = random.between(1, 6);
  const keys = (name: string) => Array.from({ length: experts }, (_, e) => `experts.${e}.${name}`);
  return {
    experts,
    chosen: random.between(1, Math.min(2, experts)),
    inner: random.pick([8, 16]),
    unlike: random.chance(0.1),
    seed: random.bits(),
    ups: keys('up'),
    downs: keys('down'),
  };
}

/** The router's matrix and those of the experts, which are drawn from the same seed. */
export function mixtureWeights(mixture: ToyMixture, hidden: number, take: Take): (() => MatrixSpec)[] {
  const { experts, inner, seed, unlike, ups, downs } = mixture;
  const draw = (key: string, [N, K]: readonly [number, number], drawn: number) =>
    drawMatrix(new Random(drawn), { key, N, K, isCut: false }, take);
  const of = (expert: number) => (unlike && expert === experts - 1 ? seed + 1 : seed);
  return [
    () => draw('router', [experts, hidden], seed),
    ...ups.map((key, expert) => () => draw(key, [inner, hidden], of(expert))),
    ...downs.map((key, expert) => () => draw(key, [hidden, inner], of(expert) ^ 1)),
  ];
}

interface MixtureUse {
  readonly k: ForwardOps;
  readonly w: Weights;
  readonly y: Tensor;
  /** Gets what the experts give. */
  readonly x: Tensor;
}

export function mixExperts({ k, w, y, x }: MixtureUse, { experts, chosen, ups, downs }: ToyMixture): void {
  const logits = k.floats([dimension(y, 0), experts]);
  k.linear(y, w.matrix('router'), {}, logits);
  const routing = k.route(logits, chosen, PLAIN_ROUTE);
  const inner = k.expertLinear(y, routing, w.experts(ups));
  k.combine(k.expertLinear(k.gated(inner, inner, 'relu'), routing, w.experts(downs)), routing, { addTo: x });
}
