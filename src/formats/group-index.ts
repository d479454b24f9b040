// Which group each input belongs to, where a file says so: g_idx, left out where it says nothing that is not so anyway.

import type { TensorSpec } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import { int32sOf } from './notes.js';
import type { Reading } from './reading.js';

export interface Groups {
  readonly groupCount: number;
  /** Whether such an index says nothing, as one that was never filled does. */
  readonly isUnused: (index: Int32Array) => boolean;
}

/** The index as a part; undefined where groups follow each other. Throws WRONG_SHAPE or BAD_WEIGHTS. */
export function groupsPart(
  reading: Reading,
  stored: StoredTensor | undefined,
  groups: Groups,
): TensorSpec | undefined {
  if (!stored) return undefined;
  const { K, context } = reading;
  reading.typeOf(stored, ['i32']);
  reading.expectShape(stored, [[K]], `groups of ${K} inputs`);
  const index = int32sOf(context.notes.bytes(stored.name));
  const part = reading.perMatrix('groups', stored, 'i32', [K]);
  if (index && groups.isUnused(index)) return undefined;
  if (index) checkRange(reading, stored, index, groups.groupCount);
  return context.notes.isScattered ? part : undefined;
}

function checkRange(reading: Reading, stored: StoredTensor, index: Int32Array, groupCount: number): void {
  const at = index.findIndex((group) => group < 0 || group >= groupCount);
  if (at < 0) return;
  throw reading.fault(
    'BAD_WEIGHTS',
    stored,
    `puts input ${at} into group ${index[at]}, but there are scales of groups 0 to ${groupCount - 1}: ` +
      'compare the file with its source',
  );
}

/**
 * Inputs of a group, from the number of groups: the declared size that makes as many. Undefined where none does; equal groups
 * are no better guess than a short last one.
 */
export function inputsOfGroup(
  K: number,
  groupCount: number,
  declared: readonly number[],
): number | undefined {
  if (groupCount === 1) return K;
  return declared.find((size) => size > 0 && Math.ceil(K / size) === groupCount);
}
