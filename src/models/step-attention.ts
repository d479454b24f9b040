// Step's attention: kinds of layers differ in how many heads ask, and a sigmoid per head scales what it has seen.

import { heads, seenTokens } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { tensorsUnder } from './architecture.js';
import {
  attentionShapes,
  project,
  QUERY_KEY_NORMS,
  queryKeyNormTensors,
  type RotaryAttention,
  separateAttention,
} from './decoder-parts.js';
import type { LayerRopes } from './layer-ropes.js';
import { type LayerType, windowsOf } from './layer-windows.js';
import type { Mixer } from './mixer.js';
import { layerOverrides } from './per-layer-config.js';

/** Heads of a layer's queries. */
function readHeads(config: ConfigReader, types: readonly LayerType[]): number[] {
  const full = config.count(['num_attention_heads']);
  const other = config.object('attention_other_setting');
  const sliding =
    config.optionalCount(['num_sliding_attention_heads']) ??
    other?.optionalCount(['num_attention_heads']) ??
    full;
  const hasOverrides = config.object('per_layer_config') !== undefined;
  return types.map((type, index) => {
    const own = layerOverrides(config, index, ['num_attention_heads']);
    const byType = type === 'sliding_attention' && !hasOverrides ? sliding : full;
    return own?.count(['num_attention_heads'], byType) ?? byType;
  });
}

export function readStepAttention(
  config: ConfigReader,
  {
    types,
    D,
    ropes,
  }: { readonly types: readonly LayerType[]; readonly D: number; readonly ropes: LayerRopes },
): (blockIndex: number) => Mixer | undefined {
  const H = config.count(['hidden_size']);
  const nKv = config.count(['num_key_value_heads', 'num_attention_groups'], 8);
  const other = config.object('attention_other_setting');
  other?.refuseUnless(nKv, 'num_attention_groups');
  other?.refuseUnless(D, 'head_dim', 'true_head_dim');
  const bias = config.flag(['attention_bias'], false);
  const eps = config.number(['rms_norm_eps'], 1e-5);
  const windows = windowsOf(config, types);
  const mixers = readHeads(config, types).map((nHeads, index) => {
    config.divided(nHeads, nKv, 'num_attention_heads over num_key_value_heads');
    return attentionMixer(index, {
      H,
      bias,
      attention: {
        nHeads,
        nKv,
        D,
        scale: 1 / Math.sqrt(config.number(['query_pre_attn_scalar'], D)),
        ropeOf: ropes.of,
        windowTokens: windows,
        queryKeyNorm: { over: 'head', names: QUERY_KEY_NORMS, eps, weightOffset: 1 },
      },
    });
  });
  return (index) => mixers[index];
}

interface GatedAttention {
  readonly H: number;
  readonly bias: boolean;
  readonly attention: RotaryAttention;
}

function attentionMixer(index: number, { H, bias, attention }: GatedAttention): Mixer {
  const { nHeads, nKv, D, windowTokens } = attention;
  const norms = { over: 'head', names: QUERY_KEY_NORMS } as const;
  return {
    tensors: (path) => [
      ...tensorsUnder(path, {
        ...attentionShapes(H, attention, { qkv: bias, out: bias }),
        'self_attn.g_proj.weight': [nHeads, H],
      }),
      ...queryKeyNormTensors(path, norms, attention),
    ],
    cache: {
      kind: 'paged',
      kvHeads: nKv,
      keyDim: D,
      valueDim: D,
      valuesInKeys: false,
      ...seenTokens(windowTokens(index)),
    },
    add(k, w, norm, x) {
      const normed = norm(); // [T, H]
      const seen = separateAttention(k, w, normed, attention, index); // [T, nHeads · D]
      const gates = k.linear(normed, w.matrix('self_attn.g_proj.weight')); // [T, nHeads]
      k.gateSigmoid(heads(seen, nHeads, D), heads(gates, nHeads, 1));
      project(k, w, seen, 'self_attn.o_proj', x);
    },
  };
}
