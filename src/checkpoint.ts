// A checkpoint in the Hugging Face layout: its configuration, its weight files, and where each tensor lies in them.
//
// Only headers are read: opening takes milliseconds whatever the model's size.

import { readdir, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { OperatingError } from '../offload/index.js';
import { isJsonObject, type JsonObject, readOptionalJsonObject, reason, systemCode } from './json-file.js';
import { type HeaderTensor, readSafetensorsHeader, type SafetensorsHeader } from './safetensors.js';

export interface StoredTensor extends HeaderTensor {
  /** Index into `Checkpoint.files`. */
  readonly fileIndex: number;
}

export interface Checkpoint {
  /** Absolute. */
  readonly folder: string;
  readonly config: JsonObject;
  /** `generation_config.json`; empty when the checkpoint has none. */
  readonly generationConfig: JsonObject;
  /** Absolute paths of the weight files in use, in order of name. */
  readonly files: readonly string[];
  /** Of all tensors together. */
  readonly totalBytes: number;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  find(name: string): StoredTensor | undefined;
}

const INDEX_NAME = 'model.safetensors.index.json';
const SINGLE_NAME = 'model.safetensors';
/** Enough to keep Node's four file threads busy; hundreds of shards would otherwise mean hundreds of open files. */
const HEADERS_AT_ONCE = 8;

/**
 * Opens the checkpoint in `folder`.
 * Errors: NOT_FOUND, BAD_CONFIG, BAD_INDEX, BAD_SAFETENSORS, MISSING_TENSOR, UNSUPPORTED (weights in another format).
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const root = resolve(folder);
  await checkFolder(root, folder);
  const config = await readOptionalJsonObject(join(root, 'config.json'), 'BAD_CONFIG');
  if (!config) {
    throw new OperatingError(
      'NOT_FOUND',
      `${root} has no config.json: give the folder of a Hugging Face checkpoint`,
    );
  }
  const generationConfig = await readOptionalJsonObject(join(root, 'generation_config.json'), 'BAD_CONFIG');
  const weights = await findWeights(root);
  const headers = await readHeaders(root, weights.fileNames);
  const tensors = weights.shardOf
    ? tensorsOfIndex(root, weights, headers, weights.shardOf)
    : tensorsOf(headers);
  let totalBytes = 0;
  for (const tensor of tensors.values()) totalBytes += tensor.sizeBytes;
  return {
    folder: root,
    config,
    generationConfig: generationConfig ?? {},
    files: headers.map((header) => header.path),
    totalBytes,
    tensors,
    find: (name) => tensors.get(name),
  };
}

interface Weights {
  readonly fileNames: readonly string[];
  /** Tensor name → file name, when an index says so. */
  readonly shardOf?: ReadonlyMap<string, string>;
}

async function checkFolder(root: string, given: string): Promise<void> {
  const isFolder = await stat(root).then(
    (entry) => entry.isDirectory(),
    (error: unknown) => {
      const absent = systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR';
      throw new OperatingError(
        'NOT_FOUND',
        absent
          ? `there is no folder '${given}': give the folder of a checkpoint (download one from the hub first)`
          : `${root} cannot be opened: ${reason(error)}`,
        { cause: error },
      );
    },
  );
  if (!isFolder) {
    throw new OperatingError(
      'NOT_FOUND',
      `${root} is a file: give the folder that holds config.json and the weights`,
    );
  }
}

