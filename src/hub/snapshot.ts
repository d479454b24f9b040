// Brings one revision of a model into the cache: which files are needed, whether they fit, and then all of them.

import { mkdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { formatBytes, OperatingError } from '../../offload/index.js';
import { readOptionalJsonObject } from '../json-file.js';
import { writeFailure } from '../staging-manifest.js';
import { parseWeightMap, WEIGHT_FORMATS } from '../weight-files.js';
import { downloadBlob, partialPath, sizeOf } from './blob.js';
import type { ModelCache } from './cache.js';
import type { FileMetadata, HubClient } from './client.js';

export interface DownloadProgress {
  /** Of the weights, counting what was there before. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly doneFiles: number;
  readonly totalFiles: number;
}

export interface SnapshotOptions {
  readonly client: HubClient;
  /** Aborts the client's requests: after one failure the other files are not wanted any more. */
  readonly stop: (error: unknown) => void;
  readonly cache: ModelCache;
  readonly id: string;
  readonly revision: string;
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
  /** Called with the snapshot's folder when all but the weights is there: time to refuse what cannot run. */
  readonly beforeWeights?: ((folder: string) => void | Promise<void>) | undefined;
}

/** What we read besides weights. Whatever else a repository holds stays there. */
const SMALL_FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'chat_template.json',
];
/** As many as Python's client; the hub's answers take longer than their bytes. */
const FILES_AT_ONCE = 8;

interface RemoteFile {
  readonly name: string;
  readonly metadata: FileMetadata;
}

/** Returns the snapshot's folder. Errors: those of the client and of writing, NO_SPACE, BAD_INDEX. */
export async function downloadSnapshot(options: SnapshotOptions): Promise<string> {
  const { client, cache, id, revision } = options;
  const { commit, fileNames } = await client.list();
  const folder = cache.snapshotFolder(commit);
  const format = WEIGHT_FORMATS.find(
    ({ single, index }) => fileNames.includes(single) || fileNames.includes(index),
  );
  const lone = fileNames.filter((name) => /^[^/\\]+\.safetensors$/.test(name));
  if (!fileNames.includes('config.json') || (!format && lone.length !== 1)) {
    const lacking = fileNames.includes('config.json')
      ? 'weights that can be read (safetensors or .bin)'
      : 'config.json';
    throw new OperatingError(
      'NOT_FOUND',
      `${id} has no ${lacking} among its ${fileNames.length} files on the hub`,
    );
  }
  const sharded = format !== undefined && !fileNames.includes(format.single);
  const small = SMALL_FILES.filter((name) => fileNames.includes(name));
  await fetchFiles(options, commit, sharded ? [...small, format.index] : small, () => undefined);
  if (!fileNames.includes('tokenizer.json')) await cache.markAbsent(commit, 'tokenizer.json');
  await options.beforeWeights?.(folder);
  let weights = format ? [format.single] : lone;
  if (sharded) {
    const path = join(folder, format.index);
    const index = await readOptionalJsonObject(path, 'BAD_INDEX');
    weights = [...new Set(parseWeightMap(index?.weight_map, path, format.extension).values())].sort();
  }
  await fetchFiles(options, commit, weights, options.onProgress ?? (() => undefined));
  await cache.writeRef(revision, commit);
  return folder;
}

async function fetchFiles(
  { client, cache, stop }: SnapshotOptions,
  commit: string,
  names: readonly string[],
  onProgress: (progress: DownloadProgress) => void,
): Promise<void> {
  const files = await mapBounded(names, stop, async (name): Promise<RemoteFile> => {
    return { name, metadata: await client.metadata(commit, name) };
  });
  // Files of the same content are one blob.
  const blobs = new Map(files.map((file) => [file.metadata.etag, file]));
  const totalBytes = [...blobs.values()].reduce((sum, { metadata }) => sum + metadata.sizeBytes, 0);
  await checkSpace(cache, [...blobs.values()]);
  let [doneBytes, doneFiles] = [0, 0];
  const report = () => onProgress({ doneBytes, totalBytes, doneFiles, totalFiles: blobs.size });
  report();
  await mapBounded([...blobs.values()], stop, async ({ name, metadata }) => {
    let before = 0;
    await downloadBlob({
      client,
      commit,
      fileName: name,
      metadata,
      blobPath: cache.blobPath(metadata.etag),
      onProgress: (bytes) => {
        doneBytes += bytes - before;
        before = bytes;
        report();
      },
    });
    for (const { name, metadata: other } of files) {
      if (other.etag === metadata.etag) await cache.link(commit, name, other.etag);
    }
    doneFiles++;
    report();
  });
}

async function checkSpace(cache: ModelCache, files: readonly RemoteFile[]): Promise<void> {
  let neededBytes = 0;
  for (const { metadata } of files) {
    const path = cache.blobPath(metadata.etag);
    const present = (await sizeOf(path)) ?? (await sizeOf(partialPath(path))) ?? 0;
    neededBytes += Math.max(0, metadata.sizeBytes - present);
  }
  await mkdir(cache.folder, { recursive: true }).catch((error: unknown) => {
    throw writeFailure(cache.folder, error);
  });
  const { bavail, bsize } = await statfs(cache.folder);
  if (neededBytes > bavail * bsize) {
    throw new OperatingError(
      'NO_SPACE',
      `the download takes ${formatBytes(neededBytes)} and ${cache.folder} has ${formatBytes(bavail * bsize)} free: ` +
        'make space, or set HF_HUB_CACHE to a folder on another drive',
    );
  }
}

/** The first failure ends all: no further item begins, those under way are stopped, and it is thrown. */
async function mapBounded<T, R>(
  items: readonly T[],
  stop: (error: unknown) => void,
  map: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  let failure: { error: unknown } | undefined;
  const worker = async () => {
    while (next < items.length && !failure) {
      const index = next++;
      try {
        results[index] = await map(items[index] as T);
      } catch (error) {
        failure ??= { error };
        stop(error);
      }
    }
  };
  await Promise.all(Array.from({ length: FILES_AT_ONCE }, worker));
  if (failure) throw failure.error;
  return results;
}
