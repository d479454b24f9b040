// Rotary position frequencies and their scalings, from either generation of config keys.

import type { ConfigReader } from './config-reader.js';

export interface Rope {
  /** f32 [rotated dimensions / 2] */
  readonly inverseFrequencies: Float32Array;
  /** Factor on cos and sin. */
  readonly scale: number;
}

/**
 * Su et al. 2021: θᵢ = base^(−2i/d). `rope_parameters` (or the older `rope_scaling` beside `rope_theta`) may scale it:
 * `linear` divides all frequencies; `llama3` divides the low ones and blends between two wavelengths.
 * @param rotatedDims dimensions of a head that rotate
 */
export function readRope(config: ConfigReader, rotatedDims: number): Rope {
  const scaling = config.object('rope_parameters', 'rope_scaling');
  const base =
    scaling?.raw('rope_theta') !== undefined
      ? scaling.number(['rope_theta'])
      : config.number(['rope_theta'], 10000);
  const plain = Float64Array.from({ length: rotatedDims / 2 }, (_, i) => base ** ((-2 * i) / rotatedDims));
  const type = scaling?.text(['rope_type', 'type'], 'default') ?? 'default';
  if (!scaling || type === 'default') return { inverseFrequencies: Float32Array.from(plain), scale: 1 };
  if (type === 'linear') {
    const factor = scaling.number(['factor']);
    return { inverseFrequencies: Float32Array.from(plain, (frequency) => frequency / factor), scale: 1 };
  }
  if (type === 'llama3') return { inverseFrequencies: scaleLlama3(scaling, plain), scale: 1 };
  throw scaling.unsupported('rope_type', type, 'default, linear, llama3');
}

/** Dubey et al. 2024 (Llama 3.1): wavelengths beyond the original context are stretched, short ones kept. */
function scaleLlama3(scaling: ConfigReader, plain: Float64Array): Float32Array {
  const factor = scaling.number(['factor']);
  const low = scaling.number(['low_freq_factor']);
  const high = scaling.number(['high_freq_factor']);
  const context = scaling.count(['original_max_position_embeddings']);
  return Float32Array.from(plain, (frequency) => {
    const turns = (context * frequency) / (2 * Math.PI);
    if (turns < low) return frequency / factor;
    if (turns > high) return frequency;
    const smooth = (turns - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}
