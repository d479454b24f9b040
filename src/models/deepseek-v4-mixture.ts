// DeepSeek-V4's mixtures: gates and what they multiply end at a limit, and in the first layers a table says which experts a token
// goes to, whose scores then only weigh them.

import {
  type ForwardOps,
  PLAIN_ROUTE,
  type RouteScore,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import { type ConfigReader, named } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { TensorDef } from './architecture.js';
import { spelt, speltVector } from './deepseek-v4-names.js';
import { chooseExperts, type ExpertNames, readChoices, routedExperts } from './mixture.js';
import { TINY } from './routers.js';

export interface HashedMixture {
  /** Some layer chooses by tokens. */
  readonly readsTokens: boolean;
  tensors(blockIndex: number, path: string): readonly TensorDef[];
  /** [T, H] f32, of normed [T, H]. */
  result(k: ForwardOps, w: Weights, normed: Tensor, blockIndex: number): Tensor;
}

const EXPERTS: ExpertNames = {
  gate: (e) => `ffn.experts.${e}.w1.weight`,
  up: (e) => `ffn.experts.${e}.w3.weight`,
  down: (e) => `ffn.experts.${e}.w2.weight`,
  fused: ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'],
};
const SHARED = 'ffn.shared_experts';
const GATE = 'ffn.gate.weight';
const BIAS = 'ffn.gate.bias';
const TABLE = 'ffn.gate.tid2eid';

const SCORES: Readonly<Record<string, RouteScore>> = {
  sqrtsoftplus: 'sqrt_softplus',
  sigmoid: 'sigmoid',
};

export function readHashedMixture(
  config: ConfigReader,
  { H, V, blockCount }: { readonly H: number; readonly V: number; readonly blockCount: number },
): HashedMixture {
  const I = config.count(['moe_intermediate_size'], 2048);
  const { expertCount, chosen } = readChoices(config, { experts: 256, chosen: 6 });
  // There is one, whose size is that of the others, whatever the configuration says.
  config.refuseUnless(1, 'n_shared_experts');
  config.refuseUnless(true, 'norm_topk_prob');
  config.refuseUnless('noaux_tc', 'topk_method');
  config.refuseUnless(1, 'n_group', 'topk_group');
  const activation = readActivation(config, ['hidden_act'], 'silu');
  const limit = config.number(['swiglu_limit'], 10);
  if (limit <= 0) throw config.unsupported('swiglu_limit', limit, 'numbers above 0');
  const limits = { limit, limitAfter: false };
  const method = config.text(['scoring_func'], 'sqrtsoftplus');
  const score = named(SCORES, method);
  if (!score) throw config.unsupported('scoring_func', method, Object.keys(SCORES).join(', '));
  const scale = config.number(['routed_scaling_factor'], 1.5);
  const rule = { ...PLAIN_ROUTE, score, normalize: true, addedToSum: TINY, scale };
  const hashed = readHashedLayers(config, blockCount);
  const experts = routedExperts({ H, I, expertCount, activation, limits, names: EXPERTS });
  const router = { names: [GATE], chosen, rule };
  return {
    readsTokens: hashed.includes(true),
    tensors: (index, path) => [
      { ...spelt(path, GATE, [expertCount, H]), isRouter: true },
      hashed[index]
        ? { ...spelt(path, TABLE, [V, chosen]), integersBelow: expertCount }
        : speltVector(path, BIAS, [expertCount]),
      spelt(path, `${SHARED}.w1.weight`, [I, H]),
      spelt(path, `${SHARED}.w3.weight`, [I, H]),
      spelt(path, `${SHARED}.w2.weight`, [H, I]),
      ...experts.tensors(path),
    ],
    result(k, w, normed, index) {
      const routing = hashed[index]
        ? chooseExperts(k, w, normed, { router, expertCount, named: { table: w(TABLE), rows: k.tokens() } })
        : chooseExperts(k, w, normed, { router: { ...router, bias: { names: [BIAS] } }, expertCount });
      const [gate, up] = ['w1', 'w3'].map((name) => k.linear(normed, w.matrix(`${SHARED}.${name}.weight`))); // [T, I]
      const inner = k.gated(gate as Tensor, up as Tensor, activation, limits);
      const y = k.linear(inner, w.matrix(`${SHARED}.w2.weight`), {}, k.floats(normed.shape));
      return experts.result(k, w, normed, { routing, addTo: y });
    },
  };
}

/** `mlp_layer_types` where they are listed, otherwise the first `num_hash_layers`. */
function readHashedLayers(config: ConfigReader, blockCount: number): boolean[] {
  const listed = config.optionalTexts(['mlp_layer_types'], blockCount);
  const first = config.number(['num_hash_layers'], 3);
  return Array.from({ length: blockCount }, (_, index) => {
    const type = listed?.[index] ?? (index < first ? 'hash_moe' : 'moe');
    if (type === 'hash_moe' || type === 'moe') return type === 'hash_moe';
    throw config.unsupported('mlp_layer_types', type, 'hash_moe, moe');
  });
}
