// A checkpoint as --dtype int8, int4 or fp8 wants it: packed at first use, below the cache folder, and found there again.

import { formatBytes } from '../../offload/index.js';
import { type OpenedModel, openModel } from '../engine/open-model.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import type { PackedWeights } from '../pack/scheme.js';
import type { CommandContext } from './context.js';

/** The model as it would be packed: nothing is written. Errors: those of preparing. */
export async function plannedPacked(
  { checkpoint }: OpenedModel,
  weights: PackedWeights,
): Promise<OpenedModel> {
  const { preparePack } = await import('../pack/prepare.js');
  const { plannedCheckpoint } = await import('../pack/planned.js');
  const { KEPT_GPUS } = await import('../engine/packed-store.js');
  const prepared = await preparePack(checkpoint, { weights, groupSize: undefined, gpus: KEPT_GPUS });
  const planned = plannedCheckpoint(checkpoint, prepared, KEPT_GPUS);
  const architecture = buildArchitecture(planned.config, planned.folder);
  return { checkpoint: planned, model: bindModel(architecture, planned).model, warnings: [] };
}

/** Returns the folder of the store. Errors: those of opening the model and of packing it. */
export async function packedModel(
  folder: string,
  name: string,
  weights: PackedWeights,
  { log, progress, interrupt }: CommandContext,
): Promise<string> {
  const { packedStore } = await import('../engine/packed-store.js');
  let line = 'looking at the packed weights';
  const work = packedStore(await openModel(folder), {
    name,
    weights,
    signal: interrupt.signal,
    onProgress: (done, total) => {
      line = `packing as ${weights}, once: ${formatBytes(done)} of ${formatBytes(total)} read`;
    },
    onWait: (holder) => log.info(`${holder} is packing the same weights: waiting for it`),
    log: (message) => log.info(message),
  });
  const store = await progress.during(() => line, work);
  log.debug(`weights are read as ${weights} from ${store}`);
  return store;
}
