// What a CUDA device takes beside the bytes that are asked of it: kernels' own scratch, rounding, code that is loaded.

import type { ModelSpec } from '../model/model.js';
import { formatBytes, MiB, roundUp } from '../units.js';
import { type KernelScratch, kernelScratch, type ScratchWorkload } from './kernel-scratch.js';
import type { PlanTerm } from './plan.js';

/** The driver hands out memory in pieces of this size. */
const ALLOCATION_BYTES = 2 * MiB;
/** Code of our kernels and of the products' library, which the driver loads at first use, and what it keeps for running them. */
const CODE_BYTES = 256 * MiB;
/** Memories of a device beside its layers: states, cache, logits, results, tables, workspace, fixed weights, scratch. */
const MEMORIES = 17;

/** What the driver takes for a memory; as much as it has where there is no driver. */
export function allocatedBytes({ cuda }: { readonly cuda?: unknown }, bytes: number): number {
  return roundUp(bytes, cuda ? ALLOCATION_BYTES : 1);
}

/** Terms of a plan for one CUDA device, but for its layers. */
export function cudaCosts(model: ModelSpec, workload: ScratchWorkload): PlanTerm[] {
  const scratch = kernelScratch(model, workload);
  const memories = MEMORIES + Object.keys(model.constants).length;
  return [
    { tier: 'gpu', name: 'kernel scratch', bytes: scratch.bytes, reason: reasonOf(scratch, workload) },
    {
      tier: 'gpu',
      name: 'rounding of allocations',
      bytes: memories * ALLOCATION_BYTES,
      reason: `${memories} memories beside the layers', each to whole ${formatBytes(ALLOCATION_BYTES)}`,
    },
    {
      tier: 'gpu',
      name: 'code',
      bytes: CODE_BYTES,
      reason: 'kernels of ours and of the library for products, loaded by the driver at first use',
    },
  ];
}

function reasonOf(scratch: KernelScratch, { tokens, contextTokens }: ScratchWorkload): string {
  const { productsBytes, inputsBytes, groupsBytes, weightsBytes, partialsBytes } = scratch;
  const groups = groupsBytes > 0 ? `their choices by expert ${formatBytes(groupsBytes)}, ` : '';
  const weights = weightsBytes > 0 ? `rows of weights as values ${formatBytes(weightsBytes)}, ` : '';
  return (
    `workspace of products ${formatBytes(productsBytes)}, 16-bit inputs for ${tokens} tokens ${formatBytes(inputsBytes)}, ` +
    `${groups}${weights}parts of attention over ${contextTokens} tokens or logits to draw from ${formatBytes(partialsBytes)}`
  );
}
