// Ling and Ring (inclusionAI 2025), of the first generation and 2.0: Llama's block under names of their own, and mixtures in most layers.

import type { RouteRule } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture, ArchitectureModel, TensorDef } from './architecture.js';
import { type GroupedHeads, QUERY_KEY_NORMS, readGroupedHeads } from './decoder-parts.js';
import type { FeedForward } from './feed-forward.js';
import { buildLlama } from './llama.js';
import { readChoices } from './mixture.js';
import { checkGroups, deepseekRule, softmaxRule } from './routers.js';
import { sharedExperts } from './shared-experts.js';
import { afterDenseLayers } from './sparse-layers.js';

/** Both generations have the first type; the second one says that its scores are sigmoids. */
export const bailing: Architecture = {
  modelTypes: ['bailing_moe', 'bailing_moe_v2'],
  build: (config) => {
    refuseOthers(config);
    const isSecond = config.text(['score_function'], 'softmax') === 'sigmoid';
    const H = config.count(['hidden_size']);
    const model = buildLlama(config, {
      architecture: 'bailing_moe',
      qkvBias: config.flag(['use_qkv_bias'], false),
      outBias: false,
      mlpBias: false,
      headNorms: config.flag(['use_qk_norm'], false),
      defaultContext: 32768,
      defaultRopeBase: 600000,
      // Its code and that of others disagree about what holds where nothing is said.
      rope: isSecond
        ? { partNames: ['partial_rotary_factor'], defaultPart: config.number(['partial_rotary_factor']) }
        : {},
      windowTokens: () => 0,
      feedForward: readFeedForwards(config, isSecond ? sigmoidGroups : softmaxOfAll),
    });
    return renamed(model, readGroupedHeads(config, H), H);
  },
};

function refuseOthers(config: ConfigReader): void {
  config.refuseUnless(true, 'use_rmsnorm');
  config.refuseUnless(false, 'use_bias', 'norm_head', 'multi_gate', 'use_sliding_window', 'use_mla');
  config.refuseUnless(null, 'layer_group_size', 'rotary_dim', 'q_lora_rank');
  const score = config.text(['score_function'], 'softmax');
  if (score !== 'softmax' && score !== 'sigmoid')
    throw config.unsupported('score_function', score, 'softmax, sigmoid');
  config.refuseUnless(score === 'sigmoid', 'moe_router_enable_expert_bias');
}

interface LingRouter {
  readonly rule: RouteRule;
  readonly hasBias: boolean;
}

/** DeepSeek-V3's router. Its groups and factor have no default that all agree on. */
function sigmoidGroups(config: ConfigReader): LingRouter {
  const experts = config.count(['num_experts']);
  const groups = [config.count(['n_group']), config.count(['topk_group'])] as const;
  const scale = config.number(['routed_scaling_factor']);
  // One alone is not normalised whatever the configuration says.
  const normalized = config.count(['num_experts_per_tok']) > 1;
  config.refuseUnless(normalized, 'norm_topk_prob');
  return { rule: deepseekRule(config, experts, { normalized, groups, scale }), hasBias: true };
}

function softmaxOfAll(config: ConfigReader): LingRouter {
  config.refuseUnless(1, 'n_group', 'topk_group', 'routed_scaling_factor');
  return { rule: softmaxRule(config, true), hasBias: false };
}

function readFeedForwards(
  config: ConfigReader,
  readRouter: (config: ConfigReader) => LingRouter,
): (blockIndex: number) => FeedForward {
  const I = config.count(['moe_intermediate_size']);
  const { expertCount, chosen } = readChoices(config, { experts: 64, chosen: 6 });
  const { rule, hasBias } = readRouter(config);
  checkGroups(config, rule, { expertCount, chosen });
  return sharedExperts(config, {
    I,
    expertCount,
    router: {
      names: ['mlp.gate.weight'],
      chosen,
      rule,
      ...(hasBias ? { bias: { names: ['mlp.gate.expert_bias', 'mlp.gate.e_score_correction_bias'] } } : {}),
    },
    sharedI:
      config.number(['num_shared_experts'], 0) * config.count(['moe_shared_expert_intermediate_size'], I),
    isSparse: afterDenseLayers(config, 0),
  });
}

const [QUERY_NORM, KEY_NORM] = QUERY_KEY_NORMS;
const NAMES: Readonly<Record<string, string>> = {
  'embed_tokens.weight': 'word_embeddings.weight',
  'self_attn.o_proj.weight': 'attention.dense.weight',
  [`${QUERY_NORM}.weight`]: 'attention.query_layernorm.weight',
  [`${KEY_NORM}.weight`]: 'attention.key_layernorm.weight',
};

/** Llama's tensors as Ling's files have them: queries, keys and values are the rows of one. */
function renamed(model: ArchitectureModel, { nHeads, nKv, D }: GroupedHeads, H: number): ArchitectureModel {
  const rows = { q: 0, k: nHeads * D, v: (nHeads + nKv) * D, all: (nHeads + 2 * nKv) * D };
  const named = <T extends TensorDef>(def: T): T => {
    const path = def.name.slice(0, def.name.length - def.key.length);
    const [, part, kind] = /^self_attn\.([qkv])_proj\.(weight|bias)$/.exec(def.key) ?? [];
    const other = NAMES[def.key];
    if (other !== undefined) return { ...def, name: path + other };
    if (part !== 'q' && part !== 'k' && part !== 'v') return def;
    const isMatrix = kind === 'weight';
    const whole = {
      name: `${path}attention.query_key_value.${kind}`,
      shape: isMatrix ? [rows.all, H] : [rows.all],
      firstElement: rows[part] * (isMatrix ? H : 1),
    };
    return { ...def, name: `${path}attention.${part}_proj.${kind}`, elsewhere: [whole] };
  };
  return {
    ...model,
    tables: model.tables.map((table) => ({ ...table, name: NAMES[table.name] ?? table.name })),
    block: (index) => model.block(index).map(named),
  };
}
