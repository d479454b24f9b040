// Whether two matrices are stored alike but for where: what goes through one product together must be. An index of groups is no
// difference, since some experts have none.

import { isDense, isLike, type MatrixSpec, PART_NAMES } from '../../offload/index.js';
import { sameShape } from './reading.js';

export function areAlike(a: MatrixSpec, b: MatrixSpec): boolean {
  if (a === b) return true;
  if (!isLike(a.format, b.format) || a.firstRow !== b.firstRow || !sameShape(a.shape, b.shape)) return false;
  return PART_NAMES.every((name) => {
    const [first, second] = [a.parts[name], b.parts[name]];
    if (!first || !second) return first === second || name === 'groups';
    return first.dtype === second.dtype && sameShape(first.shape, second.shape);
  });
}

/** For messages: `bf16`, or `packed4 (type bf16, inputGroup 32, …, codes i32 [64, 8], scales bf16 [64, 2])`. */
export function describeStored({ format, parts }: MatrixSpec): string {
  if (isDense(format)) return format.type;
  const { name: _, ...numbers } = format;
  const settings = Object.entries(numbers).flatMap(([name, value]) => (value ? [`${name} ${value}`] : []));
  const stored = PART_NAMES.flatMap((name) => {
    const part = parts[name];
    return part ? [`${name} ${part.dtype} [${part.shape.join(', ')}]`] : [];
  });
  return `${format.name} (${[...settings, ...stored].join(', ')})`;
}
