// Which rotation each layer has: one for all of them, one per kind of layer, or none.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { LayerType } from './layer-windows.js';
import { type Rope, type RopeOptions, type RopeUse, readRope } from './rope.js';

/** How a layer rotates its queries and keys: the constant with the frequencies, and what goes with it. */
export interface LayerRope {
  readonly constant: string;
  readonly use: RopeUse;
}

export interface LayerRopes {
  readonly constants: Readonly<Record<string, Float32Array>>;
  /** Undefined where a layer knows nothing of positions (Kazemnejad et al. 2023). */
  readonly of: (blockIndex: number) => LayerRope | undefined;
  /** As in ModelSpec. */
  readonly limits: {
    readonly maxContextTokens: number;
    readonly recomputeAtTokens: number | undefined;
    readonly lengthDependentAfterTokens: number | undefined;
  };
}

/** One rotation in every layer that `rotates`. */
export function sameRope(rope: Rope, rotates: (blockIndex: number) => boolean = () => true): LayerRopes {
  const layer = { constant: 'inverse_frequencies', use: rope.use };
  return {
    constants: { [layer.constant]: rope.inverseFrequencies },
    of: (index) => (rotates(index) ? layer : undefined),
    limits: limitsOf([rope]),
  };
}

/**
 * A rotation per kind of layer.
 * Throws UNSUPPORTED where sequences would have to be computed again at two lengths.
 */
export function ropesByType(
  config: ConfigReader,
  types: readonly LayerType[],
  read: (layerType: LayerType) => Rope,
): LayerRopes {
  const present = new Map([...new Set(types)].map((type) => [type, read(type)] as const));
  const again = new Set([...present.values()].flatMap((rope) => rope.recomputeAtTokens ?? []));
  if (again.size > 1) {
    const lengths = [...again].join(' and ');
    throw config.unsupported('rope_parameters', `outgrown at ${lengths} tokens`, 'one such length');
  }
  return {
    constants: Object.fromEntries([...present].map(([type, rope]) => [type, rope.inverseFrequencies])),
    of: (index) => {
      const type = types[index] ?? 'full_attention';
      const rope = present.get(type);
      return rope && { constant: type, use: rope.use };
    },
    limits: limitsOf([...present.values()]),
  };
}

/**
 * `rope_parameters` with an object per kind of layer, or the older keys of Gemma 3 and OLMo 3, where `rope_scaling` is
 * that of full layers alone and `slidingBase` names the base of the others.
 */
export function readRopesByType(
  config: ConfigReader,
  types: readonly LayerType[],
  options: RopeOptions & {
    readonly slidingBase: { readonly names: readonly string[]; readonly default: number };
  },
): LayerRopes {
  const { slidingBase, ...shared } = options;
  return ropesByType(config, types, (layerType) => {
    if (layerType === 'full_attention') return readRope(config, { ...shared, layerType });
    return readRope(config, {
      ...shared,
      layerType,
      baseNames: slidingBase.names,
      defaultBase: slidingBase.default,
      scaledOnlyByType: true,
    });
  });
}

function limitsOf(ropes: readonly Rope[]): LayerRopes['limits'] {
  const least = (of: (rope: Rope) => number | undefined) => {
    const given = ropes.flatMap((rope) => of(rope) ?? []);
    return given.length > 0 ? Math.min(...given) : undefined;
  };
  return {
    maxContextTokens: Math.min(...ropes.map(({ contextTokens }) => contextTokens)),
    recomputeAtTokens: least((rope) => rope.recomputeAtTokens),
    lengthDependentAfterTokens: least((rope) => rope.lengthDependentAfterTokens),
  };
}
