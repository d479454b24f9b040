// Formulas that stretch rotary frequencies to contexts longer than the model was trained on, one per paper.

import type { ConfigReader } from '../checkpoint/config-reader.js';

/** What a scaling starts from. */
export interface PlainRope {
  /** [pairs]: base^(−2i/d) */
  readonly frequencies: Float64Array;
  readonly base: number;
  /** Longest context of the model as configured. */
  readonly contextTokens: number;
  /** Longest context it was trained on before its frequencies were scaled. */
  readonly trainedTokens: number;
}

/** A scaled rope: frequencies, the factor on cos and sin, and the longest context they hold for. */
export interface ScaledRope {
  /** [rows · pairs]; one row unless `firstLength` is given. */
  readonly frequencies: Float64Array;
  /** Frequencies depend on the length of a sequence: the first row up to this length, then one per token more. */
  readonly firstLength?: number;
  /** A sequence that reaches this length is computed again. */
  readonly recomputeAtTokens?: number;
  readonly scale: number;
  readonly contextTokens: number;
}

export type Scaling = (parameters: ConfigReader, plain: PlainRope) => ScaledRope;

/** Chen et al. 2023 (position interpolation): positions are divided by a factor. */
const linear: Scaling = (parameters, { frequencies, contextTokens }) => {
  const factor = readFactor(parameters);
  const longest = Math.floor(contextTokens * factor);
  return { frequencies: frequencies.map((f) => f / factor), scale: 1, contextTokens: longest };
};

/** How far beyond its configured context a model may run: a row of frequencies is kept per token of it. */
const DYNAMIC_TOKENS = 16384;
const DYNAMIC_STRETCH = 8;

/**
 * Dynamic NTK (Emozilla 2023): plain up to the configured context; beyond it the base grows with the length that a
 * sequence has. Cached keys keep the rotation of the length at which they were made, as in transformers.
 */
const dynamic: Scaling = (parameters, { frequencies, base, contextTokens }) => {
  const factor = readFactor(parameters);
  const pairs = frequencies.length;
  if (pairs < 2)
    throw parameters.unsupported('rope_type', 'dynamic', 'other types for heads of two dimensions');
  const beyond = Math.min(DYNAMIC_TOKENS, (DYNAMIC_STRETCH - 1) * contextTokens);
  const table = new Float64Array((beyond + 1) * pairs);
  for (let row = 0; row <= beyond; row++) {
    const growth = (factor * (contextTokens + row)) / contextTokens - (factor - 1);
    const grown = base * growth ** (pairs / (pairs - 1));
    for (let i = 0; i < pairs; i++) table[row * pairs + i] = grown ** (-i / pairs);
  }
  return { frequencies: table, firstLength: contextTokens, scale: 1, contextTokens: contextTokens + beyond };
};

/** Dubey et al. 2024 (Llama 3.1): wavelengths beyond the trained context are stretched, short ones kept. */
const llama3: Scaling = (parameters, plain) => {
  const factor = readFactor(parameters);
  const low = parameters.number(['low_freq_factor']);
  const high = parameters.number(['high_freq_factor']);
  const frequencies = plain.frequencies.map((frequency) => {
    const turns = (plain.trainedTokens * frequency) / (2 * Math.PI);
    if (turns < low) return frequency / factor;
    if (turns > high) return frequency;
    const smooth = (turns - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
  return { frequencies, scale: 1, contextTokens: stretched(plain, factor) };
};

/** Peng et al. 2023 (YaRN): pairs that turn often are kept, those that turn seldom divided, a ramp between; §3.2–3.4. */
const yarn: Scaling = (parameters, plain) => {
  const { base, trainedTokens } = plain;
  const factor = parameters.optionalNumber(['factor']) ?? plain.contextTokens / trainedTokens;
  const pairs = plain.frequencies.length;
  // The (fractional) pair that makes this many turns within the trained context.
  const pairOf = (turns: number) =>
    (pairs * Math.log(trainedTokens / (turns * 2 * Math.PI))) / Math.log(base);
  const truncate = parameters.flag(['truncate'], true);
  const first = pairOf(parameters.number(['beta_fast'], 32));
  const last = pairOf(parameters.number(['beta_slow'], 1));
  const from = Math.max(truncate ? Math.floor(first) : first, 0);
  const to = Math.min(truncate ? Math.ceil(last) : last, 2 * pairs - 1);
  const width = from === to ? 0.001 : to - from;
  const frequencies = plain.frequencies.map((frequency, i) => {
    const divided = Math.min(1, Math.max(0, (i - from) / width));
    return (divided * frequency) / factor + (1 - divided) * frequency;
  });
  return { frequencies, scale: yarnScale(parameters, factor), contextTokens: stretched(plain, factor) };
};

/** Longer contexts flatten attention; the factor on queries and keys sharpens it again. */
function yarnScale(parameters: ConfigReader, factor: number): number {
  const given = parameters.optionalNumber(['attention_factor']);
  if (given !== undefined) return given;
  const sharpened = (weight: number) => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  const [mscale, allDims] = [parameters.number(['mscale'], 0), parameters.number(['mscale_all_dim'], 0)];
  return mscale && allDims ? sharpened(mscale) / sharpened(allDims) : sharpened(1);
}

/**
 * Ding et al. 2024 (LongRoPE): each pair has a divisor for sequences within the trained length and one for longer ones.
 * A sequence that outgrows it is computed again, since its cached keys were divided for a short one.
 */
const longrope: Scaling = (parameters, { frequencies, contextTokens, trainedTokens }) => {
  const divided = (name: string) => {
    const divisors = parameters.numbers([name], frequencies.length);
    return [...frequencies].map((frequency, i) => frequency / (divisors[i] ?? 1));
  };
  const [short, long] = [divided('short_factor'), divided('long_factor')];
  const factor = parameters.optionalNumber(['factor']) ?? contextTokens / trainedTokens;
  const stretch = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(trainedTokens));
  const scale = parameters.number(['attention_factor'], stretch);
  if (contextTokens <= trainedTokens) return { frequencies: Float64Array.from(short), scale, contextTokens };
  return {
    frequencies: Float64Array.from([...short, ...long]),
    firstLength: trainedTokens,
    recomputeAtTokens: trainedTokens + 1,
    scale,
    contextTokens,
  };
};

/** By `rope_type`; `su` is the first name of LongRoPE. */
export const SCALINGS: Readonly<Record<string, Scaling>> = {
  linear,
  dynamic,
  llama3,
  yarn,
  longrope,
  su: longrope,
};

/** Configurations give either the context after scaling or the one before it. */
function stretched({ contextTokens, trainedTokens }: PlainRope, factor: number): number {
  return Math.max(contextTokens, Math.floor(trainedTokens * factor));
}

function readFactor(parameters: ConfigReader): number {
  const factor = parameters.number(['factor']);
  if (factor <= 0) throw parameters.unsupported('factor', factor, 'numbers above 0');
  return factor;
}
