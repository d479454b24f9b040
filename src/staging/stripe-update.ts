// Makes the parts of a striped copy right: keeps those that have the content of their source, and copies the others.

import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { type FileState, formatBytes, MiB, OperatingError, partBytes, present } from '../../offload/index.js';
import { sizeOf } from './copy.js';
import { fileState, isIntact, type StagedFile, sameState } from './manifest.js';
import { compareParts, copyParts } from './stripe-copy.js';
import { type StripeRecord, writeStripeRecord } from './stripe-record.js';
import { partName, type StripeSet, type StripeSource, sharesText, stripedFile } from './stripe-set.js';
import { discard, type StageOptions } from './update.js';

/** Left free beside the parts, as beside other copies. */
const MARGIN_BYTES = 256 * MiB;

/** A drive's part of one source, as its record has it and as it lies there. */
interface Part {
  readonly drive: number;
  readonly path: string;
  readonly entry: StagedFile | undefined;
  /** Undefined where nothing of the right size lies there. */
  readonly state: FileState | undefined;
}

/**
 * Digests of all sources, where every part was copied from exactly these and nobody has touched either since. Takes no lock:
 * records are replaced in one step.
 */
export async function finishedFiles(
  set: StripeSet,
  sources: readonly StripeSource[],
): Promise<string[] | undefined> {
  const sha256: string[] = [];
  for (const source of sources) {
    const parts = await partsOf(set, source);
    const [first] = parts;
    if (!first?.entry || !parts.every((part) => isRight(part, source, first.entry?.sha256))) return undefined;
    sha256.push(first.entry.sha256);
  }
  return sha256;
}

/** Without a look at the content. */
function isRight({ entry, state }: Part, source: StripeSource, sha256: string | undefined): boolean {
  if (!entry || !state) return false;
  return entry.sha256 === sha256 && sameState(entry.source, source) && isIntact(entry, state);
}

async function partsOf({ stripes, folders, records }: StripeSet, source: StripeSource): Promise<Part[]> {
  const parts: Part[] = [];
  for (const [drive, folder] of folders.entries()) {
    if (folder === undefined) continue;
    const path = join(folder, partName(source));
    const state = await fileState(path).catch(() => undefined);
    const isWhole = state?.sizeBytes === partBytes(stripes, drive, source.sizeBytes);
    const entry = records[drive]?.files.get(partName(source));
    parts.push({ drive, path, entry, state: isWhole ? state : undefined });
  }
  return parts;
}

/** Compares and copies what has to be. Returns whether anything was written. For whoever has the locks. */
export async function bringPartsUpToDate(
  set: StripeSet,
  sources: readonly StripeSource[],
  options: StageOptions,
): Promise<boolean> {
  const records = await startedRecords(set);
  const missing: { readonly source: StripeSource; readonly parts: readonly Part[] }[] = [];
  for (const source of sources) {
    const parts = await wrongParts({ set, records, source, options });
    if (parts.length > 0) missing.push({ source, parts });
  }
  await writeRecords(set, records);
  if (missing.length === 0) return false;
  for (const [drive, folder] of set.folders.entries()) {
    if (folder !== undefined) await checkSpace(set, folder, drive, missing);
  }
  const bytesTotal = sources.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  let bytesDone = bytesTotal - missing.reduce((sum, { source }) => sum + source.sizeBytes, 0);
  options.log?.(
    `striping ${formatBytes(bytesTotal - bytesDone)} of weights, once: ${sharesText(set, bytesTotal - bytesDone)}`,
  );
  const onBytes = (bytes: number) => {
    bytesDone += bytes;
    options.onProgress?.(bytesDone, bytesTotal, 'copy');
  };
  for (const { source, parts } of missing) {
    const work = { signal: options.signal, onBytes };
    const drives = new Set(parts.map(({ drive }) => drive));
    const sha256 = await copyParts(source, stripedFile(set, source), drives, work);
    const kept = (await partsOf({ ...set, records }, source)).find(({ drive }) => !drives.has(drive));
    for (const { drive, path } of parts) await enter(present(records[drive], 'record'), path, source, sha256);
    // After each file, so that a killed copy keeps it.
    await writeRecords(set, records);
    if (kept?.entry && kept.entry.sha256 !== sha256) {
      throw new OperatingError(
        'FILE_CHANGED',
        `${source.path} has another content than its parts on other drives, which are copied anew at the next start`,
      );
    }
  }
  return true;
}

