// Nemotron 3's mixture (NVIDIA 2025): DeepSeek-V3's router, experts without a gate, which may work on fewer dimensions than the model,
// and one that every token goes to.

import type { Activation, ForwardOps, Tensor, Weights } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type TensorDef, tensorsUnder } from './architecture.js';
import { project } from './decoder-parts.js';
import type { Mixer } from './mixer.js';
import { chooseExperts, readChoices } from './mixture.js';
import { checkGroups, deepseekRule } from './routers.js';

interface Shared {
  /** Hidden size. */
  readonly H: number;
  readonly activation: Activation;
  /** Everything but the experts has biases. */
  readonly bias: boolean;
}

/** Throws BAD_CONFIG or UNSUPPORTED. */
export function readMixture(config: ConfigReader, { H, activation, bias }: Shared): Mixer {
  const { expertCount, chosen } = readChoices(config, { experts: 8, chosen: 2 });
  // Without a gate, the square of what is positive is what a ReLU's gate does to itself.
  if (activation !== 'relu2') {
    throw config.unsupported('mlp_hidden_act', config.raw('mlp_hidden_act'), 'relu2 where there are experts');
  }
  const I = config.count(['moe_intermediate_size'], 7688);
  const sharedInner = config.count(['moe_shared_expert_intermediate_size'], 7688);
  const latent = config.optionalCount(['moe_latent_size']);
  const D = latent ?? H;
  const rule = deepseekRule(config, expertCount, { normalized: true });
  checkGroups(config, rule, { expertCount, chosen });
  const router = {
    names: ['mixer.gate.weight'],
    chosen,
    rule,
    bias: { names: ['mixer.gate.e_score_correction_bias'] },
  };
  const experts = Array.from({ length: expertCount }, (_, e) => e);
  const keys = (part: string) => experts.map((e) => `mixer.experts.${e}.${part}.weight`);
  const [ups, downs] = [keys('up_proj'), keys('down_proj')];
  const routed = (k: ForwardOps, w: Weights, normed: Tensor, x: Tensor) => {
    const routing = chooseExperts(k, w, normed, { router, expertCount }); // [T, chosen]
    const entering = latent === undefined ? normed : project(k, w, normed, 'mixer.fc1_latent_proj'); // [T, D]
    const up = k.expertLinear(entering, routing, w.experts(ups)); // [T · chosen, I]
    const outer = k.expertLinear(k.gated(up, up, 'relu'), routing, w.experts(downs)); // [T · chosen, D]
    if (latent === undefined) k.combine(outer, routing, { addTo: x });
    else project(k, w, k.combine(outer, routing), 'mixer.fc2_latent_proj', x);
  };
  return {
    tensors: (path) => [
      { key: 'mixer.gate.weight', name: `${path}mixer.gate.weight`, shape: [expertCount, H], isRouter: true },
      ...tensorsUnder(path, {
        'mixer.gate.e_score_correction_bias': [expertCount],
        ...projections(H, sharedInner, bias),
        'mixer.fc1_latent_proj.weight': latent ? [latent, H] : undefined,
        'mixer.fc1_latent_proj.bias': bias && latent ? [latent] : undefined,
        'mixer.fc2_latent_proj.weight': latent ? [H, latent] : undefined,
        'mixer.fc2_latent_proj.bias': bias && latent ? [H] : undefined,
      }),
      ...experts.flatMap((e) => [
        expertTensor(path, { e, part: 'up_proj', shape: [I, D], expertCount }),
        expertTensor(path, { e, part: 'down_proj', shape: [D, I], expertCount }),
      ]),
    ],
    cache: { kind: 'none' },
    add(k, w, norm, x) {
      // Not rounded: where two experts are nearly even, that would turn the choice.
      const normed = norm(k.floats(x.shape)); // [T, H]
      const shared = k.linear(normed, w.matrix('mixer.shared_experts.up_proj.weight'), {
        bias: w.optional('mixer.shared_experts.up_proj.bias'),
        activation,
      }); // [T, shared inner]
      project(k, w, shared, 'mixer.shared_experts.down_proj', x);
      routed(k, w, normed, x);
    },
  };
}

function projections(H: number, I: number, bias: boolean) {
  return {
    'mixer.shared_experts.up_proj.weight': [I, H],
    'mixer.shared_experts.up_proj.bias': bias ? [I] : undefined,
    'mixer.shared_experts.down_proj.weight': [H, I],
    'mixer.shared_experts.down_proj.bias': bias ? [H] : undefined,
  };
}

interface ExpertPart {
  readonly e: number;
  readonly part: string;
  readonly shape: readonly [number, number];
  readonly expertCount: number;
}

/** By itself, or within one tensor of all experts. */
function expertTensor(path: string, { e, part, shape, expertCount }: ExpertPart): TensorDef {
  const key = `mixer.experts.${e}.${part}.weight`;
  const all = [expertCount, ...shape];
  const firstElement = e * shape[0] * shape[1];
  return {
    key,
    name: `${path}${key}`,
    shape,
    elsewhere: [{ name: `${path}mixer.experts.${part}`, shape: all, firstElement }],
  };
}
