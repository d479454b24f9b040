// Step 3.5 and 3.7 Flash (StepFun 2026): layers that slide and have another number of heads, whose results are gated head by
// head, and experts whose gates end somewhere in some layers.

import { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture } from './architecture.js';
import { type LayerRopes, ropesByType } from './layer-ropes.js';
import type { LayerType } from './layer-windows.js';
import { buildLlama } from './llama.js';
import { readRope } from './rope.js';
import { readStepAttention } from './step-attention.js';
import { readStepFeedForwards } from './step-experts.js';
import { stepLayerTypes, stepList } from './step-layers.js';

export const step: Architecture = {
  modelTypes: ['step3p5'],
  build: (config) => {
    refuseOthers(config);
    const types = stepLayerTypes(config);
    const D = config.count(['head_dim'], 128);
    if (D % 2 !== 0) throw config.unsupported('head_dim', D, 'even numbers');
    const ropes = readRopes(config, types, D);
    return buildLlama(config, {
      architecture: 'step3p5',
      qkvBias: false,
      outBias: false,
      mlpBias: false,
      normsFromOne: true,
      defaultContext: 128000,
      defaultHeadDim: D,
      defaultEps: 1e-5,
      ropes: () => ropes,
      windowTokens: () => 0,
      mixer: readStepAttention(config, { types, D, ropes }),
      feedForward: readStepFeedForwards(config),
    });
  },
};

/** Values that published files state and the reference takes for granted, and those of another model that it has keys for. */
function refuseOthers(config: ConfigReader): void {
  config.refuseUnless('silu', 'hidden_act');
  config.refuseUnless('sigmoid', 'moe_router_activation');
  config.refuseUnless(
    true,
    'use_head_wise_attn_gate',
    'use_moe_router_bias',
    'norm_expert_weight',
    'zero_centered',
    'use_qk_norm',
  );
  config.refuseUnless(false, 'use_bidirectional_attention', 'sink');
  config.refuseUnless(1, 'moe_every_n_layer');
  config.refuseUnless(0, 'moe_layer_offset');
  config.refuseUnless(null, 'sparse_attention_config', 'moe_layer_freq');
  if (config.raw('gating') !== 'per-head') config.refuseUnless(true, 'gating');
  for (const name of ['use_rope_layers', 'yarn_only_types'] as const) {
    const listed = config.raw(name);
    const usual = (entry: unknown) => entry === (name === 'yarn_only_types' ? 'full_attention' : true);
    if (listed !== undefined && !(Array.isArray(listed) && listed.every(usual)))
      throw config.unsupported(name, listed, 'what is usual');
  }
}

/** `rope_parameters` by kind of layer, or the lists of published files, whose scaling is that of full layers alone. */
function readRopes(config: ConfigReader, types: readonly LayerType[], D: number): LayerRopes {
  const nested = config.object('rope_parameters');
  const bases = Array.isArray(config.raw('rope_theta')) ? stepList(config, 'rope_theta') : undefined;
  const parts = stepList(config, 'partial_rotary_factors');
  const scaling = config.object('rope_scaling');
  const own = (layerType: LayerType): Readonly<Record<string, unknown>> => {
    const given = nested?.raw(layerType);
    if (nested && given === undefined)
      throw nested.unsupported('rope_parameters', 'one set for all layers', `parameters of ${layerType}`);
    if (nested) return { rope_parameters: given };
    const ofType = (listed: readonly unknown[] | undefined, name: string) => {
      const values = new Set(listed?.filter((_, index) => types[index] === layerType));
      if (values.size > 1)
        throw config.unsupported(name, [...values], `one value for all layers of ${layerType}`);
      return [...values][0];
    };
    return {
      rope_theta: bases ? ofType(bases, 'rope_theta') : config.raw('rope_theta'),
      partial_rotary_factor: ofType(parts, 'partial_rotary_factors'),
      rope_scaling: layerType === 'full_attention' ? config.raw('rope_scaling') : undefined,
    };
  };
  if (nested && scaling)
    throw config.unsupported('rope_scaling', config.raw('rope_scaling'), 'null beside rope_parameters');
  const context = config.raw('max_position_embeddings');
  return ropesByType(config, types, (layerType) =>
    readRope(new ConfigReader({ ...own(layerType), max_position_embeddings: context }, config.path), {
      headDim: D,
      partNames: ['partial_rotary_factor'],
      defaultContext: 128000,
    }),
  );
}
