// What the host computes for one device in passes that choose experts: a worker, its memory, and a job for each layer and number of tokens.

import { assert, present } from '../errors.js';
import type { HostPart } from '../model/forward-options.js';
import { recordHostPart } from '../model/host-part.js';
import type { LayerSpec } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import { weightsAt } from '../model/weights.js';
import type { HostSharePlan, PlannedLayer, SlotPlan } from '../plan/plan.js';
import { usualRates } from '../plan/slots.js';
import type { Backend, Device, HostMemory, HostWorker } from '../port/backend.js';
import { type HostMail, MAIL_WORDS } from '../port/host-ops.js';
import type { Tensor } from '../port/ops.js';
import { dimension, tensor } from '../port/tensor.js';

/** Numbers of tokens that a layer's jobs are kept for. */
const MOST_KEPT = 8;

export interface HostPartsOptions {
  readonly backend: Backend;
  readonly device: Device;
  readonly model: ModelSpec;
  readonly slots: SlotPlan;
  readonly share: HostSharePlan;
  /** i32 of the device: what it keeps beside its mailbox, and room for the choices of as many tokens as the host computes for. */
  readonly state: Tensor;
  readonly here: Tensor;
}

export class HostParts {
  readonly #model: ModelSpec;
  readonly #share: HostSharePlan;
  readonly #worker: HostWorker;
  readonly #workspace: HostMemory;
  readonly #here: Tensor;
  readonly #mail: HostMail;
  readonly #jobs = new Map<PlannedLayer, Map<number, HostPart | undefined>>();

  constructor({ backend, device, model, slots, share, state, here }: HostPartsOptions) {
    this.#model = model;
    this.#share = share;
    this.#worker = backend.openWorker(device);
    this.#workspace = backend.allocateHost(share.workspaceBytes, 'shared');
    this.#here = here;
    this.#mail = { words: tensor(this.#worker.mail, 0, 'i32', [MAIL_WORDS]), state };
    this.#worker.share(share.rule, usualRates(slots));
  }

  get worker(): HostWorker {
    return this.#worker;
  }

  /** The part of a layer whose experts rest in `home`, for so many tokens. */
  of(layer: PlannedLayer, home: HostMemory): (tokens: number) => HostPart | undefined {
    const jobs = this.#jobs.get(layer) ?? new Map<number, HostPart | undefined>();
    this.#jobs.set(layer, jobs);
    return (tokens) => {
      if (tokens > this.#share.mostTokens) return undefined;
      if (jobs.has(tokens)) {
        const known = jobs.get(tokens);
        // The latest is the last to go.
        jobs.delete(tokens);
        jobs.set(tokens, known);
        return known;
      }
      const part = this.#define(layer, home, tokens);
      jobs.set(tokens, part);
      this.#dropOldest(jobs);
      return part;
    };
  }

  #define(layer: PlannedLayer, home: HostMemory, tokens: number): HostPart | undefined {
    const { placements } = layer.layout.host;
    const record = recordHostPart(this.#model, layer.index, tokens, {
      workspace: this.#workspace,
      weights: (spec: LayerSpec) => weightsAt(home, placements, { layer: spec }),
    });
    if (!record) return undefined;
    assert(record.workspaceBytes <= this.#workspace.sizeBytes, 'the largest part was planned for');
    const { ops, x, experts, weights, y } = record;
    const here = tensor(this.#here.memory, this.#here.offsetBytes, 'i32', [tokens, dimension(experts, 1)]);
    return { mail: this.#mail, job: this.#worker.define(ops), here, x, experts, weights, y };
  }

  #dropOldest(jobs: Map<number, HostPart | undefined>): void {
    if (jobs.size <= MOST_KEPT) return;
    const [oldest] = jobs.keys();
    const part = jobs.get(present(oldest, 'a job'));
    jobs.delete(present(oldest, 'a job'));
    if (part) this.#worker.forget(part.job);
  }
}
