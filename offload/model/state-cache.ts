// States that blocks keep per sequence: how large they are, and where they lie in the memory that holds all of them.

import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { roundUp } from '../units.js';
import type { CacheSpec, StateField } from './cache-spec.js';

/** A block's states by name: [slots, …]. */
export type StateFields = ReadonlyMap<string, Tensor>;

const FIELD_ALIGNMENT_BYTES = 64;

/** Whether a sequence can only go on from its own last token: what a page holds is not all that is known before it. */
export function hasStates(caches: readonly CacheSpec[]): boolean {
  return caches.some(({ kind }) => kind === 'recurrent');
}

/** How many sequences have states, and how long they get. */
export interface StateSlots {
  readonly slots: number;
  readonly contextTokens: number;
}

/** Bytes of the states of one sequence in all blocks. */
export function stateBytes(caches: readonly CacheSpec[], contextTokens: number): number {
  return caches.flatMap(fieldsOf).reduce((sum, field) => sum + fieldBytes(field, contextTokens), 0);
}

/** The same of all sequences as they lie: each field of a block begins at a place of its own. */
export function statesBytes(caches: readonly CacheSpec[], slots: StateSlots): number {
  return caches.flatMap(fieldsOf).reduce((sum, field) => sum + alignedBytes(field, slots), 0);
}

/** Whether what blocks keep of a sequence grows with it. */
export function statesGrow(caches: readonly CacheSpec[]): boolean {
  return caches.flatMap(fieldsOf).some(({ runTokens }) => runTokens !== undefined);
}

/** By block, one after the other in `memory`; undefined for blocks that keep none. */
export function stateFields(
  memory: Memory,
  caches: readonly CacheSpec[],
  slots: StateSlots,
): (StateFields | undefined)[] {
  let start = 0;
  return caches.map((cache) => {
    const fields = fieldsOf(cache);
    if (fields.length === 0) return undefined;
    const tensors = fields.map((field) => {
      const at = start;
      start += alignedBytes(field, slots);
      return [
        field.name,
        tensor(memory, at, field.dtype, [slots.slots, ...shapeOf(field, slots.contextTokens)]),
      ] as const;
    });
    return new Map(tensors);
  });
}

function fieldsOf(cache: CacheSpec): readonly StateField[] {
  return cache.kind === 'recurrent' ? cache.fields : [];
}

function shapeOf({ shape, runTokens }: StateField, contextTokens: number): readonly number[] {
  return runTokens === undefined ? shape : [Math.max(1, Math.floor(contextTokens / runTokens)), ...shape];
}

function fieldBytes(field: StateField, contextTokens: number): number {
  return elementCount(shapeOf(field, contextTokens)) * DTYPE_BYTES[field.dtype];
}

function alignedBytes(field: StateField, { slots, contextTokens }: StateSlots): number {
  return roundUp(slots * fieldBytes(field, contextTokens), FIELD_ALIGNMENT_BYTES);
}
