// Which files of a checkpoint hold its weights: safetensors if there are any, PyTorch's .bin files otherwise; one file,
// or shards that an index lists.

import { basename, join } from 'node:path';
import { OperatingError } from '../offload/index.js';
import { isJsonObject, readOptionalJsonObject, show } from './json-file.js';

export interface WeightFormat {
  /** The name when there is one file. */
  readonly single: string;
  /** The name of the index of several. */
  readonly index: string;
  readonly extension: '.safetensors' | '.bin';
}

export const SAFETENSORS: WeightFormat = {
  single: 'model.safetensors',
  index: 'model.safetensors.index.json',
  extension: '.safetensors',
};
export const TORCH: WeightFormat = {
  single: 'pytorch_model.bin',
  index: 'pytorch_model.bin.index.json',
  extension: '.bin',
};
/** The preferred one first. */
export const WEIGHT_FORMATS: readonly WeightFormat[] = [SAFETENSORS, TORCH];

export interface WeightFiles {
  readonly format: WeightFormat;
  readonly fileNames: readonly string[];
  /** Tensor name → file name, when an index says so. */
  readonly shardOf?: ReadonlyMap<string, string>;
}

/**
 * In the order in which transformers looks, and then a lone safetensors file of another name.
 * `names` is what the folder holds. Errors: NOT_FOUND, BAD_INDEX, UNSUPPORTED.
 */
export async function findWeights(root: string, names: readonly string[]): Promise<WeightFiles> {
  for (const format of WEIGHT_FORMATS) {
    if (names.includes(format.single)) return { format, fileNames: [format.single] };
    if (names.includes(format.index)) return readIndex(root, new Set(names), format);
  }
  const others = names.filter((name) => name.endsWith(SAFETENSORS.extension)).sort();
  if (others.length === 1) return { format: SAFETENSORS, fileNames: others };
  if (others.length > 1) {
    throw new OperatingError(
      'BAD_INDEX',
      `${root} has ${others.length} safetensors files, but no ${SAFETENSORS.index} that says what each holds`,
    );
  }
  const torch = names.find((name) => /\.(bin|pt|pth)$/.test(name));
  if (torch) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${root} holds ${torch}, but PyTorch weights are read as ${TORCH.single}, or as shards beside ` +
        `${TORCH.index}: convert them to safetensors`,
    );
  }
  throw new OperatingError(
    'NOT_FOUND',
    `${root} has no weights: neither ${SAFETENSORS.single} nor ${SAFETENSORS.index}, nor ${TORCH.single}`,
  );
}

async function readIndex(
  root: string,
  present: ReadonlySet<string>,
  format: WeightFormat,
): Promise<WeightFiles> {
  const path = join(root, format.index);
  const index = await readOptionalJsonObject(path, 'BAD_INDEX');
  const shardOf = parseWeightMap(index?.weight_map, path, format.extension);
  const fileNames = [...new Set(shardOf.values())].sort();
  const absent = fileNames.filter((name) => !present.has(name));
  if (absent.length > 0) {
    throw new OperatingError(
      'BAD_INDEX',
      `${path} names ${fileNames.length} files, of which ${absent.length} are absent (the first: ${absent[0]}): ` +
        'complete the download',
    );
  }
  return { format, fileNames, shardOf };
}

/** Tensor name → shard file name. Errors: BAD_INDEX. */
export function parseWeightMap(
  weightMap: unknown,
  path: string,
  extension: WeightFormat['extension'] = '.safetensors',
): ReadonlyMap<string, string> {
  if (!isJsonObject(weightMap)) throw new OperatingError('BAD_INDEX', `${path} has no object 'weight_map'`);
  const shardOf = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(weightMap)) {
    // A shard lies beside its index; anything else could make us read files that are none of the model's.
    if (typeof shard !== 'string' || !isPlainFileName(shard, extension)) {
      throw new OperatingError(
        'BAD_INDEX',
        `${path} puts ${show(tensor)} into ${show(shard)}, which is no plain ${extension} file name`,
      );
    }
    shardOf.set(tensor, shard);
  }
  if (shardOf.size === 0) throw new OperatingError('BAD_INDEX', `${path} has an empty 'weight_map'`);
  return shardOf;
}

function isPlainFileName(name: string, extension: string): boolean {
  return name.endsWith(extension) && basename(name) === name && !/[\\/\0]/.test(name);
}
