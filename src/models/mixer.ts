// What stands in place of attention in a layer that keeps a state per sequence, and which layers do.

import type { CacheSpec, ForwardOps, Tensor, Weights } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { TensorDef } from './architecture.js';

export interface Mixer {
  /** What a layer holds below `path`. */
  tensors(path: string): readonly TensorDef[];
  readonly cache: CacheSpec;
  /** Adds the result for x normed [T, H] to x [T, H]; `norm` makes that tensor, or fills the one it is given. */
  add(k: ForwardOps, w: Weights, norm: (out?: Tensor) => Tensor, x: Tensor): void;
}

export type MixedLayerType = 'linear_attention' | 'full_attention';

/** Names that configurations gave to kinds of layers before. */
const FORMER_NAMES: Readonly<Record<string, string>> = {
  mamba: 'linear_attention',
  attention: 'full_attention',
};

/** `layer_types` where they are listed, else what the family takes. @returns [blockCount] */
export function readMixedLayers(
  config: ConfigReader,
  blockCount: number,
  byDefault: (index: number) => MixedLayerType,
): MixedLayerType[] {
  const listed = config.optionalTexts(['layer_types', 'layers_block_type'], blockCount);
  return Array.from({ length: blockCount }, (_, index) => {
    const given = listed?.[index] ?? byDefault(index);
    const type = Object.hasOwn(FORMER_NAMES, given) ? FORMER_NAMES[given] : given;
    if (type === 'linear_attention' || type === 'full_attention') return type;
    throw config.unsupported('layer_types', given, 'linear_attention, full_attention');
  });
}
