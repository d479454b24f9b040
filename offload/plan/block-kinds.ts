// Blocks that are alike as far as plans are concerned: what is computed or recorded of one holds for all of a kind.

import { pagedCache } from '../model/cache-spec.js';
import type { ModelSpec } from '../model/model.js';

/** Blocks whose tensors are of the same types and sizes, one after the other, and that keep the same; the first of them. */
export interface BlockKind {
  readonly index: number;
  readonly alike: readonly number[];
}

const known = new WeakMap<ModelSpec, readonly BlockKind[]>();

export function kindsOf(model: ModelSpec): readonly BlockKind[] {
  const before = known.get(model);
  if (before) return before;
  const kinds = new Map<string, { index: number; alike: number[] }>();
  model.blocks.forEach(({ tensors }, index) => {
    const sizes = tensors.map(({ dtype, shape }) => `${dtype} ${shape.join('x')}`);
    const key = `${sizes.join()} ${JSON.stringify(pagedCache(model.caches, index))}`;
    const kind = kinds.get(key);
    if (kind) kind.alike.push(index);
    else kinds.set(key, { index, alike: [index] });
  });
  const found = [...kinds.values()];
  known.set(model, found);
  return found;
}
