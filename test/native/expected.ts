// What an operation must yield of what its memory holds. Every instruction set is given the same cases, so each reference is
// computed once for all of them.

import { createHash } from 'node:crypto';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { referenceOp } from './reference-ops.js';
import type { Written } from './reference-values.js';
import { expandReference } from './reference-weights.js';
import type { TestMemory } from './tensor-bytes.js';

/** By operation and bytes. Without the memories, which are large and would stay. */
const known = new Map<string, readonly { tensor: Omit<Tensor, 'memory'>; values: Float64Array }[]>();

export function expectedOf(op: Op, { memory, bytes, used }: TestMemory): readonly Written[] {
  const key = keyOf(op, used);
  const before = known.get(key);
  if (before) return before.map(({ tensor, values }) => ({ tensor: { ...tensor, memory }, values }));
  const expected = referenceOp(op, bytes);
  known.set(
    key,
    expected.map(({ tensor: { memory: _, ...tensor }, values }) => ({ tensor, values })),
  );
  return expected;
}

const values = new Map<string, Float64Array>();

/** What a weight's stored values are, row by row. */
export function expandedOf(weight: Weight, { bytes, used }: TestMemory): Float64Array {
  const key = keyOf(weight, used);
  const expanded = values.get(key) ?? expandReference(weight, bytes);
  values.set(key, expanded);
  return expanded;
}

function keyOf(described: unknown, used: Uint8Array): string {
  return createHash('sha1').update(JSON.stringify(described, spelt)).update(used).digest('base64');
}

/** JSON knows neither what is no finite number nor a zero's sign. */
function spelt(name: string, value: unknown): unknown {
  if (name === 'memory') return undefined;
  if (typeof value !== 'number') return value;
  return Number.isFinite(value) && !Object.is(value, -0)
    ? value
    : `number ${Object.is(value, -0) ? '-0' : value}`;
}
