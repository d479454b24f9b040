// Packs a checkpoint as the command does, without the command.

import { openModel } from '../../src/engine/open-model.js';
import { type LayerResult, type PackOptions, pack } from '../../src/pack/pack.js';
import { preparePack } from '../../src/pack/prepare.js';
import type { PackSettings } from '../../src/pack/scheme.js';

export const INT4: PackSettings = { weights: 'int4', groupSize: undefined, gpus: 1 };

/** What `pack` is called with. */
export async function packOptions(
  source: string,
  folder: string,
  settings: Partial<PackSettings> = {},
): Promise<PackOptions> {
  const all = { ...INT4, ...settings };
  const { checkpoint } = await openModel(source);
  return { checkpoint, ...(await preparePack(checkpoint, all)), gpus: all.gpus, folder };
}

export async function packFolder(
  source: string,
  folder: string,
  settings: Partial<PackSettings> = {},
): Promise<readonly LayerResult[]> {
  return pack(await packOptions(source, folder, settings));
}
