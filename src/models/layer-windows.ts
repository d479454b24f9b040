// Which layers see only the latest tokens: sliding windows (Beltagy et al. 2020) from either generation of config keys.

import type { ConfigReader } from '../checkpoint/config-reader.js';

export type LayerType = 'full_attention' | 'sliding_attention';

/**
 * Kinds of the layers: `layer_types` where the configuration lists them, otherwise what the family computes.
 * @returns [blockCount]
 */
export function readLayerTypes(
  config: ConfigReader,
  blockCount: number,
  slidesByDefault: (index: number) => boolean,
): LayerType[] {
  const listed = config.optionalTexts(['layer_types'], blockCount);
  return Array.from({ length: blockCount }, (_, index) => {
    const type = listed?.[index] ?? (slidesByDefault(index) ? 'sliding_attention' : 'full_attention');
    return layerTypeOf(config, type);
  });
}

/** An entry of `layer_types`. */
export function layerTypeOf(config: ConfigReader, type: unknown): LayerType {
  if (type === 'full_attention' || type === 'sliding_attention') return type;
  throw config.unsupported('layer_types', type, 'full_attention, sliding_attention');
}

/**
 * Tokens that each layer sees, itself included; 0 for all. A layer that slides needs `sliding_window`;
 * `defaultWindow` holds where it is absent, not where it is null.
 */
export function readLayerWindows(
  config: ConfigReader,
  blockCount: number,
  slidesByDefault: (index: number) => boolean,
  defaultWindow?: number,
): (blockIndex: number) => number {
  return windowsOf(config, readLayerTypes(config, blockCount, slidesByDefault), defaultWindow);
}

/** The same of layers whose kinds are known. */
export function windowsOf(
  config: ConfigReader,
  types: readonly LayerType[],
  defaultWindow?: number,
): (blockIndex: number) => number {
  const slides = types.map((type) => type === 'sliding_attention');
  const fallback = config.has('sliding_window') ? undefined : defaultWindow;
  const window = slides.includes(true) ? config.count(['sliding_window'], fallback) : 0;
  return (index) => (slides[index] ? window : 0);
}

/** Whether a layer slides where every so many-th one, by `sliding_window_pattern`, sees everything. */
export function readPattern(config: ConfigReader, fallback: number): (blockIndex: number) => boolean {
  const pattern = config.count(['sliding_window_pattern'], fallback);
  return (index) => (index + 1) % pattern !== 0;
}

/** Whether a family whose window has a default wants one: absence means the default, null means none. */
export function hasWindow(config: ConfigReader): boolean {
  return !config.has('sliding_window') || config.raw('sliding_window') !== undefined;
}
