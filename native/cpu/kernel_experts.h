// expert_linear, expert_bias and combine: a mixture of experts, of which each token uses a few.
#pragma once
#include "cpu/kernel_linear_stored.h"
#include "ops/mailbox.h"

namespace zi::ZI_ISA {

/// The choices that fell on one expert, and its share of the tasks.
struct ExpertGroup {
  int64_t expert, first, count, first_task;
};

/// What sorting the choices [first, first + choices) by expert gives; experts without any have no group.
struct ExpertGroups {
  ExpertGroup* groups;
  int64_t group_count, task_count;
  /// Choices by group, in their own order within each.
  int32_t* order;
  /// Rows of an expert's weight per task.
  int64_t rows = kPanelRows;

  const ExpertGroup& OfTask(int64_t task) const { return Find(&ExpertGroup::first_task, task); }
  /// That of the choice at this place of the order.
  const ExpertGroup& OfPlace(int64_t place) const { return Find(&ExpertGroup::first, place); }
  /// Choices of all groups.
  int64_t choices() const { return group_count == 0 ? 0 : groups[group_count - 1].first + groups[group_count - 1].count; }

 private:
  /// The last group whose `first` is no greater.
  const ExpertGroup& Find(int64_t ExpertGroup::*first, int64_t at) const {
    int64_t low = 0, high = group_count - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (groups[middle].*first <= at) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return groups[low];
  }
};

inline int32_t ExpertOf(const ExpertLinearOp& op, int64_t choice) {
  const int64_t each = op.experts.shape[1];
  return reinterpret_cast<const int32_t*>(op.experts.data)[choice / each * op.experts.strides[0] + choice % each];
}

/// A counting sort. `groups` has room for every expert and `order` for every choice.
inline ExpertGroups GroupChoices(const ExpertLinearOp& op, int64_t first, int64_t choices, ExpertGroup* groups,
                                 int32_t* order) {
  for (int64_t e = 0; e < op.expert_count; ++e) groups[e] = {e, 0, 0, 0};
  for (int64_t i = 0; i < choices; ++i) {
    if (const int32_t expert = ExpertOf(op, first + i); expert != kElsewhere) ++groups[expert].count;
  }
  int64_t begin = 0;
  for (int64_t e = 0; e < op.expert_count; ++e) {
    groups[e].first = begin;
    begin += groups[e].count;
  }
  for (int64_t i = 0; i < choices; ++i) {
    const int32_t expert = ExpertOf(op, first + i);
    if (expert != kElsewhere) order[groups[expert].first++] = static_cast<int32_t>(i);
  }
  int64_t used = 0;
  for (int64_t e = 0; e < op.expert_count; ++e) {
    if (groups[e].count == 0) continue;
    ExpertGroup group = groups[e];
    group.first -= group.count;  // filling moved it to the group's end
    groups[used++] = group;
  }
  return {groups, used, 0, order};
}

inline int64_t MostChoices(const ExpertGroups& sorted) {
  int64_t most = 0;
  for (int64_t g = 0; g < sorted.group_count; ++g) most = Larger(most, sorted.groups[g].count);
  return most;
}

/// Cuts the groups into tasks: so many rows of an expert's weight times blocks of its choices.
inline void CutTasks(ExpertGroups& sorted, int64_t outputs, int64_t rows) {
  sorted.rows = rows;
  sorted.task_count = 0;
  for (int64_t g = 0; g < sorted.group_count; ++g) {
    sorted.groups[g].first_task = sorted.task_count;
    sorted.task_count += (outputs + rows - 1) / rows * ((sorted.groups[g].count + kTaskTokens - 1) / kTaskTokens);
  }
}

/// The weights of all experts, [N, K] each of dense values with K counted in lanes, and those of one.
template <class W>
struct DenseExperts {
  using Inputs = W;
  View first;
  const uint8_t* const* places;
  static constexpr int64_t kLeastRows = DenseRows<W>::kLeastRows;
  int64_t order_block() const { return 0; }
  bool takes_small_tasks() const { return true; }
  template <class F>
  void Of(int64_t expert, F f) const {
    View weight = first;
    weight.data = const_cast<uint8_t*>(places[expert]);
    f(DenseRows<W>{weight});
  }
};
/// The same in any other format.
template <class Wide>
struct StoredExperts {
  using Inputs = Wide;
  const ExpertLinearOp& op;
  static constexpr int64_t kLeastRows = StoredRows<Wide>::kLeastRows;
  int64_t order_block() const { return StoredRows<Wide>{op.weight}.order_block(); }
  bool takes_small_tasks() const { return StoredRows<Wide>{op.weight}.takes_small_tasks(); }
  template <class F>
  void Of(int64_t expert, F f) const {
    f(StoredRows<Wide>{WeightOf(op, expert)});
  }
};

/// A few rows of one expert's weight for some of its choices: the tiles of `linear`, so the same bits for each row.
/// @param inputs of the task's group
template <class Experts>
inline void ExpertTask(const ExpertLinearOp& op, const Experts& experts, const ExpertGroups& sorted, int64_t first,
                       int64_t task, float* inputs) {
  const ExpertGroup& group = sorted.OfTask(task);
  const int64_t token_blocks = (group.count + kTaskTokens - 1) / kTaskTokens, local = task - group.first_task;
  const int64_t row = local / token_blocks * sorted.rows, token = local % token_blocks * kTaskTokens;
  const int64_t tokens = Smaller(kTaskTokens, group.count - token);
  const DenseLinearOp ending{op.out, op.x, View{}, View{}, false, Activation::kNone, false};
  const PackedInputs x{inputs, group.count};
  experts.Of(group.expert, [&](const auto& weight) {
    const float* sums = weight.Sums(x, {row, sorted.rows, token, tokens});
    const int64_t count = Smaller(sorted.rows, op.weight.outputs - row);
    for (int64_t t = 0; t < tokens; ++t) {
      FinishRow(ending, first + sorted.order[group.first + token + t], row, count, sums + t * kPanelRows);
    }
  });
}

/// One of several products of the same choices and inputs, whose weights are alike.
template <class Experts>
struct ExpertProduct {
  const ExpertLinearOp& op;
  Experts experts;
};

/// Choices [first, first + choices): sorted by expert, their inputs packed group by group, then one loop over all panels of all
/// experts that are used, of every product.
template <class Experts, size_t N>
inline void ExpertSlice(const ExpertProduct<Experts> (&products)[N], int64_t first, int64_t choices, Run& run) {
  using W = typename Experts::Inputs;
  const auto& [op, experts] = products[0];
  const int64_t inputs = op.x.shape[1], blocks = (inputs / W::kInputs + kDepth - 1) / kDepth;
  const int64_t each = op.x.shape[0] == op.out.shape[0] ? 1 : op.experts.shape[1];
  const int64_t row_floats = blocks * kPitch;
  const int64_t group_bytes = op.expert_count * int64_t{sizeof(ExpertGroup)};
  const int64_t head_bytes = RoundUp(group_bytes + choices * int64_t{sizeof(int32_t)}, 64);
  const int64_t size = head_bytes + choices * row_floats * int64_t{sizeof(float)};
  uint8_t* scratch = static_cast<uint8_t*>(Scratch(ScratchUse::kOperation, static_cast<size_t>(size)));
  float* packed = reinterpret_cast<float*>(scratch + head_bytes);
  ExpertGroups sorted = GroupChoices(op, first, choices, reinterpret_cast<ExpertGroup*>(scratch),
                                     reinterpret_cast<int32_t*>(scratch + group_bytes));
  const int64_t most = MostChoices(sorted), outputs = op.weight.outputs, all = outputs * sorted.group_count * int64_t{N};
  const bool small = experts.takes_small_tasks() && most <= kDirectTokens;
  CutTasks(sorted, outputs, small ? TaskRows(all, Experts::kLeastRows, 1, true, run) : kPanelRows);
  // One token that chose several takes the same inputs to all of them.
  const bool one = op.x.shape[0] == 1 && most == 1;
  const auto inputs_of = [&](const ExpertGroup& group) { return packed + (one ? 0 : group.first * row_floats); };
  // All groups share one loop: most have so few choices that a loop for each would run on one thread. Inputs may come from a device.
  ForEach(run, one ? 1 : sorted.choices(), inputs / kWidth * 4, [&, &op = op, &experts = experts](int64_t place) {
    const ExpertGroup& group = sorted.OfPlace(place);
    const PackedInputs x{inputs_of(group), group.count};
    const int64_t t = place - group.first;
    PackRow<W>(Row(op.x, (first + sorted.order[place]) / each), inputs, x, t);
    Reorder<W>(x, inputs, t, experts.order_block());
  });
  const int64_t work = TaskWork(sorted.rows, inputs, choices / Larger(1, sorted.group_count)), tasks = sorted.task_count;
  ForEach(run, tasks * int64_t{N}, work, [&](int64_t at) {
    const auto& product = products[at / tasks];
    ExpertTask(product.op, product.experts, sorted, first, at % tasks, inputs_of(sorted.OfTask(at % tasks)));
  });
}

template <class Experts, size_t N>
inline void ExpertsOf(const ExpertProduct<Experts> (&products)[N], Run& run) {
  const ExpertLinearOp& op = products[0].op;
  const int64_t choices = op.out.shape[0];
  const int64_t row_bytes = RoundUp(Larger(1, op.x.shape[1]), kDepth) * int64_t{sizeof(float)};
  const int64_t slice = Larger(kTaskTokens, kPackedBytes / row_bytes);
  for (int64_t first = 0; first < choices; first += slice) {
    ExpertSlice(products, first, Smaller(slice, choices - first), run);
  }
}

/// Indices are data: checked here, before any weight is touched.
inline void CheckExperts(const ExpertLinearOp& op) {
  const uint8_t* const* groups = op.parts[static_cast<int>(WeightPart::kGroups)];
  for (int64_t i = 0; i < op.out.shape[0]; ++i) {
    const int32_t expert = ExpertOf(op, i);
    if (expert == kElsewhere) continue;
    if (expert < 0 || expert >= op.expert_count) {
      FailOp("expert %d of choice %ld is none of %ld", expert, i, op.expert_count);
    }
    if (groups) CheckGroups(op.weight, groups[expert]);
  }
}

/// The products of ops whose weights are alike.
template <class... Ops>
inline void ExpertsKernel(Run& run, const ExpertLinearOp& op, const Ops&... others) {
  CheckExperts(op);
  (CheckExperts(others), ...);
  if (op.weight.format == WeightFormat::kDense) {
    WithProductType(DenseOf(op).weight, [&]<class W>(W, const View& weight) {
      const auto product = [&](const ExpertLinearOp& one) {
        return ExpertProduct<DenseExperts<W>>{one, {weight, DenseOf(one).weights}};
      };
      ExpertsOf({product(op), product(others)...}, run);
    });
  } else {
    WithExpandedType(op.weight, [&]<class W>(W) {
      const auto product = [](const ExpertLinearOp& one) { return ExpertProduct<StoredExperts<W>>{one, {one}}; };
      ExpertsOf({product(op), product(others)...}, run);
    });
  }
}

inline void ExpertLinearKernel(const ExpertLinearOp& op, Run& run) { ExpertsKernel(run, op); }
inline void ExpertPairKernel(const ExpertLinearOp& a, const ExpertLinearOp& b, Run& run) { ExpertsKernel(run, a, b); }

inline void ExpertBiasKernel(const ExpertBiasOp& op, Run& run) {
  const int64_t each = op.experts.shape[1], length = op.x.shape[1];
  const auto expert_of = [&](int64_t choice) {
    return reinterpret_cast<const int32_t*>(op.experts.data)[choice / each * op.experts.strides[0] + choice % each];
  };
  // Indices are data: checked here, before any row is touched.
  for (int64_t choice = 0; choice < op.x.shape[0]; ++choice) {
    const int32_t expert = expert_of(choice);
    if (expert == kElsewhere) continue;
    if (expert < 0 || expert >= op.bias.shape[0]) {
      FailOp("expert %d of choice %ld is none of %ld", expert, choice, op.bias.shape[0]);
    }
  }
  WithType(op.bias.dtype, [&]<class W>(W) {
    ForEach(run, op.x.shape[0], length / kWidth, [&](int64_t choice) {
      if (expert_of(choice) == kElsewhere) return;
      const uint8_t* bias = op.bias.data + expert_of(choice) * op.bias.strides[0] * W::kBytes;
      float* x = Row(op.x, choice);
      for (int64_t i = 0; i < length; i += kWidth) {
        const int64_t n = length - i;
        StoreUpTo(x + i, Add(LoadUpTo(x + i, n), LoadUpTo<W>(bias + i * W::kBytes, n)), n);
      }
    });
  });
}

inline void CombineKernel(const CombineOp& op, Run& run) {
  const int64_t length = op.x.shape[1], each = op.y.shape[0] / Larger(1, op.x.shape[0]);
  ForEach(run, op.x.shape[0], length / kWidth * each, [&](int64_t t) {
    float* x = Row(op.x, t);
    const float* weights = op.weights.data ? Row(op.weights, t) : nullptr;
    for (int64_t i = 0; i < length; i += kWidth) {
      Vec sum = op.accumulate ? LoadUpTo(x + i, length - i) : Zero();
      for (int64_t j = 0; j < each; ++j) {
        sum = Fma(Set(weights ? weights[j] : 1.0f), LoadUpTo(Row(op.y, t * each + j) + i, length - i), sum);
      }
      StoreUpTo(x + i, sum, length - i);
    }
  });
}

}  // namespace zi::ZI_ISA
