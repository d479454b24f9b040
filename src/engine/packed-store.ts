// A checkpoint of float weights in fewer bits: packed at first use, below the cache folder, and found there again.

import { basename, join } from 'node:path';
import { keepPacked } from '../pack/kept.js';
import type { PackOptions } from '../pack/pack.js';
import { preparePack } from '../pack/prepare.js';
import type { PackedWeights } from '../pack/scheme.js';
import { packedFolder } from '../stored/places.js';
import type { OpenedModel } from './open-model.js';

/** Files that a layer of such a store is spread over. */
export const KEPT_GPUS = 1;

export interface PackedStoreOptions
  extends Pick<Required<PackOptions>, 'signal' | 'onProgress' | 'onWait' | 'log'> {
  /** What people call the model. */
  readonly name: string;
  readonly weights: PackedWeights;
}

/** Returns the folder of the store. Errors: those of preparing and of packing. */
export async function packedStore(
  { checkpoint }: OpenedModel,
  { name, weights, ...options }: PackedStoreOptions,
): Promise<string> {
  const prepared = await preparePack(checkpoint, { weights, groupSize: undefined, gpus: KEPT_GPUS });
  const folder = join(packedFolder(process.env), `${basename(name)}-${weights}-${prepared.id.slice(0, 8)}`);
  await keepPacked({ checkpoint, ...prepared, gpus: KEPT_GPUS, folder, ...options });
  return folder;
}
