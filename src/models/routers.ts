// How families of mixtures choose experts, from their configurations.

import { PLAIN_ROUTE, type RouteRule } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';

/** Added to a sum that chosen experts' scores are divided by, in DeepSeek-V3 and after it. */
export const TINY = 1e-20;

/** A softmax over all experts' logits; the chosen ones' parts are made to sum to one where `norm_topk_prob` says so. */
export function softmaxRule(config: ConfigReader, normalized: boolean): RouteRule {
  return { ...PLAIN_ROUTE, normalize: config.flag(['norm_topk_prob'], normalized) };
}

/**
 * DeepSeek-V3 (DeepSeek-AI 2024): sigmoids, a bias for the choice alone, experts in groups of which some are kept, and a factor
 * on the result.
 */
export function deepseekRule(
  config: ConfigReader,
  expertCount: number,
  fallback: {
    readonly normalized: boolean;
    readonly scale?: number;
    readonly groups?: readonly [number, number];
  },
): RouteRule {
  config.refuseUnless('sigmoid', 'scoring_func');
  config.refuseUnless('noaux_tc', 'topk_method');
  const [groupsBefore, keptBefore] = fallback.groups ?? [1, 1];
  const groups = config.count(['n_group'], groupsBefore);
  const groupsKept = config.count(['topk_group'], keptBefore);
  const size = config.divided(expertCount, groups, 'experts over n_group');
  if (groupsKept > groups)
    throw config.unsupported('topk_group', groupsKept, `1 to ${groups}, the number of groups`);
  if (groups > 1 && size < 2) throw config.unsupported('n_group', groups, 'groups of at least two experts');
  const normalize = config.flag(['norm_topk_prob'], fallback.normalized);
  return {
    ...PLAIN_ROUTE,
    score: 'sigmoid',
    groups,
    groupsKept,
    groupBest: groups > 1 ? 2 : 1,
    normalize,
    addedToSum: normalize ? TINY : 0,
    scale: config.number(['routed_scaling_factor'], fallback.scale ?? 1),
  };
}

/** Throws UNSUPPORTED where a token goes to more experts than the groups hold that are kept: which others it takes is chance. */
export function checkGroups(
  config: ConfigReader,
  { groups, groupsKept }: RouteRule,
  { expertCount, chosen }: { readonly expertCount: number; readonly chosen: number },
): void {
  const kept = (expertCount / groups) * groupsKept;
  if (chosen > kept)
    throw config.unsupported('num_experts_per_tok', chosen, `1 to ${kept}, the experts of topk_group groups`);
}

/** The same without groups, always normalised, with a factor of another name. */
export function sigmoidRule(scale: number, addedToSum = TINY): RouteRule {
  return { ...PLAIN_ROUTE, score: 'sigmoid', normalize: true, addedToSum, scale };
}
