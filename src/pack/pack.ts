// Packs a checkpoint: written beside its place, gone on with where an earlier run was stopped, and there in one step.

import { lstat, mkdir, readdir, readFile, realpath, rename, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { type CpuBackendOptions, cannotOpen, formatBytes, OperatingError } from '../../offload/index.js';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { ifThere } from '../files/if-there.js';
import { systemCode } from '../files/json-file.js';
import { makeFolder } from '../files/make-folder.js';
import { takeLock } from '../staging/lock.js';
import { syncFolder, writeDurably, writeFailure } from '../staging/manifest.js';
import { copyCompanions } from './companions.js';
import { packMetadata } from './identity.js';
import {
  addLoss,
  type FinishedFile,
  finished,
  isIntact,
  type Loss,
  NO_LOSS,
  PACK_RECORD,
  readRecord,
  writeRecord,
} from './record.js';
import { quantizationConfig } from './scheme.js';
import type { StoreFile, StorePlan } from './store-plan.js';
import { writeFiles } from './write-files.js';

export interface PackOptions {
  readonly checkpoint: Checkpoint;
  readonly plan: StorePlan;
  /** What `packId` says. */
  readonly id: string;
  readonly gpus: number;
  /** How the source is read. */
  readonly io?: CpuBackendOptions['io'] | undefined;
  /** Appears complete or not at all; must not exist, or be empty. */
  readonly folder: string;
  readonly signal?: AbortSignal;
  /** Bytes of the source, those of an earlier run among them. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly onWait?: (holder: string) => void;
  readonly log?: (message: string) => void;
}

export interface LayerResult extends Loss {
  readonly name: string;
  readonly sourceBytes: number;
  readonly storedBytes: number;
}

/**
 * Returns what was lost in each layer.
 * Errors: NO_SPACE, WRITE_FAILED, READ_FAILED, FILE_CHANGED, NOT_FINITE, INTERRUPTED; a run after one of these goes on
 * with the layers that are whole, unless the source has changed.
 */
export async function pack(options: PackOptions): Promise<readonly LayerResult[]> {
  const { checkpoint, onWait, signal } = options;
  const folder = await checkPlace(checkpoint.folder, options.folder);
  await makeFolder(dirname(folder));
  const unlock = await takeLock(`${folder}.lock`, { signal, onWait });
  try {
    // Whoever had the lock may have made it.
    await checkPlace(checkpoint.folder, folder);
    return await packLocked({ ...options, folder });
  } finally {
    await unlock();
  }
}

/** The same for whoever has the lock and knows that nothing is at `folder`. */
export async function packLocked(options: PackOptions): Promise<readonly LayerResult[]> {
  const { checkpoint, plan, id, gpus, folder, log } = options;
  const partial = `${folder}.partial`;
  const done = await takeUp(partial, options);
  const missing = plan.files.filter(({ name }) => !done.has(name));
  if (done.size > 0)
    log?.(`going on in ${partial}, where ${done.size} of ${plan.files.length} files are whole`);
  await checkRoom(partial, missing);
  try {
    let doneBytes = sourceBytes(plan.files) - sourceBytes(missing);
    await writeFiles({
      checkpoint,
      scheme: plan.scheme,
      files: missing,
      folder: partial,
      metadata: packMetadata(id, plan.scheme, gpus),
      io: options.io,
      signal: options.signal,
      onBytes: (bytes) => {
        doneBytes += bytes;
        options.onProgress?.(doneBytes, plan.sourceBytes);
      },
      onFile: async ({ name }, loss) => {
        done.set(name, await finished(partial, name, loss));
        await writeRecord(partial, { id, files: done });
      },
    });
    await copyCompanions(checkpoint.folder, partial);
    await writeDurably(partial, INDEX_NAME, jsonText(indexOf(plan)));
    await writeDurably(partial, 'config.json', await configOf(options));
    await rename(partial, folder);
    await syncFolder(dirname(folder));
  } catch (error) {
    // No other run could go on with it: the source is at fault.
    if (error instanceof OperatingError && error.code === 'NOT_FINITE') await discard(partial);
    throw systemCode(error) === undefined ? error : writeFailure(partial, error);
  }
  return layerResults(plan.files, done);
}

const INDEX_NAME = 'model.safetensors.index.json';

/** The files of an earlier run that are whole; others go. Nothing is there where the pack is another one. */
async function takeUp(partial: string, { id, plan }: PackOptions): Promise<Map<string, FinishedFile>> {
  const record = await readRecord(partial);
  const whole = new Map<string, FinishedFile>();
  if (record?.id === id) {
    for (const { name } of plan.files) {
      const file = record.files.get(name);
      if (file && (await isIntact(partial, file))) whole.set(name, file);
    }
    // A file that was under way, or of nobody.
    for (const name of await readdir(partial)) {
      if (!whole.has(name) && name !== PACK_RECORD) await discard(join(partial, name));
    }
    return whole;
  }
  const names = (await ifThere(partial, readdir(partial))) ?? [];
  if (!record && names.some((name) => !name.startsWith(PACK_RECORD))) {
    throw new OperatingError(
      'WRITE_FAILED',
      `${partial} is where the store is written before it is whole, and what lies there is of no pack: remove it, or ` +
        'choose another --output',
    );
  }
  try {
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial);
  } catch (error) {
    throw writeFailure(partial, error);
  }
  await writeRecord(partial, { id, files: whole });
  return whole;
}

/**
 * Where the store is to be, without links: it is moved there at the end, which must not fail then.
 * Throws WRITE_FAILED or BAD_OPTION.
 */
export async function checkPlace(source: string, output: string): Promise<string> {
  const found = await ifThere(output, stat(output));
  if (!found) {
    const link = await ifThere(output, lstat(output));
    if (!link) return resolve(output);
    throw new OperatingError('WRITE_FAILED', `${output} is a link to what is not there: give a folder`);
  }
  const folder = await realpath(output);
  if (folder === (await realpath(source))) {
    throw new OperatingError(
      'BAD_OPTION',
      `--output is ${folder}, which is the checkpoint itself: choose another`,
    );
  }
  if (!found.isDirectory() || (await readdir(folder)).length > 0) {
    throw new OperatingError('WRITE_FAILED', `${folder} exists: remove it or choose another --output`);
  }
  if ((await stat(dirname(folder))).dev !== found.dev) {
    throw new OperatingError(
      'WRITE_FAILED',
      `${folder} is where a drive is mounted, and nothing can be moved to that place: give a folder in it`,
    );
  }
  return folder;
}

/** For the index, the record, and what the file system keeps for itself. */
const MARGIN_BYTES = 16 * 1024 * 1024;

async function checkRoom(partial: string, missing: readonly StoreFile[]): Promise<void> {
  const neededBytes = missing.reduce((sum, { sizeBytes }) => sum + sizeBytes, MARGIN_BYTES);
  const { bavail, bsize } = await statfs(partial);
  const freeBytes = bavail * bsize;
  if (neededBytes <= freeBytes) return;
  throw new OperatingError(
    'NO_SPACE',
    `the store takes ${formatBytes(neededBytes)} more and ${partial} has ${formatBytes(freeBytes)} free: make space, or ` +
      'choose a folder on another drive',
  );
}

function sourceBytes(files: readonly StoreFile[]): number {
  return files.reduce((sum, file) => sum + file.sourceBytes, 0);
}

/** Fillers are of no interest to readers. */
function indexOf({ files }: StorePlan) {
  const stored = files.flatMap(({ name, sections }) =>
    sections
      .filter((section) => section.from !== 'bytes' || !section.isFiller)
      .map((section) => ({ section, file: name })),
  );
  return {
    metadata: { total_size: stored.reduce((sum, { section }) => sum + section.sizeBytes, 0) },
    weight_map: Object.fromEntries(stored.map(({ section, file }) => [section.name, file])),
  };
}

/** The source's own text with one entry more: Python takes 0 and 0.0 for different types. */
async function configOf({ checkpoint, plan }: PackOptions): Promise<string> {
  const added = quantizationConfig(plan.scheme, plan.ignored);
  const { folder, config } = checkpoint;
  if ('quantization_config' in config) return jsonText({ ...config, quantization_config: added });
  const text = await readFile(join(folder, 'config.json'), 'utf8').catch((error) => {
    throw cannotOpen(join(folder, 'config.json'), error);
  });
  const entry = jsonText(added).trimEnd().replaceAll('\n', '\n  ');
  return `${text.trimEnd().slice(0, -1).trimEnd()},\n  "quantization_config": ${entry}\n}\n`;
}

function jsonText(content: unknown): string {
  return `${JSON.stringify(content, undefined, 2)}\n`;
}

/** Where even this fails, what follows says why. */
async function discard(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true }).catch(() => undefined);
}

function layerResults(files: readonly StoreFile[], done: ReadonlyMap<string, FinishedFile>): LayerResult[] {
  const layers = new Map<string, LayerResult>();
  for (const { name, layer, sourceBytes: read } of files) {
    const file = done.get(name);
    const before = layers.get(layer) ?? { name: layer, sourceBytes: 0, storedBytes: 0, ...NO_LOSS };
    layers.set(layer, {
      name: layer,
      ...addLoss(before, file ?? NO_LOSS),
      sourceBytes: before.sourceBytes + read,
      storedBytes: before.storedBytes + (file?.sizeBytes ?? 0),
    });
  }
  return [...layers.values()];
}
