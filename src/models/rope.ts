// Rotary position frequencies (Su et al. 2021) from either generation of config keys.

import type { FrequenciesByLength } from '../../offload/index.js';
import { type ConfigReader, named } from '../checkpoint/config-reader.js';
import { SCALINGS } from './rope-scaling.js';

export interface Rope {
  /** f32 [rows · pairs]: half the dimensions that rotate, in one row unless `byLength` says otherwise. */
  readonly inverseFrequencies: Float32Array;
  readonly use: RopeUse;
  /** Longest sequence they hold for. */
  readonly contextTokens: number;
  /** As in ModelSpec. */
  readonly recomputeAtTokens?: number | undefined;
  /** See ModelSpec. */
  readonly lengthDependentAfterTokens?: number | undefined;
}

/** What the forward needs to know beside the frequencies. */
export interface RopeUse {
  /** Factor on cos and sin. */
  readonly scale: number;
  /** Present where frequencies depend on the length of a sequence. */
  readonly byLength?: FrequenciesByLength;
}

export interface RopeOptions {
  readonly headDim: number;
  /** Where the configuration gives no `max_position_embeddings`. */
  readonly defaultContext: number;
  /** Where the configuration gives no base; otherwise 10,000. */
  readonly defaultBase?: number;
  /** Older names of the base at the top level. */
  readonly baseNames?: readonly string[];
  /** Older names of the part of a head that rotates. A family without any rotates whole heads. */
  readonly partNames?: readonly string[];
  readonly defaultPart?: number;
  /** For families that know it from the top level alone: the trained length where that names none. */
  readonly defaultTrained?: number;
  /** Other families' names at the top level, which the reference passes over in this one: they may only agree. */
  readonly foreignNames?: { readonly base: string; readonly part: string };
  /** For families whose `rope_parameters` may hold one object per kind of layer. */
  readonly layerType?: 'full_attention' | 'sliding_attention';
}

/** θᵢ = base^(−2i/d) for the d dimensions of a head that rotate. @returns [d / 2] */
export function plainFrequencies(rotatedDims: number, base: number): Float64Array {
  return Float64Array.from({ length: rotatedDims / 2 }, (_, i) => base ** ((-2 * i) / rotatedDims));
}

/** `rope_parameters`, or the older `rope_scaling` beside `rope_theta` at the top level. */
export function readRope(config: ConfigReader, options: RopeOptions): Rope {
  const parameters = ropeParameters(config, options.layerType);
  const within = (name: string) =>
    parameters?.raw(name) === undefined ? undefined : parameters.number([name]);
  const base =
    within('rope_theta') ?? config.number(options.baseNames ?? ['rope_theta'], options.defaultBase ?? 10000);
  if (base <= 1) throw config.unsupported('rope_theta', base, 'numbers above 1');
  const { headDim, partNames = ['partial_rotary_factor'], defaultPart = 1 } = options;
  const part = within('partial_rotary_factor') ?? config.number(partNames, defaultPart);
  if (options.foreignNames) {
    config.refuseUnless(base, options.foreignNames.base);
    config.refuseUnless(part, options.foreignNames.part);
  }
  const rotatedDims = Math.trunc(headDim * part);
  if (part > 1 || rotatedDims < 2 || rotatedDims % 2 !== 0 || (!options.partNames && part !== 1)) {
    const supported = options.partNames ? `parts that make an even number of ${headDim} dimensions` : '1';
    throw config.unsupported(partNames[0] ?? 'partial_rotary_factor', part, supported);
  }
  const frequencies = plainFrequencies(rotatedDims, base);
  const contextTokens = config.count(['max_position_embeddings'], options.defaultContext);
  const type = parameters?.text(['rope_type', 'type'], 'default') ?? 'default';
  if (!parameters || type === 'default')
    return { inverseFrequencies: Float32Array.from(frequencies), use: { scale: 1 }, contextTokens };

  // Phi-3's first checkpoints call LongRoPE's pairs of divisors `yarn`.
  const scaling = named(SCALINGS, type === 'yarn' && parameters.has('short_factor') ? 'longrope' : type);
  if (!scaling) {
    throw parameters.unsupported('rope_type', type, ['default', ...Object.keys(SCALINGS)].join(', '));
  }
  const trained = ['original_max_position_embeddings'];
  const trainedTokens =
    options.defaultTrained === undefined
      ? (config.optionalCount(trained) ?? parameters.count(trained, contextTokens))
      : config.count(trained, options.defaultTrained);
  const scaled = scaling(parameters, { frequencies, base, contextTokens, trainedTokens });
  const { scale, firstLength } = scaled;
  return {
    inverseFrequencies: Float32Array.from(scaled.frequencies),
    use:
      firstLength === undefined ? { scale } : { scale, byLength: { pairs: frequencies.length, firstLength } },
    contextTokens: scaled.contextTokens,
    recomputeAtTokens: scaled.recomputeAtTokens,
    lengthDependentAfterTokens: firstLength,
  };
}

function ropeParameters(config: ConfigReader, layerType: RopeOptions['layerType']): ConfigReader | undefined {
  const parameters = config.object('rope_scaling', 'rope_parameters');
  const kinds = ['full_attention', 'sliding_attention'].filter((kind) => parameters?.has(kind));
  if (!parameters || kinds.length === 0) return parameters;
  if (layerType) return parameters.object(layerType);
  throw parameters.unsupported('rope_parameters', kinds, 'one set of parameters for all layers');
}
