// Rotary position frequencies (Su et al. 2021) from either generation of config keys.

import type { FrequenciesByLength } from '../../offload/index.js';
import { type ConfigReader, named } from '../checkpoint/config-reader.js';
import type { LayerType } from './layer-windows.js';
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
  readonly layerType?: LayerType;
  /** Parameters for all layers are not those of this kind. */
  readonly scaledOnlyByType?: boolean;
  /** For families that may turn the first part of a head's pairs, as if all turned, and leave the others. */
  readonly proportional?: boolean;
  /** For families that read `alpha` of a `dynamic` scaling. */
  readonly fixedAlpha?: boolean;
  /** For families that say themselves what cos and sin are scaled by. */
  readonly mscales?: boolean;
  /** For text parts whose pairs stand for axes of pictures (`mrope`): in text all are the one position. */
  readonly axes?: boolean;
}

/** θᵢ = base^(−2i/d) for the d dimensions of a head that rotate. @returns [d / 2] */
export function plainFrequencies(rotatedDims: number, base: number): Float64Array {
  return Float64Array.from({ length: rotatedDims / 2 }, (_, i) => base ** ((-2 * i) / rotatedDims));
}

/** As θ of the whole head, of which the pairs beyond the part stand still (Gemma 4). @returns f32 [headDim / 2] */
function proportionalFrequencies(headDim: number, part: number, base: number): Float32Array {
  const turning = Math.floor((part * headDim) / 2);
  return Float32Array.from(plainFrequencies(headDim, base), (f, i) => (i < turning ? f : 0));
}

/** For families whose reference scales by default, as every configuration says again. Throws UNSUPPORTED where one does not. */
export function requireRotation(config: ConfigReader): void {
  if (!config.object('rope_scaling', 'rope_parameters'))
    throw config.unsupported('rope_parameters', null, 'parameters of its rotation');
}

/** `rope_parameters`, or the older `rope_scaling` beside `rope_theta` at the top level. */
export function readRope(config: ConfigReader, options: RopeOptions): Rope {
  const parameters = ropeParameters(config, options);
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
  const written = parameters?.text(['rope_type', 'type'], 'default') ?? 'default';
  const type = options.axes && written === 'mrope' ? 'default' : written;
  if (options.proportional && type === 'proportional') {
    const factor = parameters?.number(['factor'], 1) ?? 1;
    const contextTokens = config.count(['max_position_embeddings'], options.defaultContext);
    const inverseFrequencies = proportionalFrequencies(headDim, part, base).map((f) => f / factor);
    return { inverseFrequencies, use: { scale: 1 }, contextTokens };
  }
  const rotatedDims = Math.trunc(headDim * part);
  if (part > 1 || rotatedDims < 2 || rotatedDims % 2 !== 0 || (!options.partNames && part !== 1)) {
    const supported = options.partNames ? `parts that make an even number of ${headDim} dimensions` : '1';
    throw config.unsupported(partNames[0] ?? 'partial_rotary_factor', part, supported);
  }
  const frequencies = plainFrequencies(rotatedDims, fixedBase(parameters, options, base, rotatedDims));
  const contextTokens = config.count(['max_position_embeddings'], options.defaultContext);
  if (!parameters || type === 'default' || alphaOf(parameters, options) !== undefined)
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
  const scale = options.mscales ? readMscale(parameters) : scaled.scale;
  const { firstLength } = scaled;
  return {
    inverseFrequencies: Float32Array.from(scaled.frequencies),
    use:
      firstLength === undefined ? { scale } : { scale, byLength: { pairs: frequencies.length, firstLength } },
    contextTokens: scaled.contextTokens,
    recomputeAtTokens: scaled.recomputeAtTokens,
    lengthDependentAfterTokens: firstLength,
  };
}

/** Hunyuan's: a `dynamic` scaling with `alpha` has another base, whatever a sequence's length. */
function alphaOf(parameters: ConfigReader | undefined, { fixedAlpha }: RopeOptions): number | undefined {
  if (!fixedAlpha || parameters?.text(['rope_type', 'type'], 'default') !== 'dynamic') return undefined;
  return parameters.optionalNumber(['alpha']) || undefined;
}

function fixedBase(
  parameters: ConfigReader | undefined,
  options: RopeOptions,
  base: number,
  rotatedDims: number,
): number {
  const alpha = alphaOf(parameters, options);
  return alpha === undefined ? base : base * alpha ** (rotatedDims / (rotatedDims - 2));
}

/** Phi-3.5-MoE's, for short sequences and for long ones. */
function readMscale(parameters: ConfigReader): number {
  const [short, long] = [parameters.number(['short_mscale']), parameters.number(['long_mscale'])];
  if (short !== long) throw parameters.unsupported('long_mscale', long, `${short}, as short_mscale is`);
  return short;
}

function ropeParameters(
  config: ConfigReader,
  { layerType, scaledOnlyByType }: RopeOptions,
): ConfigReader | undefined {
  const parameters = config.object('rope_scaling', 'rope_parameters');
  const kinds = ['full_attention', 'sliding_attention'].filter((kind) => parameters?.has(kind));
  if (!parameters) return undefined;
  if (kinds.length === 0) return scaledOnlyByType ? undefined : parameters;
  if (layerType) return parameters.object(layerType);
  throw parameters.unsupported('rope_parameters', kinds, 'one set of parameters for all layers');
}
