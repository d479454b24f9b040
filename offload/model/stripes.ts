// Files that lie on several drives in turns, so that whatever run of bytes is read comes from all of them at once.

import { assert, present } from '../errors.js';
import { READ_ALIGNMENT_BYTES } from '../port/backend.js';
import { KiB, MiB } from '../units.js';

/** How every period of so many bytes is cut: the first share lies on the first drive, the next on the second, and so on. */
export interface Stripes {
  readonly periodBytes: number;
  /** By drive; multiples of READ_ALIGNMENT_BYTES that sum up to a period. */
  readonly shareBytes: readonly number[];
}

/** What one drive has of a striped file. */
export interface StripePart {
  readonly path: string;
  /** The whole file lies there, and the drive is asked for its shares of it; else it has its shares one after the other. */
  readonly isWhole: boolean;
}

export interface StripedFile {
  readonly stripes: Stripes;
  /** By drive, in the order of the shares. */
  readonly parts: readonly StripePart[];
}

/** A path, or where the bytes lie that a file of that name would have. */
export type WeightFile = string | StripedFile;

/** All files that are opened, in the order in which they are listed. */
export function pathsOf(files: readonly WeightFile[]): string[] {
  return files.flatMap((file) => (typeof file === 'string' ? [file] : file.parts.map(({ path }) => path)));
}

/**
 * A period is long enough for reads that drives like, and short against a layer, and an expert: what is cut off at the ends
 * of a run is what makes drives end apart.
 */
const PERIOD_BYTES_PER_DRIVE = 512 * KiB;
const LEAST_SHARE_BYTES = 128 * KiB;
const LONGEST_PERIOD_BYTES = 4 * MiB;

/** Shares in proportion to the rates, of which none may be 0. A drive that would get next to nothing gets the least there is. */
export function stripesFor(rates: readonly number[]): Stripes {
  assert(rates.length > 0 && rates.every((rate) => rate > 0), 'every drive has a rate');
  const total = rates.reduce((sum, rate) => sum + rate, 0);
  const least = Math.min(...rates) / total;
  const wanted = Math.max(rates.length * PERIOD_BYTES_PER_DRIVE, LEAST_SHARE_BYTES / least);
  const longest = Math.max(LONGEST_PERIOD_BYTES, rates.length * PERIOD_BYTES_PER_DRIVE);
  const units = Math.ceil(Math.min(wanted, longest) / READ_ALIGNMENT_BYTES);
  const shares = rates.map((rate) => Math.max(1, Math.floor((rate / total) * units)));
  // What rounding left goes to those who are furthest below their part.
  for (let given = shares.reduce((sum, share) => sum + share, 0); given < units; given++) {
    const behind = shares.map((share, drive) => (present(rates[drive], 'rate') / total) * units - share);
    const most = behind.indexOf(Math.max(...behind));
    shares[most] = present(shares[most], 'share') + 1;
  }
  const shareBytes = shares.map((share) => share * READ_ALIGNMENT_BYTES);
  return { shareBytes, periodBytes: shareBytes.reduce((sum, bytes) => sum + bytes, 0) };
}

/** How long a byte takes on average when all drives read their shares at once, in seconds: the slowest decides. */
export function secondsPerByte({ shareBytes, periodBytes }: Stripes, rates: readonly number[]): number {
  return Math.max(...shareBytes.map((bytes, drive) => bytes / present(rates[drive], 'rate'))) / periodBytes;
}

/** A run of a file's bytes on one drive. */
export interface StripeRun {
  readonly drive: number;
  /** In what the drive has of the file. */
  readonly partOffset: number;
  /** From the beginning of what was asked for. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

/** Where `sizeBytes` from `fileOffset` on lie, in order. */
export function stripeRuns(
  { stripes, parts }: StripedFile,
  fileOffset: number,
  sizeBytes: number,
): StripeRun[] {
  const { periodBytes, shareBytes } = stripes;
  const end = fileOffset + sizeBytes;
  const runs: StripeRun[] = [];
  let periodStart = Math.floor(fileOffset / periodBytes) * periodBytes;
  for (let period = periodStart / periodBytes; periodStart < end; period++, periodStart += periodBytes) {
    let shareStart = periodStart;
    for (const [drive, bytes] of shareBytes.entries()) {
      const from = Math.max(fileOffset, shareStart);
      const to = Math.min(end, shareStart + bytes);
      if (from < to) {
        const partOffset = present(parts[drive], 'part').isWhole
          ? from
          : period * bytes + (from - shareStart);
        runs.push({ drive, partOffset, offsetBytes: from - fileOffset, sizeBytes: to - from });
      }
      shareStart += bytes;
    }
  }
  return runs;
}

/** What a drive has of a file of that size. */
export function partBytes({ periodBytes, shareBytes }: Stripes, drive: number, fileBytes: number): number {
  const before = shareBytes.slice(0, drive).reduce((sum, bytes) => sum + bytes, 0);
  const share = present(shareBytes[drive], 'share');
  const periods = Math.floor(fileBytes / periodBytes);
  return periods * share + Math.min(share, Math.max(0, (fileBytes % periodBytes) - before));
}
