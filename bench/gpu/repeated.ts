// A model of many blocks whose weights are all the same bytes of a small file, so that none of tens of gigabytes has to be
// written: every layer still has its own place in DRAM or on a device, and is read, copied and computed like any other.

import { closeSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { detectHardware, formatBytes, GiB, type ModelSpec } from '../../offload/index.js';
import { expertOf } from '../../offload/model/experts.js';
import type { Checkpoint, StoredTensor } from '../../src/checkpoint/checkpoint.js';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { type DummyTensor, tensorBytes } from '../../src/dummy/values.js';
import { writeDummyCheckpoint } from '../../src/dummy/weights.js';
import type { OpenedModel } from '../../src/engine/open-model.js';
import { type ShapeType, shapeConfig, shapeTensors, shapeType } from '../../src/engine/shape-tensors.js';
import { type JsonObject, readOptionalJsonObject } from '../../src/files/json-file.js';
import { bindModel } from '../../src/models/binding.js';
import { buildArchitecture } from '../../src/models/registry.js';

export interface RepeatedOptions {
  /** The name of a file in configs/models, without its end. */
  readonly shape: string;
  /** Default the shape's own. */
  readonly type?: ShapeType | undefined;
  /** Default all of the shape's, or as many as `mostDramBytes` holds. */
  readonly blocks?: number | undefined;
  readonly mostDramBytes?: number;
  /** A smaller vocabulary makes embedding and head small, where they are not what is measured. */
  readonly vocabulary?: number | undefined;
  /** How much likelier expert 0 is than the last one: biases of the router fall with the logarithm of the rank times this. */
  readonly skew?: number;
  /** Default memory (/dev/shm) where it has room, else out/bench. */
  readonly folder?: string | undefined;
}

export interface RepeatedModel extends OpenedModel {
  readonly blocks: number;
  /** Bytes of one block. */
  readonly blockBytes: number;
  /** Removes the file. */
  remove(): void;
}

const BLOCK_COUNT_KEYS = ['num_hidden_layers', 'n_layer', 'num_layers'];
const MEMORY_FOLDER = '/dev/shm';

export async function repeatedModel(options: RepeatedOptions): Promise<RepeatedModel> {
  const startMs = performance.now();
  const path = `configs/models/${options.shape}.json`;
  const shape = (await readOptionalJsonObject(path, 'BAD_CONFIG')) ?? {};
  const key = BLOCK_COUNT_KEYS.find((name) => name in shape) ?? 'num_hidden_layers';
  const vocabulary = options.vocabulary === undefined ? {} : { vocab_size: options.vocabulary };
  const config: JsonObject = { ...shape, ...vocabulary };
  const type = options.type ?? shapeType(config);
  const ofBlocks = (count: number): JsonObject => ({ ...config, [key]: count, ...layerTypes(config, count) });
  const architecture = buildArchitecture(ofBlocks(1), path);
  const single = shapeConfig(ofBlocks(1), architecture, type);
  const tensors = shapeTensors(architecture, type);
  const bytesOf = (all: readonly DummyTensor[]) => all.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  const blockBytes = bytesOf(tensors.filter(({ name }) => BLOCK_INDEX.test(name)));
  const fileBytes = bytesOf(tensors);
  const folder = `${options.folder ?? folderFor(fileBytes)}/zero-inference-${options.shape}-${type}-${process.pid}`;
  rmSync(folder, { recursive: true, force: true });
  const remove = () => {
    process.off('exit', remove);
    rmSync(folder, { recursive: true, force: true });
  };
  process.once('exit', remove);
  await writeDummyCheckpoint({ config: single, tensors, folder, seed: 1 });
  const others = fileBytes - blockBytes;
  const possible = Math.floor(((options.mostDramBytes ?? Number.POSITIVE_INFINITY) - others) / blockBytes);
  const blocks = Math.max(1, Math.min(options.blocks ?? Number(config[key]), possible));
  // A checkpoint is of files that nobody writes to after it was opened.
  if (tensors.some(({ name }) => name.includes('.experts.'))) await prepareRouting(folder, options.skew);
  const stored = await openCheckpoint(folder);
  const repeated = { ...single, [key]: blocks, ...layerTypes(config, blocks) };
  const checkpoint: Checkpoint = {
    ...stored,
    config: repeated,
    find: (name) => stored.find(name.replace(BLOCK_INDEX, '.0.')),
  };
  const { model } = bindModel(buildArchitecture(repeated, path), checkpoint);
  process.stderr.write(
    `${blocks} blocks of ${options.shape} in ${type}, ${formatBytes(blockBytes)} each, all of one in ${folder} ` +
      `(${formatBytes(fileBytes)}, written in ${((performance.now() - startMs) / 1e3).toFixed(1)} s)\n`,
  );
  return { checkpoint, model, warnings: [], blocks, blockBytes, remove };
}

/** In all layers together. */
export function countExperts({ blocks }: ModelSpec): number {
  return blocks.reduce((sum, { matrices }) => {
    const numbers = matrices.flatMap(({ key }) => expertOf(key)?.expert ?? []);
    return sum + new Set(numbers).size;
  }, 0);
}

/** The kinds of the first blocks, where a configuration lists those of all. */
function layerTypes({ layer_types: types }: JsonObject, count: number): JsonObject {
  return Array.isArray(types) ? { layer_types: types.slice(0, count) } : {};
}

/**
 * With random weights alone, what attention finds in a context is the larger part of what a router sees, and every token of it
 * would go to the same experts. Experts that depend on the token are what uniform routing is, and what a cache can gain little of.
 */
const ATTENTION_NORM = /^model\.layers\.\d+\.input_layernorm\.weight$/;
const ATTENTION_SHARE = 2 ** -10;
/** Names of routers' biases that are added to what experts are chosen by. */
const ROUTER_BIASES = ['model.layers.0.mlp.router.bias', 'model.layers.0.mlp.gate.e_score_correction_bias'];

async function prepareRouting(folder: string, skew = 0): Promise<void> {
  const checkpoint = await spreadRouting(folder);
  if (skew === 0) return;
  const bias = ROUTER_BIASES.flatMap((name) => checkpoint.tensors.get(name) ?? [])[0];
  if (!bias) throw new Error('--skew: the router has no bias to choose by');
  overwrite(checkpoint, bias, (rank) => -skew * Math.log(1 + rank));
}

/** Experts depend on the token. */
export async function spreadRouting(folder: string): Promise<Checkpoint> {
  const checkpoint = await openCheckpoint(folder);
  for (const tensor of checkpoint.tensors.values()) {
    if (ATTENTION_NORM.test(tensor.name)) overwrite(checkpoint, tensor, () => ATTENTION_SHARE);
  }
  return checkpoint;
}

/** A tensor of one dimension, in f32 or bf16. */
function overwrite(
  { files }: Checkpoint,
  { shape, dtype, fileIndex, fileOffset }: StoredTensor,
  valueAt: (index: number) => number,
): void {
  const values = Float32Array.from({ length: shape[0] ?? 0 }, (_, index) => valueAt(index));
  // The upper half of an f32 is the bf16 of about the same value.
  const halves = Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
  const file = openSync(files[fileIndex] ?? '', 'r+');
  const bytes = new Uint8Array(dtype === 'F32' ? values.buffer : halves.buffer);
  writeSync(file, bytes, 0, bytes.length, fileOffset);
  closeSync(file);
}

/** The first number in a tensor's name is its block; experts come later. */
const BLOCK_INDEX = /\.\d+\./;

function folderFor(fileBytes: number): string {
  try {
    const { bavail, bsize } = statfsSync(MEMORY_FOLDER);
    const roomy = bavail * bsize > 1.1 * fileBytes;
    if (roomy && detectHardware().dramAvailableBytes > fileBytes + 8 * GiB) return MEMORY_FOLDER;
  } catch {
    // There is no such folder.
  }
  return 'out/bench';
}
