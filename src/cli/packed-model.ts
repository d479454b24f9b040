// A checkpoint as --dtype int8, int4 or fp8 wants it: packed at first use, below the cache folder, and found there again.

import { basename, join } from 'node:path';
import { formatBytes } from '../../offload/index.js';
import { type OpenedModel, openModel } from '../engine/open-model.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import type { PackedWeights } from '../pack/scheme.js';
import { packedFolder } from '../stored/places.js';
import type { CommandContext } from './context.js';

const GPUS = 1;

/** The model as it would be packed: nothing is written. Errors: those of preparing. */
export async function plannedPacked(
  { checkpoint }: OpenedModel,
  weights: PackedWeights,
): Promise<OpenedModel> {
  const { preparePack } = await import('../pack/prepare.js');
  const { plannedCheckpoint } = await import('../pack/planned.js');
  const prepared = await preparePack(checkpoint, { weights, groupSize: undefined, gpus: GPUS });
  const planned = plannedCheckpoint(checkpoint, prepared, GPUS);
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
  const [{ preparePack }, { keepPacked }] = await Promise.all([
    import('../pack/prepare.js'),
    import('../pack/kept.js'),
  ]);
  const { checkpoint } = await openModel(folder);
  const prepared = await preparePack(checkpoint, { weights, groupSize: undefined, gpus: GPUS });
  const store = join(packedFolder(process.env), `${basename(name)}-${weights}-${prepared.id.slice(0, 8)}`);
  let line = 'looking at the packed weights';
  const work = keepPacked({
    checkpoint,
    ...prepared,
    gpus: GPUS,
    folder: store,
    signal: interrupt.signal,
    onProgress: (done, total) => {
      line = `packing as ${weights}, once: ${formatBytes(done)} of ${formatBytes(total)} read`;
    },
    onWait: (holder) => log.info(`${holder} is packing the same weights: waiting for it`),
    log: (message) => log.info(message),
  });
  await progress.during(() => line, work);
  log.debug(`weights are read as ${weights} from ${store}`);
  return store;
}
