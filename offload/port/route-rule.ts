// How a mixture of experts chooses, as numbers that kernels of every device take.

export type RouteScore = 'softmax' | 'sigmoid' | 'sqrt_softplus';

/**
 * How a mixture chooses experts of logits, and weighs them. s are the scores of a row's logits, c = s + bias.
 *
 * - The k experts of largest c are chosen, largest first, the lowest expert first in a tie. With groups, which are runs of
 *   experts, only those of the `groupsKept` best groups are: of those with the largest sum of their `groupBest` largest c.
 *   Without bias and groups it is the logits that are compared, which have the same order and never become equal.
 * - An expert weighs its s, without the bias: with `normalize` over (max(sum, leastSum) + addedToSum) of the chosen ones' sum, then
 *   times `scale`, and times its own expertScale where there are such. So a softmax over the chosen logits is
 *   a normalised softmax.
 * - With sparseMixer > 0 (Liu et al. 2024) nothing of that holds but the order: of the experts that are left, m the largest logit, the
 *   best weighs its part of a softmax over those with (m − logit) / max(|logit|, m) of at most sparseMixer; the next is
 *   the best of those left, and so on.
 */
export interface RouteRule {
  readonly score: RouteScore;
  readonly groups: number;
  readonly groupsKept: number;
  /** 1 or 2. */
  readonly groupBest: number;
  readonly normalize: boolean;
  readonly addedToSum: number;
  readonly leastSum: number;
  readonly scale: number;
  readonly sparseMixer: number;
}

/** The k likeliest, weighing what they have of a softmax over all. */
export const PLAIN_ROUTE: RouteRule = {
  score: 'softmax',
  groups: 1,
  groupsKept: 1,
  groupBest: 1,
  normalize: false,
  addedToSum: 0,
  leastSum: 0,
  scale: 1,
  sparseMixer: 0,
};
