// A model that several devices compute together: of each block every one has its heads and its part of the inner sizes.

import {
  type LayerSpec,
  type ModelSpec,
  OperatingError,
  present,
  type SharedDimension,
  sameShape,
  sharedDimension,
  sliceLayer,
} from '../../offload/index.js';
import type { JsonObject } from '../files/json-file.js';
import type { TensorDef } from './architecture.js';
import { buildArchitecture } from './registry.js';

/** A configuration, and where it came from, for messages. */
export interface Configured {
  readonly config: JsonObject;
  readonly path: string;
}

/** Throws UNSUPPORTED for a model, a size or a format that so many devices cannot share. */
export function shareModel(model: ModelSpec, { config, path }: Configured, devices: number): ModelSpec {
  const whole = buildArchitecture(config, path);
  const shares = Array.from({ length: devices }, (_, device) =>
    buildArchitecture(config, path, { device, devices }),
  );
  const share = present(shares[0], 'a share');
  const blocks = model.blocks.map((block, index) => {
    const how = sharedDimensions(block, whole.block(index), share.block(index));
    return sliceLayer(block, (key) => how.get(key), devices);
  });
  if (blocks.every(({ matrices }) => !matrices.some(({ isPartial }) => isPartial))) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${path}: ${model.architecture} has no matrix that ${devices} devices could share: give --parallel streams`,
    );
  }
  const { caches, forward, constants } = share;
  return { ...model, blocks, caches, forward, constants, shares };
}

/** By the keys of what is shared: the definitions of all and of a share say which dimension differs. */
function sharedDimensions(
  { tensors, matrices }: LayerSpec,
  whole: readonly TensorDef[],
  share: readonly TensorDef[],
): Map<string, SharedDimension> {
  const shapes = new Map([...tensors, ...matrices].map(({ key, shape }) => [key, shape]));
  // Which way is told by which tensor first depends on sizes.
  const nameOf = ({ key, way = 0 }: TensorDef) => `${way} ${key}`;
  const shares = new Map(share.map((def) => [nameOf(def), def]));
  const found = new Map<string, SharedDimension>();
  for (const def of whole) {
    const own = present(shares.get(nameOf(def)), 'the definition of a share');
    const shape = shapes.get(def.key);
    if (!shape || !sameShape(shape, def.shape)) continue;
    const sections = def.sections && ([def.sections, present(own.sections, 'sections')] as const);
    const how = sharedDimension(def.shape, own.shape, sections);
    if (how) found.set(def.key, how);
  }
  return found;
}
