// route: which experts of a mixture each token goes to, and how much each of them counts.
#pragma once
#include "cpu/kernel_reduce.h"

namespace zi::ZI_ISA {

/// What a router makes of a row's logits, in f64. `total` counts in units of what the largest logit weighs.
struct ExpertScores {
  RouteScore score;
  double maximum, total;

  double operator()(float logit) const {
    const double x = static_cast<double>(logit);
    switch (score) {
      case RouteScore::kSoftmax:
        return __builtin_exp(x - maximum) / total;
      case RouteScore::kSigmoid:
        return 1 / (1 + __builtin_exp(-x));
      case RouteScore::kSqrtSoftplus:
        return __builtin_sqrt(x > 20 ? x : __builtin_log1p(__builtin_exp(x)));
    }
    FailOp("%d is no score of experts", static_cast<int>(score));
  }
};

inline float ValueAt(const View& vector, int64_t i) {
  float lanes[kWidth];
  WithType(vector.dtype, [&]<class W>(W) { Store(lanes, LoadUpTo<W>(vector.data + i * W::kBytes, 1)); });
  return lanes[0];
}

/// The best of `values` that come after `before` in the order of falling value and rising place, so nothing has to be
/// marked; -1 before the first.
inline int64_t NextBest(const float* values, int64_t count, int64_t before) {
  int64_t best = -1;
  for (int64_t i = 0; i < count; ++i) {
    const bool after = before < 0 || values[i] < values[before] || (values[i] == values[before] && i > before);
    if (after && (best < 0 || values[i] > values[best])) best = i;
  }
  return best;
}

/// Experts of all but the best groups become −inf in `order`; `groups` has room for every group.
inline void KeepGroups(const RouteOp& op, float* order, int64_t experts, float* groups) {
  const int64_t size = experts / op.groups;
  for (int64_t g = 0; g < op.groups; ++g) {
    const float* in = order + g * size;
    const int64_t first = NextBest(in, size, -1);
    groups[g] = in[first];
    if (op.group_best > 1) groups[g] += in[NextBest(in, size, first)];
  }
  int64_t last = -1;
  for (int64_t kept = 0; kept < op.groups_kept; ++kept) last = NextBest(groups, op.groups, last);
  for (int64_t g = 0; g < op.groups; ++g) {
    if (groups[g] > groups[last] || (groups[g] == groups[last] && g <= last)) continue;
    for (int64_t i = g * size; i < (g + 1) * size; ++i) order[i] = -__builtin_inff();
  }
}

/// Each of two experts in turn is the best of those left, and weighs what it has of a softmax over those near it.
inline void MixSparsely(const RouteOp& op, const float* logits, int64_t experts, int32_t* chosen, float* weights) {
  for (int64_t j = 0, before = -1; j < op.experts.shape[1]; ++j) {
    const int64_t best = NextBest(logits, experts, before);
    const float most = logits[best];
    double total = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const bool taken = logits[e] > most || (logits[e] == most && e < best);
      const float factor = __builtin_fmaxf(__builtin_fabsf(logits[e]), most);
      if (taken || (most - logits[e]) / factor > op.sparse_mixer) continue;
      total += __builtin_exp(static_cast<double>(logits[e]) - static_cast<double>(most));
    }
    chosen[j] = static_cast<int32_t>(best);
    weights[j] = static_cast<float>(1 / total);
    before = best;
  }
}

/// A token's experts by the table's row, each in some words of which the first says it. A file may have them at any address.
inline void ReadNamed(const RouteOp& op, int64_t t, int32_t* chosen) {
  const int32_t row = Int(op.rows, t);
  if (row < 0 || row >= op.table.shape[0]) FailOp("row %d of token %ld is none of %ld", row, t, op.table.shape[0]);
  const int64_t choices = op.experts.shape[1], width = op.table.shape[1] / choices;
  for (int64_t j = 0; j < choices; ++j) {
    const int64_t at = row * op.table.strides[0] + j * width;
    std::memcpy(&chosen[j], op.table.data + at * static_cast<int64_t>(sizeof(int32_t)), sizeof(int32_t));
    if (chosen[j] < 0 || chosen[j] >= op.logits.shape[1]) {
      FailOp("expert %d of token %ld is none of %ld", chosen[j], t, op.logits.shape[1]);
    }
  }
}

