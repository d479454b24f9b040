// Which layers are mixtures of experts, and which have one feed-forward for all tokens.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { FeedForward } from './feed-forward.js';

/** `mlp_layer_types` where the configuration lists them, otherwise what the family's older keys say. */
export function readSparseLayers(
  config: ConfigReader,
  blockCount: number,
  byDefault: (index: number) => boolean,
): (blockIndex: number) => boolean {
  const listed = config.optionalTexts(['mlp_layer_types'], blockCount);
  const sparse = Array.from({ length: blockCount }, (_, index) => {
    const type = listed?.[index];
    if (type === undefined) return byDefault(index);
    if (type === 'sparse' || type === 'dense') return type === 'sparse';
    throw config.unsupported('mlp_layer_types', type, 'sparse, dense');
  });
  return (index) => sparse[index] ?? false;
}

/** The first `first_k_dense_replace` layers are dense. */
export function afterDenseLayers(config: ConfigReader, fallback: number): (index: number) => boolean {
  const count = config.number(['first_k_dense_replace'], fallback);
  config.refuseUnless(1, 'moe_layer_freq');
  return (index) => index >= count;
}

/** Layers that `listed` names, by their places. */
export function readLayerList(config: ConfigReader, name: string, blockCount: number): ReadonlySet<number> {
  const listed = config.raw(name) ?? [];
  const isLayer = (index: unknown) => typeof index === 'number' && index >= 0 && index < blockCount;
  if (!Array.isArray(listed) || !listed.every(isLayer)) {
    throw config.unsupported(name, listed, `lists of layers from 0 to ${blockCount - 1}`);
  }
  return new Set(listed);
}

/** Each layer's feed-forward; the dense one is made only where a layer needs it, since others need not say its size. */
export function feedForwards(
  blockCount: number,
  isSparse: (index: number) => boolean,
  sparse: FeedForward,
  makeDense: () => FeedForward,
): (blockIndex: number) => FeedForward {
  const all = Array.from({ length: blockCount }, (_, index) => isSparse(index)).every(Boolean);
  const dense = all ? sparse : makeDense();
  return (index) => (isSparse(index) ? sparse : dense);
}
