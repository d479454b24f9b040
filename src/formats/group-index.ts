// Which group each input belongs to, where a file says so: g_idx, left out where it says nothing that is not so anyway.

import type { TensorSpec } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import { int32sOf } from './notes.js';
import type { Reading } from './reading.js';

export interface Groups {
  readonly groupCount: number;
  /** Inputs of one, where they follow each other. */
  readonly inputGroup: number;
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
  // Another matrix's groups may follow each other in this index.
  const isPlain = index?.every((group, k) => group === Math.floor(k / groups.inputGroup));
  return context.notes.isScattered || isPlain === false ? part : undefined;
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
 * Inputs of a group, from the number of groups: the declared size that makes as many, where -1 is one group of all. Undefined where
 * none does; equal groups are no better guess than a short last one. Where nothing is declared, one group is of all.
 */
export function inputsOfGroup(
  K: number,
  groupCount: number,
  declared: readonly number[],
): number | undefined {
  const sizes = declared.length === 0 ? [-1] : declared;
  return sizes
    .map((size) => (size > 0 ? Math.min(size, K) : K))
    .find((size) => Math.ceil(K / size) === groupCount);
}
