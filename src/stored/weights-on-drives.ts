// The weights on the drives that were asked for: in place, by one copy, or striped over several of them.

import { existsSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { type DriveFigures, formatRate, present, secondsPerByte, stripesFor } from '../../offload/index.js';
import { type DriveShare, type Sources, type StagedWeights, stageCheckpoint } from '../staging/staging.js';
import { deviceOf } from '../staging/stripe-record.js';
import { checkMounted, stageStriped } from '../staging/striped.js';
import type { StageOptions } from '../staging/update.js';
import {
  type DriveRate,
  type DriveWish,
  driveRate,
  type RateOptions,
  rememberedRate,
  rememberRate,
  USUAL_LATENCY_MS,
} from './drive-rates.js';
import { notePlace, type Variables } from './places.js';

export interface PlaceOptions extends StageOptions {
  readonly env: Variables;
  readonly warn?: (message: string) => void;
}

/**
 * Makes the weights readable from these drives, of which there is at least one.
 * Errors: as of stageCheckpoint and stageStriped, and those of a drive that is to be measured.
 */
export async function placeWeights(
  checkpoint: Sources,
  wishes: readonly DriveWish[],
  options: PlaceOptions,
): Promise<StagedWeights> {
  if (wishes.length > 1) {
    await checkMounted(
      checkpoint,
      wishes.map(({ folder }) => folder),
    );
  }
  const { drives, problems } = await differentDrives(wishes);
  for (const problem of problems) options.warn?.(problem);
  const staged =
    drives.length === 1
      ? await stageCheckpoint(checkpoint, present(drives[0], 'drive').folder, options)
      : await stageStriped(checkpoint, await withRates(drives, options), options);
  if (staged.folder !== checkpoint.folder) {
    for (const { folder } of drives) await notePlace(folder, options.env);
  }
  return staged;
}

async function withRates(drives: readonly DriveWish[], options: PlaceOptions): Promise<Rated[]> {
  const rated: Rated[] = [];
  // One after the other: drives that share a way would take from each other.
  for (const wish of drives) {
    rated.push({ folder: wish.folder, bytesPerSecond: (await driveRate(wish, options)).bytesPerSecond });
  }
  return rated;
}

/** What weights would stream at from all these drives together, and from each. Errors: as of a drive that is to be measured. */
export async function ratesOf(
  wishes: readonly DriveWish[],
  options: RateOptions,
): Promise<{ readonly bytesPerSecond: number; readonly latencyMs: number; readonly each?: number[] }> {
  const { drives } = await differentDrives(wishes);
  const rates: DriveRate[] = [];
  for (const wish of drives) rates.push(await driveRate(wish, options));
  const each = rates.map(({ bytesPerSecond }) => bytesPerSecond);
  const latencyMs = Math.max(...rates.map((rate) => rate.latencyMs));
  const bytesPerSecond = 1 / secondsPerByte(stripesFor(each), each);
  return { bytesPerSecond, latencyMs, ...(each.length > 1 ? { each } : {}) };
}

interface Rated {
  readonly folder: string;
  readonly bytesPerSecond: number;
}

/** Each drive once, and a sentence for each folder more. */
export async function differentDrives(
  wishes: readonly DriveWish[],
): Promise<{ readonly drives: readonly DriveWish[]; readonly problems: readonly string[] }> {
  const drives: DriveWish[] = [];
  const problems: string[] = [];
  const seen = new Map<string, DriveWish>();
  for (const wish of wishes) {
    const disk = await diskOf(resolve(wish.folder));
    const before = seen.get(disk);
    if (before) {
      problems.push(
        resolve(before.folder) === resolve(wish.folder)
          ? `${wish.folder} is given twice, which gains nothing: it is used once`
          : `${wish.folder} and ${before.folder} are on one drive, so that striping over both gains nothing: only ${before.folder} is used`,
      );
      continue;
    }
    seen.set(disk, wish);
    drives.push(wish);
  }
  return { drives, problems };
}

/** The disk, where the system names it; partitions of one disk are one drive. */
async function diskOf(folder: string): Promise<string> {
  const device = await deviceOf(folder);
  const [major, minor] = [(device >> 8) & 0xfff, (device & 0xff) | (Math.floor(device / 2 ** 12) & 0xfff00)];
  const entry = await realpath(`/sys/dev/block/${major}:${minor}`).catch(() => undefined);
  if (entry === undefined) return `${device}`;
  return existsSync(`${entry}/partition`) ? resolve(entry, '..') : entry;
}

/** So much of each drive tells what it yields. */
const TELLING_BYTES = 512 * 2 ** 20;
/** Drives that wait so much for each other are worth another cut. */
const WORTH_SAYING = 1.15;

/**
 * A sentence where drives have yielded something else than the weights were striped by; it is remembered, so that the next start
 * stripes them anew.
 */
export async function learnRates(
  drives: readonly DriveShare[],
  figures: readonly DriveFigures[],
  env: Variables,
): Promise<string | undefined> {
  if (figures.length !== drives.length || figures.some(({ bytes }) => bytes < TELLING_BYTES))
    return undefined;
  const rates = figures.map(({ bytes, busyMs }) => (bytes / busyMs) * 1e3);
  const shareBytes = drives.map((drive) => drive.shareBytes);
  const periodBytes = shareBytes.reduce((sum, bytes) => sum + bytes, 0);
  const slowdown =
    secondsPerByte({ shareBytes, periodBytes }, rates) * rates.reduce((sum, rate) => sum + rate, 0);
  if (slowdown <= WORTH_SAYING) return undefined;
  for (const [i, { folder }] of drives.entries()) {
    const latencyMs = (await rememberedRate(folder, env))?.latencyMs ?? USUAL_LATENCY_MS;
    await rememberRate(folder, { bytesPerSecond: present(rates[i], 'rate'), latencyMs }, env);
  }
  const told = drives.map(
    ({ folder, bytesPerSecond }, i) =>
      `${folder} ${formatRate(present(rates[i], 'rate'))} instead of ${formatRate(bytesPerSecond)}`,
  );
  return (
    `drives did not yield what the weights are striped by (${told.join(', ')}), so that reads took ` +
    `${Math.round((slowdown - 1) * 100)} % longer: the next start stripes them anew, unless rates are given with the folders`
  );
}
