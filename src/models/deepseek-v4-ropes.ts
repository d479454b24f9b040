// How DeepSeek-V4's layers rotate: those that have entries by frequencies of their own, which alone are stretched.

import { ConfigReader } from '../checkpoint/config-reader.js';
import type { CompressedLayer } from './deepseek-v4-layers.js';
import { readRope } from './rope.js';

export interface CompressedRope {
  /** Constants with the frequencies there and back. */
  readonly there: string;
  readonly back: string;
  /** Dimensions of a head that turn, which are its last. */
  readonly turned: number;
  readonly scale: number;
}

export interface CompressedRopes {
  readonly constants: Readonly<Record<string, Float32Array>>;
  readonly contextTokens: number;
  readonly of: (layer: CompressedLayer) => CompressedRope;
}

type Parameters = Readonly<Record<string, unknown>>;

export function readCompressedRopes(config: ConfigReader, headDim: number): CompressedRopes {
  const parameters = ropeParameters(config, headDim);
  const context = config.count(['max_position_embeddings'], 1048576);
  const read = (name: 'main' | 'compress') => {
    const values = { max_position_embeddings: context, rope_parameters: parameters[name] };
    const reader = new ConfigReader(values, `${config.path}: ${name}`);
    const { inverseFrequencies, use, contextTokens } = readRope(reader, {
      headDim,
      defaultContext: context,
      partNames: ['partial_rotary_factor'],
    });
    if (use.byLength) throw reader.unsupported('rope_type', 'by length', 'default, linear, llama3, yarn');
    return { name, inverseFrequencies, scale: use.scale, contextTokens };
  };
  const both = { main: read('main'), compress: read('compress') };
  const constants = Object.values(both).flatMap(({ name, inverseFrequencies }) => [
    [name, inverseFrequencies],
    [`${name} back`, inverseFrequencies.map((frequency) => -frequency)],
  ]);
  return {
    constants: Object.fromEntries(constants),
    contextTokens: Math.min(both.main.contextTokens, both.compress.contextTokens),
    of: ({ runTokens }) => {
      const { name, inverseFrequencies, scale } = runTokens === undefined ? both.main : both.compress;
      return { there: name, back: `${name} back`, turned: 2 * inverseFrequencies.length, scale };
    },
  };
}

/** An object for each, or the older ones for those with entries alone. */
function ropeParameters(config: ConfigReader, headDim: number): { main: Parameters; compress: Parameters } {
  const given =
    (config.object('rope_parameters', 'rope_scaling') && config.raw('rope_parameters', 'rope_scaling')) ?? {};
  const { main, compress } = given as { main?: Parameters; compress?: Parameters };
  if (main && compress) return { main, compress };
  const turned = config.optionalCount(['qk_rope_head_dim']);
  const part = config.number(['partial_rotary_factor'], turned === undefined ? 1 / 8 : turned / headDim);
  const shared = { partial_rotary_factor: part };
  const stretched = given as Parameters;
  const type = stretched.rope_type ?? stretched.type ?? 'default';
  return {
    main: { ...shared, rope_type: 'default', rope_theta: config.number(['rope_theta'], 10000) },
    compress: {
      // Its makers sharpen nothing.
      ...(type === 'yarn' ? { attention_factor: 1 } : {}),
      ...stretched,
      ...shared,
      rope_theta: config.number(['compress_rope_theta'], 160000),
    },
  };
}