/** Records of all drives, which gain and lose entries; of drives that had none too. */
async function startedRecords(set: StripeSet): Promise<(Mutable | undefined)[]> {
  const known = present(
    set.records.find((record) => record !== undefined),
    'record',
  );
  return set.folders.map((folder, drive) =>
    folder === undefined ? undefined : { ...known, drive, files: new Map(set.records[drive]?.files ?? []) },
  );
}

interface Mutable extends StripeRecord {
  readonly files: Map<string, StagedFile>;
}

interface Question {
  readonly set: StripeSet;
  readonly records: readonly (Mutable | undefined)[];
  readonly source: StripeSource;
  readonly options: StageOptions;
}

/** The parts that are to be copied. What was touched since is read once to find out; entries of what is wrong go. */
async function wrongParts({ set, records, source, options }: Question): Promise<readonly Part[]> {
  const parts = await partsOf(set, source);
  const there = parts.filter(({ entry, state }) => entry && state);
  const sha256 = there[0]?.entry?.sha256;
  const isTouched = there.some((part) => !isRight(part, source, sha256));
  let right: readonly Part[] = there;
  if (isTouched) {
    options.log?.(
      `${source.path} or its parts were touched since they were copied: comparing ${formatBytes(source.sizeBytes)}`,
    );
    let bytesDone = 0;
    const onBytes = (bytes: number) => {
      bytesDone += bytes;
      options.onProgress?.(bytesDone, source.sizeBytes, 'compare');
    };
    const drives = new Set(there.map(({ drive }) => drive));
    const found = await compareParts(source, stripedFile(set, source), drives, {
      signal: options.signal,
      onBytes,
    });
    right = found === undefined ? [] : there;
    if (found !== undefined) {
      for (const { drive, path } of there)
        await enter(present(records[drive], 'record'), path, source, found);
    }
  }
  const wrong = parts.filter((part) => !right.includes(part));
  for (const { drive, path } of wrong) {
    records[drive]?.files.delete(partName(source));
    await discard(path);
  }
  return wrong;
}

async function enter({ files }: Mutable, path: string, source: StripeSource, sha256: string): Promise<void> {
  const { mtimeNs, ctimeNs } = await fileState(path);
  const name = partName(source);
  files.set(name, { name, sha256, mtimeNs, ctimeNs, source });
}

async function writeRecords(set: StripeSet, records: readonly (StripeRecord | undefined)[]): Promise<void> {
  for (const [drive, record] of records.entries()) {
    if (record) await writeStripeRecord(present(set.folders[drive], 'folder'), record);
  }
}

async function checkSpace(
  { stripes }: StripeSet,
  folder: string,
  drive: number,
  missing: readonly { readonly source: StripeSource; readonly parts: readonly Part[] }[],
): Promise<void> {
  let neededBytes = 0;
  for (const { source, parts } of missing) {
    const part = parts.find((one) => one.drive === drive);
    if (!part) continue;
    const partial = await sizeOf(`${part.path}.partial`);
    neededBytes += Math.max(0, partBytes(stripes, drive, source.sizeBytes) - partial);
  }
  const { bavail, bsize } = await statfs(folder);
  const freeBytes = bavail * bsize;
  if (neededBytes === 0 || neededBytes + MARGIN_BYTES <= freeBytes) return;
  throw new OperatingError(
    'NO_SPACE',
    `${folder} has ${formatBytes(freeBytes)} free, but this drive's part of the weights needs ` +
      `${formatBytes(neededBytes + MARGIN_BYTES)}: free space there, or leave this drive out`,
  );
}
