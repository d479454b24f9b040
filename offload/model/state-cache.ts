// States that blocks keep per sequence: how large they are, and where they lie in the memory that holds all of them.

import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { roundUp } from '../units.js';
import type { CacheSpec } from './cache-spec.js';

/** A block's states by name: [slots, …]. */
export type StateFields = ReadonlyMap<string, Tensor>;

const FIELD_ALIGNMENT_BYTES = 64;

/** Whether a sequence can only go on from its own last token: what a page holds is not all that is known before it. */
export function hasStates(caches: readonly CacheSpec[]): boolean {
  return caches.some(({ kind }) => kind === 'recurrent');
}

/** Bytes of the states of one sequence in all blocks. */
export function stateBytes(caches: readonly CacheSpec[]): number {
  return caches.flatMap(fieldsOf).reduce((sum, field) => sum + fieldBytes(field), 0);
}

/** The same of `slots` sequences as they lie: each field of a block begins at a place of its own. */
export function statesBytes(caches: readonly CacheSpec[], slots: number): number {
  return caches.flatMap(fieldsOf).reduce((sum, field) => sum + alignedBytes(field, slots), 0);
}

/** By block, one after the other in `memory`; undefined for blocks that keep none. */
export function stateFields(
  memory: Memory,
  caches: readonly CacheSpec[],
  slots: number,
): (StateFields | undefined)[] {
  let start = 0;
  return caches.map((cache) => {
    const fields = fieldsOf(cache);
    if (fields.length === 0) return undefined;
    const tensors = fields.map((field) => {
      const at = start;
      start += alignedBytes(field, slots);
      return [field.name, tensor(memory, at, field.dtype, [slots, ...field.shape])] as const;
    });
    return new Map(tensors);
  });
}

type StateField = Extract<CacheSpec, { kind: 'recurrent' }>['fields'][number];

function fieldsOf(cache: CacheSpec): readonly StateField[] {
  return cache.kind === 'recurrent' ? cache.fields : [];
}

function fieldBytes({ shape, dtype }: StateField): number {
  return elementCount(shape) * DTYPE_BYTES[dtype];
}

function alignedBytes(field: StateField, slots: number): number {
  return roundUp(slots * fieldBytes(field), FIELD_ALIGNMENT_BYTES);
}
