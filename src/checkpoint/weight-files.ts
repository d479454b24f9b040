// Which files of a checkpoint hold its weights: safetensors if there are any, PyTorch's .bin files otherwise; one file,
// or shards that an index lists.

import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { isJsonObject, readOptionalJsonObject, show } from '../files/json-file.js';

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

export interface WeightChoice {
  readonly format: WeightFormat;
  /** The one file, or the index of several. */
  readonly name: string;
  readonly isIndex: boolean;
}

/**
 * What transformers would find, in the order in which it looks, and then a lone safetensors file of another name.
 * Undefined where there are none. `names` is what the folder or repository holds.
 */
export function chooseWeights(names: readonly string[]): WeightChoice | undefined {
  for (const format of WEIGHT_FORMATS) {
    if (names.includes(format.single)) return { format, name: format.single, isIndex: false };
    if (names.includes(format.index)) return { format, name: format.index, isIndex: true };
  }
  const others = looseFiles(names);
  const [name] = others;
  return name !== undefined && others.length === 1
    ? { format: SAFETENSORS, name, isIndex: false }
    : undefined;
}

/** Safetensors of other names, without those that adapters and the models' authors have beside the checkpoint's own. */
function looseFiles(names: readonly string[]): string[] {
  return names
    .filter((name) => /^[^/\\]+\.safetensors$/.test(name) && !/^(adapter_|consolidated)/.test(name))
    .sort();
}

/**
 * `names` is what the folder holds; shards that hold only tensors that are left out are not looked for.
 * Errors: NOT_FOUND, BAD_INDEX.
 */
export async function findWeights(
  root: string,
  names: readonly string[],
  leftOut: (tensor: string) => boolean = () => false,
): Promise<WeightFiles> {
  const choice = chooseWeights(names);
  if (choice?.isIndex) return readIndex(root, choice.format, leftOut);
  if (choice) return { format: choice.format, fileNames: [choice.name] };
  const others = looseFiles(names);
  if (others.length > 1) {
    throw new OperatingError(
      'BAD_INDEX',
      `${root} has ${others.length} safetensors files, but no ${SAFETENSORS.index} that says what each holds`,
    );
  }
  throw new OperatingError(
    'NOT_FOUND',
    `${root} has no weights: neither ${SAFETENSORS.single} nor ${SAFETENSORS.index}, nor ${TORCH.single}`,
  );
}

async function readIndex(
  root: string,
  format: WeightFormat,
  leftOut: (tensor: string) => boolean,
): Promise<WeightFiles> {
  const path = join(root, format.index);
  const index = await readOptionalJsonObject(path, 'BAD_INDEX');
  const shardOf = without(parseWeightMap(index?.weight_map, path, format.extension), leftOut);
  const fileNames = shardNames(shardOf);
  const absent: string[] = [];
  for (const name of fileNames) {
    const shard = join(root, name);
    if (!(await ifThere(shard, stat(shard)))) absent.push(name);
  }
  if (absent.length > 0) {
    throw new OperatingError(
      'BAD_INDEX',
      `${path} names ${fileNames.length} files, of which ${absent.length} are absent (the first: ${absent[0]}): ` +
        'complete the download',
    );
  }
  return { format, fileNames, shardOf };
}

/** An index of nothing but left-out tensors stays whole, so that its model is refused for what it lacks. */
export function without(
  shardOf: ReadonlyMap<string, string>,
  leftOut: (tensor: string) => boolean,
): ReadonlyMap<string, string> {
  const kept = new Map([...shardOf].filter(([tensor]) => !leftOut(tensor)));
  return kept.size > 0 ? kept : shardOf;
}

/** In the order in which transformers opens them. */
export function shardNames(shardOf: ReadonlyMap<string, string>): string[] {
  return [...new Set(shardOf.values())].sort();
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
    // A shard lies beside its index or below; anything else could make us read files that are none of the model's.
    if (typeof shard !== 'string' || !isBelow(shard, extension)) {
      throw new OperatingError(
        'BAD_INDEX',
        `${path} puts ${show(tensor)} into ${show(shard)}, which is no ${extension} file in the folder of the checkpoint`,
      );
    }
    shardOf.set(tensor, shard);
  }
  if (shardOf.size === 0) throw new OperatingError('BAD_INDEX', `${path} has an empty 'weight_map'`);
  checkBaseNames(shardNames(shardOf), path);
  return shardOf;
}

function isBelow(name: string, extension: string): boolean {
  const parts = name.split('/');
  return (
    name.endsWith(extension) &&
    !/[\\\0]/.test(name) &&
    parts.every((part) => part !== '' && part !== '.' && part !== '..')
  );
}

/** Copies on another drive lie side by side. */
function checkBaseNames(names: readonly string[], path: string): void {
  const seen = new Map<string, string>();
  for (const name of names) {
    const other = seen.get(basename(name));
    if (other !== undefined) {
      throw new OperatingError(
        'BAD_INDEX',
        `${path} names two shards that differ only in their folder, ${other} and ${name}: rename one of them`,
      );
    }
    seen.set(basename(name), name);
  }
}
