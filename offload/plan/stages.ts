// What one stage of a pipeline is to the rest of the program: a plan of its own layers for one device, and the caches of its blocks.

import type { CacheSpec } from '../model/cache-spec.js';
import type { ModelSpec } from '../model/model.js';
import type { Plan, PlannedLayer } from './plan.js';

/** Layers that some devices compute, in the order of the schedule, and these devices among all. */
export interface LanePlan {
  readonly plan: Plan;
  readonly devices: readonly number[];
  /** The first of its layers among all. */
  readonly firstLayer: number;
}

/** One lane where every device computes all layers, else one for each stage. */
export function lanePlans(plan: Plan): LanePlan[] {
  const { pipeline, layers, deviceCount } = plan;
  if (!pipeline) return [{ plan, devices: [...Array(deviceCount).keys()], firstLayer: 0 }];
  return pipeline.stages.map(({ first, end }, device) => ({
    plan: { ...plan, layers: layers.slice(first, end), deviceCount: 1, pipeline: undefined },
    devices: [device],
    firstLayer: first,
  }));
}

/** Batches that are computed at once: each device has one, or all of them together, or they follow each other through stages. */
export function batchCountOf(
  { shares }: Pick<ModelSpec, 'shares'>,
  { pipeline, deviceCount }: Pick<Plan, 'pipeline' | 'deviceCount'>,
): number {
  return shares ? 1 : (pipeline?.batches ?? deviceCount);
}

/** The model with caches of the blocks among `layers` alone: what others keep, their own devices do. */
export function withCachesOf<M extends Pick<ModelSpec, 'caches'>>(
  model: M,
  layers: readonly Pick<PlannedLayer, 'kind' | 'index'>[],
): M {
  const own = new Set(layers.flatMap(({ kind, index }) => (kind === 'block' ? [index] : [])));
  if (own.size === model.caches.length) return model;
  const none: CacheSpec = { kind: 'none' };
  return { ...model, caches: model.caches.map((cache, block) => (own.has(block) ? cache : none)) };
}

/** By layer: whether a stage may begin with it. A block that reads another's pages is on the same device; so are the head's pieces. */
export function mayBegin(
  caches: readonly CacheSpec[],
  layers: readonly Pick<PlannedLayer, 'kind' | 'index'>[],
): boolean[] {
  // The first block whose pages this one or a later one reads.
  const reads = caches.map((cache, block) => (cache.kind === 'shared' ? cache.block : block));
  const earliest = reads.map((_, block) => Math.min(...reads.slice(block)));
  return layers.map(({ kind, index }) => (kind === 'block' ? (earliest[index] ?? 0) >= index : index === 0));
}
