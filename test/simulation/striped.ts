// A toy model's files on several drives: in stripes that are drawn from the seed.

import { present } from '../../offload/errors.js';
import {
  partBytes,
  pathsOf,
  type StripedFile,
  stripeRuns,
  type WeightFile,
} from '../../offload/model/stripes.js';
import { READ_ALIGNMENT_BYTES } from '../../offload/port/backend.js';
import type { Random } from '../simulator/random.js';

export interface PlacedFiles {
  readonly paths: readonly WeightFile[];
  /** All that drives hold, by path. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** Which drive holds a path. */
  readonly driveOf: (path: string) => number;
}

/** Each file in shares of one to four blocks; sometimes one drive has the files whole. */
export function striped(
  whole: { readonly paths: readonly string[]; readonly files: ReadonlyMap<string, Uint8Array> },
  random: Random,
): PlacedFiles {
  const count = random.between(2, 4);
  const shareBytes = Array.from({ length: count }, () => random.between(1, 4) * READ_ALIGNMENT_BYTES);
  const stripes = { shareBytes, periodBytes: shareBytes.reduce((sum, bytes) => sum + bytes, 0) };
  const holder = random.chance(0.3) ? random.between(0, count - 1) : -1;
  const files = new Map<string, Uint8Array>();
  const drives = new Map<string, number>();
  const paths = whole.paths.map((path): StripedFile => {
    const content = present(whole.files.get(path), path);
    const file: StripedFile = {
      stripes,
      parts: shareBytes.map((_, drive) => ({
        path: drive === holder ? path : `/drive-${drive}${path}.stripe`,
        isWhole: drive === holder,
      })),
    };
    for (const [drive, part] of file.parts.entries()) {
      drives.set(part.path, drive);
      const size = part.isWhole ? content.length : partBytes(stripes, drive, content.length);
      files.set(part.path, part.isWhole ? content : new Uint8Array(size));
    }
    for (const run of stripeRuns(file, 0, content.length)) {
      const part = present(file.parts[run.drive], 'part');
      const bytes = content.subarray(run.offsetBytes, run.offsetBytes + run.sizeBytes);
      if (!part.isWhole) present(files.get(part.path), 'part').set(bytes, run.partOffset);
    }
    return file;
  });
  const known = new Set(pathsOf(paths));
  return { paths, files, driveOf: (path) => (known.has(path) ? present(drives.get(path), path) : 0) };
}
