// How a matrix is stored, in words.

import { isDense, type MatrixSpec, PART_NAMES } from '../../offload/index.js';

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
