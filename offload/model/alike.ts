// Whether two matrices are stored alike but for where: what goes through one product together must be. An index of groups is no
// difference, since some experts have none.

import { isLike, PART_NAMES } from '../port/formats.js';
import type { MatrixSpec } from './layout.js';

export function areAlike(a: MatrixSpec, b: MatrixSpec): boolean {
  if (a === b) return true;
  if (!isLike(a.format, b.format) || a.firstRow !== b.firstRow || !sameShape(a.shape, b.shape)) return false;
  return PART_NAMES.every((name) => {
    const [first, second] = [a.parts[name], b.parts[name]];
    if (!first || !second) return first === second || name === 'groups';
    return first.dtype === second.dtype && sameShape(first.shape, second.shape);
  });
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}
