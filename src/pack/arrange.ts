// The order of tensors in a file, so that each of a page or more begins at a page, as direct reads want it; and files of
// equal size.

import { roundUp } from '../../offload/index.js';
import type { TensorEntry } from '../checkpoint/safetensors-header.js';
import { ALIGNMENT_BYTES } from '../files/direct-file.js';

/** Tensors that follow each other in a file, such as codes and their scales. */
export interface Unit<T extends TensorEntry> {
  readonly tensors: readonly T[];
}

/** Names of tensors that only fill up pages. No model has any of them. */
export const FILLER_PREFIX = 'zero_inference.filler.';

function fillerOf(name: string, sizeBytes: number): TensorEntry {
  return { name: `${FILLER_PREFIX}${name}`, dtype: 'U8', shape: [sizeBytes], sizeBytes };
}

const isPaged = ({ sizeBytes }: TensorEntry) => sizeBytes % ALIGNMENT_BYTES === 0;
const isSmall = ({ sizeBytes }: TensorEntry) => sizeBytes < ALIGNMENT_BYTES;

/**
 * Units whose tensors all fill pages come first and need nothing between them, in the order given; tensors of less than a
 * page last. Between, what ends within a page is filled up to its end, since readers allow no gaps.
 * @param file makes names of fillers unlike those of other files
 */
export function arrange<T extends TensorEntry>(
  units: readonly Unit<T>[],
  file: string,
): readonly (T | TensorEntry)[] {
  const large = units.map(({ tensors }) => tensors.filter((tensor) => !isSmall(tensor)));
  const even = large.filter((tensors) => tensors.every(isPaged));
  const odd = large.filter((tensors) => !tensors.every(isPaged));
  const paged = [...even, ...odd].flat();
  const last = paged.length - 1;
  const placed = paged.flatMap((tensor, index) => {
    const missing = roundUp(tensor.sizeBytes, ALIGNMENT_BYTES) - tensor.sizeBytes;
    return missing === 0 || index === last ? [tensor] : [tensor, fillerOf(`${file}.${index}`, missing)];
  });
  return [...placed, ...units.flatMap(({ tensors }) => tensors.filter(isSmall))];
}

/** Spreads units over `count` files, largest first, each to the file that has least. */
export function spread<T extends TensorEntry>(units: readonly Unit<T>[], count: number): Unit<T>[][] {
  const files = Array.from({ length: count }, (): { sizeBytes: number; units: Unit<T>[] } => ({
    sizeBytes: 0,
    units: [],
  }));
  const bytesOf = ({ tensors }: Unit<T>) => tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const order = new Map(units.map((unit, index) => [unit, index]));
  for (const unit of [...units].sort((a, b) => bytesOf(b) - bytesOf(a))) {
    const least = files.reduce((best, file) => (file.sizeBytes < best.sizeBytes ? file : best));
    least.units.push(unit);
    least.sizeBytes += bytesOf(unit);
  }
  // Within a file as in the model.
  return files.map((file) => file.units.sort((a, b) => (order.get(a) ?? 0) - (order.get(b) ?? 0)));
}
