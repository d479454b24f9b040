// What each layer of Gemma 4 is: its kind, its heads, whose keys and values it reads, and how wide its feed-forward is.

import { type CacheSpec, seenTokens } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type LayerType, readLayerTypes, windowsOf } from './layer-windows.js';
import { layerOverrides } from './per-layer-config.js';

export interface Gemma4Layer {
  readonly type: LayerType;
  /** Dimensions of a head, and how many have keys. */
  readonly D: number;
  readonly nKv: number;
  readonly windowTokens: number;
  /** The layer whose keys and values it reads; undefined where it has its own. */
  readonly owner: number | undefined;
  /** A value is what its key was before that was normed. */
  readonly valuesAreKeys: boolean;
  readonly isWide: boolean;
  readonly cache: CacheSpec;
}

/** Throws BAD_CONFIG or UNSUPPORTED. */
export function readGemma4Layers(config: ConfigReader, nHeads: number): Gemma4Layer[] {
  const blockCount = config.count(['num_hidden_layers']);
  const listed = readLayerTypes(config, blockCount, (index) => (index + 1) % 6 !== 0);
  // Whatever is listed, the last one sees everything.
  const types = listed.map((type, index) => (index === blockCount - 1 ? 'full_attention' : type));
  const windows = windowsOf(config, types, 512);
  const sizes = readSizes(config, types);
  const keysAreValues = config.flag(['attention_k_eq_v'], false);
  const sharing = config.number(['num_kv_shared_layers'], 0);
  if (!Number.isSafeInteger(sharing) || sharing < 0 || sharing >= blockCount)
    throw config.unsupported('num_kv_shared_layers', sharing, `0 to ${blockCount - 1}`);
  const firstShared = blockCount - sharing;
  const wide = config.flag(['use_double_wide_mlp'], false);
  return types.map((type, index) => {
    const owner = index < firstShared ? undefined : types.lastIndexOf(type, firstShared - 1);
    if (owner === -1)
      throw config.unsupported('num_kv_shared_layers', sharing, `an earlier layer of ${type} to share with`);
    const { D, nKv } = sizes[index] ?? { D: 0, nKv: 0 };
    config.divided(nHeads, nKv, 'num_attention_heads over num_key_value_heads');
    if (D % 2 !== 0) throw config.unsupported('head_dim', D, 'even numbers');
    const pages = { kind: 'paged', kvHeads: nKv, keyDim: D, valueDim: D, valuesInKeys: false } as const;
    const own = { ...pages, ...seenTokens(windows(index)) };
    return {
      type,
      D,
      nKv,
      windowTokens: windows(index),
      owner,
      valuesAreKeys: keysAreValues && type === 'full_attention',
      isWide: wide && owner !== undefined,
      cache: owner === undefined ? own : { kind: 'shared', block: owner },
    };
  });
}

interface Sizes {
  readonly D: number;
  readonly nKv: number;
}

/** `per_layer_config`, or the keys of the published files for layers that see everything. */
function readSizes(config: ConfigReader, types: readonly LayerType[]): Sizes[] {
  const D = config.count(['head_dim'], 256);
  const nKv = config.count(['num_key_value_heads'], 4);
  const overrides = config.object('per_layer_config');
  const sizes = types.map((type, index) => {
    if (overrides) return overridden(config, index, { D, nKv });
    if (type === 'sliding_attention') return { D, nKv };
    const globalKv = config.flag(['attention_k_eq_v'], false)
      ? config.optionalCount(['num_global_key_value_heads'])
      : undefined;
    return { D: config.count(['global_head_dim'], 512), nKv: globalKv ?? nKv };
  });
  // Rotations are those of a kind of layer.
  const ofKind = new Map<LayerType, number>();
  for (const [index, type] of types.entries()) {
    const own = sizes[index]?.D ?? D;
    if ((ofKind.get(type) ?? own) !== own)
      throw config.unsupported(
        'per_layer_config',
        `head_dim ${own} of layer ${index}`,
        `${ofKind.get(type)} as in others of ${type}`,
      );
    ofKind.set(type, own);
  }
  return sizes;
}

function overridden(config: ConfigReader, index: number, sizes: Sizes): Sizes {
  const own = layerOverrides(config, index, ['head_dim', 'num_key_value_heads']);
  if (!own) return sizes;
  return { D: own.count(['head_dim'], sizes.D), nKv: own.count(['num_key_value_heads'], sizes.nKv) };
}