/** In the order in which transformers looks: the single file, then the index; then a lone file of another name. */
async function findWeights(root: string): Promise<Weights> {
  const names = (await readdir(root)).sort();
  if (names.includes(SINGLE_NAME)) return { fileNames: [SINGLE_NAME] };
  if (names.includes(INDEX_NAME)) return readIndex(root, new Set(names));
  const safetensors = names.filter((name) => name.endsWith('.safetensors'));
  if (safetensors.length === 1) return { fileNames: safetensors };
  if (safetensors.length > 1) {
    throw new OperatingError(
      'BAD_INDEX',
      `${root} has ${safetensors.length} safetensors files, but no ${INDEX_NAME} that says what each holds`,
    );
  }
  if (names.some((name) => name.endsWith('.bin') || name.endsWith('.pt') || name.endsWith('.pth'))) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${root} holds its weights as PyTorch .bin files, which are not supported yet: convert them to safetensors`,
    );
  }
  throw new OperatingError('NOT_FOUND', `${root} has no weights: neither ${SINGLE_NAME} nor ${INDEX_NAME}`);
}

async function readIndex(root: string, present: ReadonlySet<string>): Promise<Weights> {
  const path = join(root, INDEX_NAME);
  const index = await readOptionalJsonObject(path, 'BAD_INDEX');
  const shardOf = parseWeightMap(index?.weight_map, path);
  const fileNames = [...new Set(shardOf.values())].sort();
  const absent = fileNames.filter((name) => !present.has(name));
  if (absent.length > 0) {
    throw new OperatingError(
      'BAD_INDEX',
      `${path} names ${fileNames.length} files, of which ${absent.length} are absent (the first: ${absent[0]}): ` +
        'complete the download',
    );
  }
  return { fileNames, shardOf };
}

/** Tensor name → shard file name. Exported for the fuzz test. */
export function parseWeightMap(weightMap: unknown, path: string): ReadonlyMap<string, string> {
  if (!isJsonObject(weightMap)) throw new OperatingError('BAD_INDEX', `${path} has no object 'weight_map'`);
  const shardOf = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(weightMap)) {
    // A shard lies beside its index; anything else could make us read files that are none of the model's.
    if (typeof shard !== 'string' || !isPlainFileName(shard)) {
      throw new OperatingError(
        'BAD_INDEX',
        `${path} puts ${JSON.stringify(tensor)} into ${JSON.stringify(shard)}, which is no plain .safetensors file name`,
      );
    }
    shardOf.set(tensor, shard);
  }
  if (shardOf.size === 0) throw new OperatingError('BAD_INDEX', `${path} has an empty 'weight_map'`);
  return shardOf;
}

function isPlainFileName(name: string): boolean {
  return name.endsWith('.safetensors') && basename(name) === name && !/[\\/\0]/.test(name);
}

async function readHeaders(root: string, fileNames: readonly string[]): Promise<SafetensorsHeader[]> {
  const headers: SafetensorsHeader[] = [];
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < fileNames.length; i = next++) {
      headers[i] = await readSafetensorsHeader(join(root, fileNames[i] ?? ''));
    }
  };
  await Promise.all(Array.from({ length: HEADERS_AT_ONCE }, worker));
  return headers;
}

function tensorsOf(headers: readonly SafetensorsHeader[]): ReadonlyMap<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  for (const [fileIndex, header] of headers.entries()) {
    for (const tensor of header.tensors.values()) tensors.set(tensor.name, { ...tensor, fileIndex });
  }
  return tensors;
}

/** The index decides: tensors that it does not list are not part of the model. */
function tensorsOfIndex(
  root: string,
  weights: Weights,
  headers: readonly SafetensorsHeader[],
  shardOf: ReadonlyMap<string, string>,
): ReadonlyMap<string, StoredTensor> {
  const indexOf = new Map(weights.fileNames.map((name, index) => [name, index]));
  const tensors = new Map<string, StoredTensor>();
  for (const [name, shard] of shardOf) {
    const fileIndex = indexOf.get(shard) ?? -1;
    const tensor = headers[fileIndex]?.tensors.get(name);
    if (!tensor) {
      throw new OperatingError(
        'BAD_INDEX',
        `${join(root, INDEX_NAME)} puts tensor ${JSON.stringify(name)} into ${shard}, which does not hold it`,
      );
    }
    tensors.set(name, { ...tensor, fileIndex });
  }
  return tensors;
}
