// From a checkpoint and settings to what would be written: nothing is, and no weight is read.

import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { buildArchitecture } from '../models/registry.js';
import { contentsOf } from './contents.js';
import { packId } from './identity.js';
import type { PackSettings } from './scheme.js';
import { planStore, type StorePlan } from './store-plan.js';

export interface PreparedPack {
  readonly plan: StorePlan;
  readonly id: string;
}

/** @param checkpoint one that was opened as a model. Throws UNSUPPORTED or BAD_OPTION. */
export async function preparePack(checkpoint: Checkpoint, settings: PackSettings): Promise<PreparedPack> {
  const architecture = buildArchitecture(checkpoint.config, checkpoint.folder);
  const plan = planStore(contentsOf(checkpoint, architecture), settings);
  return { plan, id: await packId(checkpoint.files, plan.scheme, settings.gpus) };
}
