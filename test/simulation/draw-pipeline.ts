// How a seed's world cuts its layers into the stages of a pipeline.

import type { PipelinePlan, Plan } from '../../offload/plan/plan.js';
import { mayBegin } from '../../offload/plan/stages.js';
import type { Random } from '../simulator/random.js';
import type { ToyModel } from './toy-model.js';

/** Some stages, as many as there are devices and places to cut, and about as many batches. */
export function drawPipeline(
  random: Random,
  { layers, deviceCount }: Plan,
  { model }: ToyModel,
  batches?: number,
): PipelinePlan {
  const may = mayBegin(model.caches, layers);
  const begins = random.shuffled([...layers.keys()].filter((layer) => layer > 0 && may[layer]));
  const cuts = [0, ...begins.slice(0, deviceCount - 1).sort((a, b) => a - b)];
  const stages = cuts.map((first, stage) => ({ first, end: cuts[stage + 1] ?? layers.length }));
  return { stages, batches: batches ?? random.between(1, stages.length + 1) };
}
