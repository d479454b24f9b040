// Decides, before anything is allocated, where each layer rests and how large every buffer is; each size with its reason.

import { present } from '../errors.js';
import { PAGE_TOKENS } from '../model/kv-cache.js';
import type { ModelSpec } from '../model/model.js';
import { choosePlaces } from './choice.js';
import { tiersOf } from './draft.js';
import { type PlanOptions, planInput, type Workload } from './input.js';
import type { Plan } from './plan.js';

/** Throws DOES_NOT_FIT, with the numbers and what to change, or BAD_OPTION. */
export function makePlan(model: ModelSpec, workload: Workload, options: PlanOptions): Plan {
  const input = planInput(model, workload, options);
  const { draft, jobMs } = choosePlaces(input);
  const tiers = tiersOf(draft);
  return {
    layers: input.layers.map((layer, index) => ({
      ...layer,
      tier: present(tiers[index], 'tier'),
      ...(draft.slots ? { experts: input.experts[index] } : {}),
    })),
    deviceCount: options.deviceCount,
    transfer: input.transfer,
    hostBuffers: { count: draft.hostWindowLayers, sizeBytes: input.hostBufferBytes },
    deviceBuffers: draft.deviceBuffers,
    slots: draft.slots,
    activationType: input.activationType,
    kvType: input.kvType,
    ...draft.sizes,
    sequences: workload.sequences,
    contextTokens: workload.contextTokens,
    pageTokens: options.pageTokens ?? PAGE_TOKENS,
    nll: workload.output === 'nll',
    readLogits: workload.output === 'logits',
    terms: draft.terms,
    dramBudgetBytes: options.dramBudgetBytes,
    deviceBudgetBytes: options.computesInPlace ? undefined : options.deviceBudgetBytes,
    jobMs,
  };
}