/// What experts are chosen by, or null where the row's own logits are: without bias and groups they have the order of the
/// scores, and do not become equal where scores are near one.
inline float* ChosenBy(const RouteOp& op, const float* logits, const ExpertScores& score) {
  const int64_t experts = op.logits.shape[1];
  float* order = static_cast<float*>(Scratch(ScratchUse::kTile, static_cast<size_t>(experts + op.groups) * sizeof(float)));
  for (int64_t e = 0; e < experts; ++e) {
    order[e] = static_cast<float>(score(logits[e]));
    if (op.bias.data) order[e] += ValueAt(op.bias, e);
  }
  if (FiniteMaximum(order, experts) != FiniteMaximum(order, experts)) return nullptr;
  if (op.groups > 1) KeepGroups(op, order, experts, order + experts);
  return order;
}

inline void RouteRow(const RouteOp& op, int64_t t) {
  const int64_t experts = op.logits.shape[1], choices = op.experts.shape[1];
  const float* logits = Row(op.logits, t);
  int32_t* chosen = reinterpret_cast<int32_t*>(op.experts.data) + t * op.experts.strides[0];
  float* weights = Row(op.weights, t);
  const auto say_nothing = [&] {
    for (int64_t j = 0; j < choices; ++j) {
      chosen[j] = static_cast<int32_t>(j);
      weights[j] = __builtin_nanf("");
    }
  };
  const float maximum = FiniteMaximum(logits, experts);
  if (maximum != maximum) return say_nothing();
  if (op.sparse_mixer > 0) return MixSparsely(op, logits, experts, chosen, weights);
  ExpertScores score{op.score, static_cast<double>(maximum), 1};
  const bool ordered_by_score = op.bias.data || op.groups > 1;
  // The sum of all cancels where weights are divided by that of the chosen ones, and nothing else is asked of it.
  const bool cancels = op.normalize && op.least_sum == 0 && op.added_to_sum == 0 && !ordered_by_score;
  if (op.score == RouteScore::kSoftmax && !cancels) score.total = SumExp(logits, experts, maximum);
  const float* order = logits;
  if (op.table.data) {
    ReadNamed(op, t, chosen);
  } else {
    if (ordered_by_score) order = ChosenBy(op, logits, score);
    if (!order) return say_nothing();
    for (int64_t j = 0, before = -1; j < choices; ++j) {
      before = NextBest(order, experts, before);
      chosen[j] = static_cast<int32_t>(before);
    }
  }
  double sum = 0;
  for (int64_t j = 0; j < choices; ++j) sum += score(logits[chosen[j]]);
  const double least = static_cast<double>(op.least_sum);
  const double divisor = op.normalize ? (sum > least ? sum : least) + static_cast<double>(op.added_to_sum) : 1;
  for (int64_t j = 0; j < choices; ++j) {
    double weight = score(logits[chosen[j]]) / divisor * static_cast<double>(op.scale);
    if (op.expert_scale.data) weight *= static_cast<double>(ValueAt(op.expert_scale, chosen[j]));
    weights[j] = static_cast<float>(weight);
  }
}

inline void RouteKernel(const RouteOp& op, Run& run) {
  const int64_t work = op.logits.shape[1] * (op.experts.shape[1] + 1) * (op.bias.data || op.groups > 1 ? 4 : 1);
  ForEach(run, op.logits.shape[0], work, [&](int64_t t) { RouteRow(op, t); });
}

}  // namespace zi::ZI_ISA
