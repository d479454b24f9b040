// Weights striped over several drives by what each yields: found as they are, set right, or copied once.
//
// On each drive DIR/zero-inference-<id>-striped/ has its parts and a record. A drive that holds the checkpoint itself is asked
// for its shares in place. Parts that are gone are copied alone; the cut changes only where drives yield something else than before.

import { readdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { formatRate, OperatingError, pathsOf, present, stripesFor } from '../../offload/index.js';
import { makeFolder, removeEmpty } from '../files/make-folder.js';
import { contentId } from './id.js';
import { takeLock } from './lock.js';
import { fileState, type SourceState, sourceState } from './manifest.js';
import { COPY_LOCK, checkSources, type Sources, type StagedWeights } from './staging.js';
import {
  deviceOf,
  fileSystemOf,
  readStripeRecord,
  type StripeRecord,
  writeStripeRecord,
} from './stripe-record.js';
import { type StripedDrive, type StripeSet, type StripeSource, slowdown, stripedFile } from './stripe-set.js';
import { bringPartsUpToDate, finishedFiles } from './stripe-update.js';
import { discard, type StageOptions } from './update.js';

export type { StripedDrive };

/** Drives may read for so much longer than with the best cut before all is copied anew. */
const WORTH_COPYING = 1.15;

/**
 * Makes `checkpoint`'s weight files readable from all these drives at once. They must be different ones.
 * Errors: NO_SPACE, WRITE_FAILED, READ_FAILED, FILE_CHANGED, NOT_FOUND, INTERRUPTED.
 */
export async function stageStriped(
  checkpoint: Sources,
  drives: readonly StripedDrive[],
  options: StageOptions = {},
): Promise<StagedWeights> {
  const sources = await Promise.all(
    checkpoint.files.map(async (file) => ({ ...(await sourceState(file)), name: basename(file) })),
  );
  checkSources(checkpoint, sources);
  const name = stripedFolder(await contentId(checkpoint.files));
  const holder = await holderOf(sources, drives);
  const folders = drives.map(({ folder }, i) => (i === holder ? undefined : join(resolve(folder), name)));
  const found = await findSet(drives, folders);
  const complete = found && isWorthKeeping(found) && (await finishedFiles(found, sources));
  if (found && complete) return staged(found, sources, { sha256: complete, copied: false });

  const own = folders.filter((folder) => folder !== undefined);
  const made = (await Promise.all(own.map(makeFolder))).flat();
  const unlocks: (() => Promise<void>)[] = [];
  try {
    // In the same order everywhere, so that two processes never wait for each other.
    for (const folder of [...own].sort()) {
      const onWait = (who: string) =>
        options.log?.(`${who} is copying the same weights to ${folder}: waiting for it`);
      unlocks.push(await takeLock(join(folder, COPY_LOCK), { signal: options.signal, onWait }));
    }
    const set = (await keptSet(drives, folders, options)) ?? (await newSet(drives, folders));
    const copied = await bringPartsUpToDate(set, sources, options);
    const records = await Promise.all(set.folders.map((folder) => folder && readStripeRecord(folder)));
    const whole = { ...set, records: records.map((record) => record || undefined) };
    const sha256 = await finishedFiles(whole, sources);
    if (sha256) return staged(whole, sources, { sha256, copied });
    throw new OperatingError(
      'FILE_CHANGED',
      `the weights in ${checkpoint.folder}, or their parts in ${own.join(', ')}, changed while they were compared: start again`,
    );
  } finally {
    for (const unlock of unlocks) await unlock();
    await removeEmpty(made);
  }
}

/** In a folder that was given for weights. */
export function stripedFolder(id: string): string {
  return `zero-inference-${id}-striped`;
}

async function staged(
  set: StripeSet,
  sources: readonly StripeSource[],
  { sha256, copied }: { readonly sha256: readonly string[]; readonly copied: boolean },
): Promise<StagedWeights> {
  const files = sources.map((source) => stripedFile(set, source));
  const states = await Promise.all(pathsOf(files).map(fileState));
  const drives = set.drives.map((drive, i) => ({
    ...drive,
    shareBytes: present(set.stripes.shareBytes[i], 'share'),
  }));
  const folder = present(
    set.folders.find((one) => one !== undefined),
    'folder of parts',
  );
  return { files, fileStates: states, sha256, folder, copied, drives };
}

/** The one drive that all sources lie on. */
async function holderOf(sources: readonly SourceState[], drives: readonly StripedDrive[]): Promise<number> {
  const devices = new Set(await Promise.all(sources.map(({ path }) => deviceOf(dirname(path)))));
  const [device] = devices;
  if (devices.size !== 1) return -1;
  return (await Promise.all(drives.map(({ folder }) => deviceOf(resolve(folder))))).indexOf(device ?? -1);
}

/** What records say, if they are of these very drives and agree. */
async function findSet(
  drives: readonly StripedDrive[],
  folders: readonly (string | undefined)[],
): Promise<StripeSet | undefined> {
  const records = await Promise.all(folders.map((folder) => folder && readStripeRecord(folder)));
  const first = records.find((record) => record);
  if (!first || first.drives.length !== drives.length) return undefined;
  const places: (number | undefined)[] = first.drives.map(() => undefined);
  const cut = (record: StripeRecord) => JSON.stringify([record.stripes, record.wholeDrive]);
  for (const [i, record] of records.entries()) {
    const holds = folders[i] === undefined;
    const drive = holds
      ? first.wholeDrive
      : record
        ? record.drive
        : placeOf(first, present(drives[i], 'drive'));
    if (drive === undefined || places[drive] !== undefined) return undefined;
    if (record && cut(record) !== cut(first)) return undefined;
    if (!holds && drive === first.wholeDrive) return undefined;
    places[drive] = i;
  }
  const inOrder = places.map((place) => present(place, 'place'));
  return {
    stripes: first.stripes,
    drives: inOrder.map((place) => present(drives[place], 'drive')),
    folders: inOrder.map((place) => folders[place]),
    records: inOrder.map((place) => records[place] || undefined),
  };
}

/** A drive that has nothing of it is known by where it was given. */
function placeOf({ drives }: StripeRecord, { folder }: StripedDrive): number | undefined {
  const place = drives.findIndex((drive) => drive.folder === resolve(folder));
  return place < 0 ? undefined : place;
}

function isWorthKeeping({ stripes, drives }: StripeSet): boolean {
  return slowdown(stripes, drives) <= WORTH_COPYING;
}

/** What is there with its cut; nothing of it, where another cut is to be made. */
async function keptSet(
  drives: readonly StripedDrive[],
  folders: readonly (string | undefined)[],
  { log }: StageOptions,
): Promise<StripeSet | undefined> {
  const found = await findSet(drives, folders);
  if (found && isWorthKeeping(found)) return found;
  if (found) {
    const rates = found.drives.map(({ folder, bytesPerSecond }) => `${folder} ${formatRate(bytesPerSecond)}`);
    log?.(
      `drives yield other rates than the weights were striped by (${rates.join(', ')}): they are striped anew, so that ` +
        `reads take ${Math.round((1 - 1 / slowdown(found.stripes, found.drives)) * 100)} % less time`,
    );
  }
  for (const folder of folders) {
    if (folder === undefined) continue;
    for (const name of await readdir(folder)) if (OWN.test(name)) await discard(join(folder, name));
  }
  return undefined;
}

/** What is written there, but for the lock. */
const OWN = /(\.stripe|^manifest\.json)(\.partial)?$/;

/**
 * Throws NOT_FOUND where weights were striped over drives one of which is not mounted: what its place leads to now would get its
 * part, or count as another folder of the same drive.
 */
export async function checkMounted(checkpoint: Sources, given: readonly string[]): Promise<void> {
  const name = stripedFolder(await contentId(checkpoint.files));
  const roots = given.map((folder) => resolve(folder));
  for (const root of roots) {
    const record = await readStripeRecord(join(root, name));
    for (const { folder, fileSystem } of record?.drives ?? []) {
      if (folder === root || !roots.includes(folder)) continue;
      if ((await readStripeRecord(join(folder, name))) || (await fileSystemOf(folder)) === fileSystem)
        continue;
      throw new OperatingError(
        'NOT_FOUND',
        `${folder} has no part of the weights that were striped over it and ${root}, and is on another file system than ` +
          `then: mount its drive, or remove ${join(root, name)} to have them striped anew`,
      );
    }
  }
}

/** Its records come first, so that a killed copy goes on with the same cut. */
async function newSet(
  drives: readonly StripedDrive[],
  folders: readonly (string | undefined)[],
): Promise<StripeSet> {
  const stripes = stripesFor(drives.map(({ bytesPerSecond }) => bytesPerSecond));
  const recorded = await Promise.all(
    drives.map(async ({ folder }) => ({
      folder: resolve(folder),
      fileSystem: await fileSystemOf(resolve(folder)),
    })),
  );
  const whole = folders.indexOf(undefined);
  const records = folders.map((folder, drive): StripeRecord | undefined =>
    folder === undefined
      ? undefined
      : { stripes, drives: recorded, wholeDrive: whole < 0 ? undefined : whole, drive, files: new Map() },
  );
  for (const [drive, record] of records.entries()) {
    if (record) await writeStripeRecord(present(folders[drive], 'folder'), record);
  }
  return { stripes, drives, folders, records };
}
