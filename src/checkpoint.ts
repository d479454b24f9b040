// A checkpoint in the Hugging Face layout: its configuration, its weight files, and where each tensor lies in them.
//
// Only headers are read: opening takes milliseconds whatever the model's size.

import { readdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { OperatingError } from '../offload/index.js';
import { type JsonObject, readOptionalJsonObject, reason, systemCode } from './json-file.js';
import { type HeaderTensor, readSafetensorsHeader, type SafetensorsHeader } from './safetensors.js';
import { readTorchHeader, type TorchHeader } from './torch-bin.js';
import { findWeights, TORCH, type WeightFiles } from './weight-files.js';

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

/** Enough to keep Node's four file threads busy; hundreds of shards would otherwise mean hundreds of open files. */
const HEADERS_AT_ONCE = 8;

type WeightHeader = SafetensorsHeader | TorchHeader;

/**
 * Opens the checkpoint in `folder`.
 * Errors: NOT_FOUND, BAD_CONFIG, BAD_INDEX, BAD_SAFETENSORS, BAD_TORCH_FILE, UNSUPPORTED (weights in another format).
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
  const weights = await findWeights(root, await readdir(root));
  const headers = await readHeaders(root, weights);
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

async function checkFolder(root: string, given: string): Promise<void> {
  const isFolder = await stat(root).then(
    (entry) => entry.isDirectory(),
    (error: unknown) => {
      const absent = systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR';
      throw new OperatingError(
        'NOT_FOUND',
        absent
          ? `there is no folder '${given}': give the folder of a checkpoint, or a model of the hub as organisation/name`
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

async function readHeaders(root: string, { format, fileNames }: WeightFiles): Promise<WeightHeader[]> {
  const readHeader = format === TORCH ? readTorchHeader : readSafetensorsHeader;
  const headers: WeightHeader[] = [];
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < fileNames.length; i = next++) {
      headers[i] = await readHeader(join(root, fileNames[i] ?? ''));
    }
  };
  await Promise.all(Array.from({ length: HEADERS_AT_ONCE }, worker));
  return headers;
}

function tensorsOf(headers: readonly WeightHeader[]): ReadonlyMap<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  for (const [fileIndex, header] of headers.entries()) {
    for (const tensor of header.tensors.values()) tensors.set(tensor.name, { ...tensor, fileIndex });
  }
  return tensors;
}

/** The index decides: tensors that it does not list are not part of the model. */
function tensorsOfIndex(
  root: string,
  weights: WeightFiles,
  headers: readonly WeightHeader[],
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
        `${join(root, weights.format.index)} puts tensor ${JSON.stringify(name)} into ${shard}, which does not hold it`,
      );
    }
    tensors.set(name, { ...tensor, fileIndex });
  }
  return tensors;
}
