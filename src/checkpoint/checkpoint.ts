// A checkpoint in the Hugging Face layout: its configuration, its weight files, and where each tensor lies in them.
//
// Only headers are read: opening takes milliseconds whatever the model's size.

import { readdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type FileState, OperatingError, stateFrom } from '../../offload/index.js';
import { type JsonObject, readOptionalJsonObject, reason, systemCode } from '../files/json-file.js';
import { checkPackParts } from './pack-parts.js';
import { type QuantiserFile, readQuantiser } from './quantiser-file.js';
import { type HeaderTensor, readSafetensorsHeader, type SafetensorsHeader } from './safetensors.js';
import { isLeftOut, leftOutOf } from './text-part.js';
import { readTorchHeader, type TorchHeader } from './torch-bin.js';
import { refuseOtherKinds } from './unreadable.js';
import { findWeights, TORCH, type WeightFiles } from './weight-files.js';

export interface StoredTensor extends HeaderTensor {
  /** Index into `Checkpoint.files`. */
  readonly fileIndex: number;
}

export interface Checkpoint {
  /** Absolute. */
  readonly folder: string;
  readonly config: JsonObject;
  /** What a file of the tool that quantised says, where config.json says nothing of it. */
  readonly quantiser?: QuantiserFile | undefined;
  /** `generation_config.json`; empty when the checkpoint has none. */
  readonly generationConfig: JsonObject;
  /** Absolute paths of the weight files in use, in order of name. */
  readonly files: readonly string[];
  /** The state of each file when its header was read: what is opened later must be the same file. */
  readonly fileStates: readonly FileState[];
  /** Bytes of all tensors together. */
  readonly totalBytes: number;
  /** Without what is none of the language model's own. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Tensor → shard, where the index says so and the shard does not hold it. */
  readonly unfound: ReadonlyMap<string, string>;
  /** Tensors that several shards hold: the ones that do not count, by name. The last shard's counts, as in transformers. */
  readonly repeated: ReadonlyMap<string, StoredTensor>;
  find(name: string): StoredTensor | undefined;
}

/** What a checkpoint's folder says before any weight file is looked at. */
export interface Configuration {
  /** Absolute. */
  readonly folder: string;
  readonly config: JsonObject;
  /** `config.json`, for messages. */
  readonly path: string;
  /** What lies in the folder. */
  readonly names: readonly string[];
  /** See Checkpoint. */
  readonly quantiser: QuantiserFile | undefined;
}

/** Enough to keep Node's four file threads busy; hundreds of shards would otherwise mean hundreds of open files. */
const HEADERS_AT_ONCE = 8;

type WeightHeader = SafetensorsHeader | TorchHeader;

/** Errors: NOT_FOUND, BAD_CONFIG, UNSUPPORTED (a folder of something else than a checkpoint). */
export async function readConfiguration(folder: string): Promise<Configuration> {
  const root = resolve(folder);
  await checkFolder(root, folder);
  const names = await readdir(root);
  await refuseOtherKinds({
    where: root,
    names,
    readJson: (name) => readOptionalJsonObject(join(root, name), 'BAD_CONFIG'),
  });
  const path = join(root, 'config.json');
  const config = await readOptionalJsonObject(path, 'BAD_CONFIG');
  if (!config) {
    throw new OperatingError(
      'NOT_FOUND',
      `${root} has no config.json: give the folder of a Hugging Face checkpoint`,
    );
  }
  return { folder: root, config, path, names, quantiser: await readQuantiser(root, config, names) };
}

/**
 * Opens the checkpoint in `folder`.
 * Errors: NOT_FOUND, BAD_CONFIG, BAD_INDEX, BAD_SAFETENSORS, BAD_TORCH_FILE, MIXED_PACKS, UNSUPPORTED (weights in another
 * format).
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  return openWeights(await readConfiguration(folder));
}

/** The same after a look at the configuration. */
export async function openWeights({ folder, config, names, quantiser }: Configuration): Promise<Checkpoint> {
  const generationConfig = await readOptionalJsonObject(join(folder, 'generation_config.json'), 'BAD_CONFIG');
  const weights = await findWeights(folder, names, isLeftOut(config));
  const { headers, states } = await readHeaders(folder, weights);
  checkPackParts(folder, headers);
  const { tensors, repeated } = tensorsOf(
    headers,
    leftOutOf(
      config,
      headers.flatMap(({ tensors }) => [...tensors.keys()]),
    ),
  );
  let totalBytes = 0;
  for (const tensor of tensors.values()) totalBytes += tensor.sizeBytes;
  return {
    folder,
    config,
    quantiser,
    generationConfig: generationConfig ?? {},
    files: headers.map((header) => header.path),
    fileStates: states,
    totalBytes,
    tensors,
    unfound: new Map([...(weights.shardOf ?? [])].filter(([name]) => !tensors.has(name))),
    repeated,
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
  if (!isFolder && root.endsWith('.gguf')) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${root} is a GGUF file, which is not read: use the checkpoint in safetensors that it was made from`,
    );
  }
  if (!isFolder) {
    throw new OperatingError(
      'NOT_FOUND',
      `${root} is a file: give the folder that holds config.json and the weights`,
    );
  }
}

async function readHeaders(root: string, { format, fileNames }: WeightFiles) {
  const readHeader = format === TORCH ? readTorchHeader : readSafetensorsHeader;
  const headers: WeightHeader[] = [];
  const states: FileState[] = [];
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < fileNames.length; i = next++) {
      const path = join(root, fileNames[i] ?? '');
      // The state comes before the header: a file that is replaced meanwhile is then known by it.
      const before = await stat(path, { bigint: true }).catch(() => undefined);
      headers[i] = await readHeader(path); // which says what is wrong with one that is not there
      states[i] = stateFrom(before ?? (await stat(path, { bigint: true })));
    }
  };
  await Promise.all(Array.from({ length: HEADERS_AT_ONCE }, worker));
  return { headers, states };
}

/** What the shards hold counts, not what an index says that they hold. */
function tensorsOf(
  headers: readonly WeightHeader[],
  leftOut: (name: string) => boolean,
): Pick<Checkpoint, 'tensors' | 'repeated'> {
  const tensors = new Map<string, StoredTensor>();
  const repeated = new Map<string, StoredTensor>();
  for (const [fileIndex, header] of headers.entries()) {
    for (const tensor of header.tensors.values()) {
      if (leftOut(tensor.name)) continue;
      const before = tensors.get(tensor.name);
      if (before) repeated.set(tensor.name, before);
      tensors.set(tensor.name, { ...tensor, fileIndex });
    }
  }
  return { tensors, repeated };
}
