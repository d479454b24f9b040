// Brings one revision of a model into the cache: which files are needed, whether they fit, and then all of them.

import { lstat, mkdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { formatBytes, OperatingError } from '../../offload/index.js';
import { QUANTISER_FILES, readQuantiser } from '../checkpoint/quantiser-file.js';
import { isLeftOut } from '../checkpoint/text-part.js';
import { refuseOtherKinds } from '../checkpoint/unreadable.js';
import {
  chooseWeights,
  parseWeightMap,
  shardNames,
  type WeightChoice,
  without,
} from '../checkpoint/weight-files.js';
import { ifThere } from '../files/if-there.js';
import { readOptionalJsonObject } from '../files/json-file.js';
import { BARE_VOCABULARIES, MERGES, WHOLE_TOKENIZER } from '../files/tokenizer-files.js';
import { readDeclared } from '../formats/declared.js';
import { refuseUnreadNames } from '../formats/unread-names.js';
import { writeFailure } from '../staging/manifest.js';
import { downloadBlob, partialPath, sizeOf } from './blob.js';
import type { ModelCache } from './cache.js';
import type { FileMetadata, HubClient } from './client.js';

export interface DownloadProgress {
  /** Bytes of weights that are there, those of earlier runs included. */
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
  /** Called with the snapshot's folder when config.json is there and nothing else. */
  readonly afterConfig?: ((folder: string) => void | Promise<void>) | undefined;
  /** Called with the snapshot's folder when all but the weights is there: time to refuse what cannot run. */
  readonly beforeWeights?: ((folder: string) => void | Promise<void>) | undefined;
}

/** A tokenizer begins with one of these. */
export const TOKENIZERS: readonly string[] = [WHOLE_TOKENIZER, ...BARE_VOCABULARIES];
/** What we read besides config.json and weights. Whatever else a repository holds stays there. */
const SMALL_FILES: readonly string[] = [
  'generation_config.json',
  WHOLE_TOKENIZER,
  'added_tokens.json',
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
  const fetchSmall = (names: readonly string[]) =>
    fetchFiles(
      options,
      commit,
      names.filter((name) => fileNames.includes(name)),
      () => undefined,
    );
  await refuseOtherKinds({
    where: `${id} on the hub`,
    names: fileNames,
    readJson: async (name) => {
      await fetchSmall([name]);
      return readOptionalJsonObject(join(folder, name), 'BAD_CONFIG');
    },
  });
  const choice = chooseWeights(fileNames);
  if (!fileNames.includes('config.json') || !choice) {
    const lacking = fileNames.includes('config.json')
      ? 'weights that can be read (safetensors or .bin)'
      : 'config.json';
    throw new OperatingError(
      'NOT_FOUND',
      `${id} has no ${lacking} among its ${fileNames.length} files on the hub`,
    );
  }
  await fetchSmall(['config.json']);
  await options.afterConfig?.(folder);
  await fetchSmall([...QUANTISER_FILES, ...(choice.isIndex ? [choice.name] : [])]);
  await refuseUnreadWeights(`${id} on the hub`, folder, { fileNames, choice });
  await fetchSmall(SMALL_FILES);
  // Some of them are large, and where the tokenizer is whole they would only lie there.
  if (!fileNames.includes(WHOLE_TOKENIZER)) await fetchSmall([...BARE_VOCABULARIES, MERGES]);
  for (const name of TOKENIZERS) if (!fileNames.includes(name)) await cache.markAbsent(commit, name);
  await options.beforeWeights?.(folder);
  await fetchFiles(
    options,
    commit,
    await weightNames(folder, choice),
    options.onProgress ?? (() => undefined),
  );
  await cache.writeRef(revision, commit);
  return folder;
}

/** Throws UNSUPPORTED for weights stored as nobody here reads them, as far as configuration and index tell. */
async function refuseUnreadWeights(
  where: string,
  folder: string,
  { fileNames, choice }: { readonly fileNames: readonly string[]; readonly choice: WeightChoice },
): Promise<void> {
  const path = join(folder, 'config.json');
  const config = (await readOptionalJsonObject(path, 'BAD_CONFIG')) ?? {};
  readDeclared(config, path, await readQuantiser(folder, config, fileNames));
  if (!choice.isIndex) return;
  const indexPath = join(folder, choice.name);
  const index = await readOptionalJsonObject(indexPath, 'BAD_INDEX');
  refuseUnreadNames(where, parseWeightMap(index?.weight_map, indexPath, choice.format.extension).keys());
}

async function weightNames(folder: string, { format, name, isIndex }: WeightChoice): Promise<string[]> {
  if (!isIndex) return [name];
  const path = join(folder, name);
  const index = await readOptionalJsonObject(path, 'BAD_INDEX');
  const config = (await readOptionalJsonObject(join(folder, 'config.json'), 'BAD_CONFIG')) ?? {};
  const shardOf = parseWeightMap(index?.weight_map, path, format.extension);
  return shardNames(without(shardOf, isLeftOut(config)));
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
  const lacking = await filesToFetch(cache.snapshotFolder(commit), files);
  // Files of the same content are one blob.
  const blobs = new Map(lacking.map((file) => [file.metadata.etag, file]));
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
    for (const { name, metadata: other } of lacking) {
      if (other.etag === metadata.etag) await cache.link(commit, name, other.etag);
    }
    doneFiles++;
    report();
  });
}

/** Without what the snapshot has itself: a cache that was copied may hold files in the place of links. */
async function filesToFetch(folder: string, files: readonly RemoteFile[]): Promise<RemoteFile[]> {
  const sizes = await Promise.all(files.map(({ name }) => ownSize(join(folder, name))));
  return files.filter(({ metadata }, i) => sizes[i] !== metadata.sizeBytes);
}

async function ownSize(path: string): Promise<number | undefined> {
  const entry = await ifThere(path, lstat(path));
  return entry?.isFile() ? entry.size : undefined;
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
