// Decides, before anything is allocated, where each layer rests and how large every buffer is; each size with its reason.

import { present } from '../errors.js';
import { expertFilesOf } from '../model/expert-files.js';
import { PAGE_TOKENS } from '../model/kv-cache.js';
import type { ModelSpec } from '../model/model.js';
import { choosePlaces } from './choice.js';
import { tiersOf } from './draft.js';
import { HOST_ROWS_TERM } from './host-rows.js';
import { type PlanOptions, planInput, type Workload } from './input.js';
import { bufferBytesFor } from './place-dram-slots.js';
import type { Plan } from './plan.js';
import { roundBytes } from './sharing.js';

/** Throws DOES_NOT_FIT, with the numbers and what to change, or BAD_OPTION. */
export function makePlan(model: ModelSpec, workload: Workload, options: PlanOptions): Plan {
  const input = planInput(model, workload, options);
  const { draft, jobMs } = choosePlaces(input);
  const tiers = tiersOf(draft);
  const layers = input.layers.map((layer, index) => {
    const tier = present(tiers[index], 'tier');
    const mixture = draft.slots && input.experts[index];
    const files = draft.slots?.behind && mixture && expertFilesOf(layer.layout, mixture);
    const experts = files ? { ...mixture, files } : mixture;
    const keys = tier === 'dram' && !experts ? input.cuttable?.keys[index] : undefined;
    return {
      ...layer,
      tier,
      ...(draft.inShards?.[index] ? { inShards: true } : {}),
      ...(draft.slots ? { experts } : {}),
      ...(keys && keys.length > 0 ? { cuttable: keys } : {}),
    };
  });
  const hostBufferBytes = draft.slots?.behind ? bufferBytesFor(input) : input.hostBufferBytes;
  const isCut = layers.some(({ cuttable }) => cuttable);
  return {
    layers,
    deviceCount: options.deviceCount,
    ...(draft.stages ? { pipeline: { stages: draft.stages, batches: input.batches } } : {}),
    transfer: input.transfer,
    sumRoundBytes: roundBytes(model, workload),
    hostBuffers: { count: draft.hostWindowLayers, sizeBytes: hostBufferBytes },
    deviceBuffers: draft.deviceBuffers,
    tablesRest: draft.tablesRest,
    slots: draft.slots,
    rows: isCut ? input.cuttable?.rows : undefined,
    activationType: input.activationType,
    kvType: input.kvType,
    ...draft.sizes,
    sequences: workload.sequences,
    contextTokens: workload.contextTokens,
    pageTokens: options.pageTokens ?? PAGE_TOKENS,
    nll: workload.output === 'nll',
    readLogits: workload.output === 'logits',
    terms: isCut ? draft.terms : draft.terms.filter(({ name }) => name !== HOST_ROWS_TERM),
    dramBudgetBytes: options.dramBudgetBytes,
    deviceBudgetBytes: options.computesInPlace ? undefined : options.deviceBudgetBytes,
    jobMs,
  };
}
