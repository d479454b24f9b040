// Which of DeepSeek-V4's layers see entries beside their window, and how many tokens an entry stands for.

import type { ConfigReader } from '../checkpoint/config-reader.js';

export interface CompressedLayer {
  /** Tokens of an entry's run; absent where a layer has no entries. */
  readonly runTokens?: number;
  /** Runs overlap, and of many entries an index chooses some. */
  readonly isIndexed?: boolean;
}

const TYPES = ['sliding_attention', 'compressed_sparse_attention', 'heavily_compressed_attention'] as const;
type LayerType = (typeof TYPES)[number];

/** Published configurations name kinds of layers by what their entries stood for first. */
const BY_RATIO: ReadonlyMap<unknown, LayerType> = new Map([
  [0, 'sliding_attention'],
  [4, 'compressed_sparse_attention'],
  [128, 'heavily_compressed_attention'],
]);

export function readCompressedLayers(config: ConfigReader, blockCount: number): CompressedLayer[] {
  const rates = config.object('compress_rates');
  const rate = (type: LayerType, name: string, usual: number) =>
    config.optionalCount([name]) ?? rates?.optionalCount([type]) ?? usual;
  const layers: Readonly<Record<LayerType, CompressedLayer>> = {
    sliding_attention: {},
    compressed_sparse_attention: {
      runTokens: rate('compressed_sparse_attention', 'compress_rate_csa', 4),
      isIndexed: true,
    },
    heavily_compressed_attention: {
      runTokens: rate('heavily_compressed_attention', 'compress_rate_hca', 128),
    },
  };
  const listed = config.optionalTexts(['layer_types'], blockCount);
  const ratios = listed ? undefined : readRatios(config, blockCount);
  return Array.from({ length: blockCount }, (_, index) => {
    const given = listed?.[index] ?? ratios?.[index] ?? byDefault(index);
    const type = TYPES.find((known) => known === given);
    if (!type) throw config.unsupported('layer_types', given, TYPES.join(', '));
    return layers[type];
  });
}

/** One more for each layer that predicts further tokens may be listed behind them. */
function readRatios(config: ConfigReader, blockCount: number): LayerType[] | undefined {
  const listed = config.raw('compress_ratios');
  if (listed === undefined) return undefined;
  if (!Array.isArray(listed) || listed.length < blockCount)
    throw config.unsupported('compress_ratios', listed, `lists of at least ${blockCount} numbers`);
  return listed.slice(0, blockCount).map((ratio) => {
    const type = BY_RATIO.get(ratio);
    if (!type) throw config.unsupported('compress_ratios', ratio, [...BY_RATIO.keys()].join(', '));
    return type;
  });
}

/** As the larger model has them. */
function byDefault(index: number): LayerType {
  return index < 2 || index % 2 === 0 ? 'heavily_compressed_attention' : 'compressed_sparse_attention';
}
