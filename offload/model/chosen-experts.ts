// Experts that come when they are chosen: brought into slots before the first product with them, and what the host computes of them is
// taken before they are summed.

import type { OpStream } from '../port/backend.js';
import type { ExpertSlots, Tensor, Weight } from '../port/ops.js';
import { dimension } from '../port/tensor.js';
import type { ExpertsInSlots, ExpertWeights, HostPart, Routing } from './forward-options.js';

/** What a product with chosen experts takes. */
interface Chosen {
  readonly experts: Tensor;
  readonly weights: readonly Weight[];
  readonly slots?: ExpertSlots;
}

/** What is chosen once lies in slots until something else is. */
export class ChosenExperts {
  readonly #stream: OpStream;
  #brought: Tensor | undefined;
  #aside: HostPart | undefined;

  constructor(stream: OpStream) {
    this.#stream = stream;
  }

  /** At the start of a layer. */
  forget(): void {
    this.#brought = undefined;
    this.#aside = undefined;
  }

  /** @param x inputs of the product */
  bring(x: Tensor, routing: Routing, from: ExpertWeights): Chosen {
    const { experts } = routing;
    if (!('ends' in from)) return { experts, weights: from };
    if (this.#brought !== experts) this.#launch(x, routing, from);
    return { experts: this.left(experts), weights: from.ends, slots: from.slots };
  }

  /** The choices that the device computes. */
  left(experts: Tensor): Tensor {
    return this.#brought === experts ? (this.#aside?.here ?? experts) : experts;
  }

  /** Rows of y [T · k, N] that the host computed. */
  take(y: Tensor, experts: Tensor): void {
    if (this.#brought !== experts || !this.#aside) return;
    const { y: from, here: choices, mail } = this.#aside;
    this.#stream.launch({ op: 'take_host', out: y, from, choices, mail });
    this.#aside = undefined;
  }

  #launch(x: Tensor, { experts, weights }: Routing, { bring, aside }: ExpertsInSlots): void {
    const part = aside?.(dimension(experts, 0));
    this.#brought = experts;
    this.#aside = part;
    const given = part && {
      here: part.here,
      there: part.experts,
      x,
      hostX: part.x,
      weights: part.weights && weights,
      hostWeights: part.weights,
      mail: part.mail,
      job: part.job,
    };
    this.#stream.launch({ op: 'bring_experts', experts, ...bring, aside: given });
  }
}
