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

/// One of several products of the same choices and inputs, whose weights are alike.
template <class Experts>
struct ExpertProduct {
  const ExpertLinearOp& op;
  Experts experts;
  /// [E, N], added to the sums; without data where there is none.
  View bias{};

  View BiasOf(int64_t expert) const {
    View row = bias;
    if (row.data) row.data += expert * bias.strides[0] * ElementBytes(bias.dtype);
    return row;
  }
};

/// Choices [first, first + choices) of up to two products, as threads take them piece by piece: first inputs are packed, group by
/// group, then rows of weights meet them. Tasks go through all panels of all experts that are used, of every product: most have so
/// few choices that a loop for each would run on one thread.
template <class Experts>
class ExpertProducts {
 public:
  using W = typename Experts::Inputs;
  /// Inputs [from, to) of a choice, counted through all of them.
  struct Piece {
    int64_t choice, from, to;
  };
  int64_t piece_count = 0, piece_work = 0, task_count = 0, task_work = 0;

  ExpertProducts(const ExpertProduct<Experts>* products, int64_t count, int64_t first, int64_t choices)
      : products_(products), count_(count), first_(first), choices_(choices) {
    const ExpertLinearOp& op = products->op;
    inputs_ = op.x.shape[1];
    blocks_ = (inputs_ / W::kInputs + kDepth - 1) / kDepth;
    each_ = op.x.shape[0] == op.out.shape[0] ? 1 : op.experts.shape[1];
  }

  /// Scratch that it works with, a multiple of 64.
  int64_t bytes() const { return GroupBytes() + choices_ * blocks_ * kPitch * int64_t{sizeof(float)}; }

  void Begin(uint8_t* scratch, const ExpertGroups& sorted, const Run& run) {
    const auto& [op, experts, bias] = *products_;
    sorted_ = sorted;
    sorted_.groups = reinterpret_cast<ExpertGroup*>(scratch);
    for (int64_t g = 0; g < sorted.group_count; ++g) sorted_.groups[g] = sorted.groups[g];
    packed_ = reinterpret_cast<float*>(scratch + GroupBytes());
    const int64_t most = MostChoices(sorted), all = op.weight.outputs * sorted.group_count * count_;
    const bool small = experts.takes_small_tasks() && most <= kDirectTokens;
    CutTasks(sorted_, op.weight.outputs, small ? TaskRows(all, Experts::kLeastRows, 1, true, run) : kPanelRows);
    task_count = sorted_.task_count * count_;
    task_work = TaskWork(sorted_.rows, inputs_, choices_ / Larger(1, sorted.group_count));
    order_block_ = experts.order_block();
    // One token that chose several takes the same inputs to all of them.
    one_ = op.x.shape[0] == 1 && most == 1;
    const int64_t rows = one_ ? Smaller(1, sorted.choices()) : sorted.choices();
    pieces_ = rows < run.pool.threads() ? Larger(1, blocks_) : 1;
    piece_count = rows * pieces_;
    piece_work = inputs_ / kWidth * 4 / pieces_;
  }

  Piece PieceOf(int64_t at) const {
    const int64_t span = (blocks_ + pieces_ - 1) / pieces_ * kDepth * W::kInputs, from = at % pieces_ * span;
    return {first_ + sorted_.order[at / pieces_], from, Smaller(from + span, inputs_)};
  }
  void Pack(int64_t at) {
    const int64_t place = at / pieces_;
    const ExpertGroup& group = sorted_.OfPlace(place);
    const auto [choice, from, to] = PieceOf(at);
    // Inputs may come from a device.
    const InputRow row{Row(products_->op.x, choice / each_), inputs_, order_block_};
    PackRow<W>(row, {InputsOf(group), group.count}, place - group.first, from, to);
  }

  /// A few rows of one expert's weight for some of its choices: the tiles of `linear`, so the same bits for each row.
  void Multiply(int64_t task) const {
    const auto& product = products_[task / sorted_.task_count];
    const ExpertLinearOp& op = product.op;
    const ExpertGroup& group = sorted_.OfTask(task % sorted_.task_count);
    const int64_t token_blocks = (group.count + kTaskTokens - 1) / kTaskTokens;
    const int64_t local = task % sorted_.task_count - group.first_task;
    const int64_t row = local / token_blocks * sorted_.rows, token = local % token_blocks * kTaskTokens;
    const int64_t tokens = Smaller(kTaskTokens, group.count - token);
    const DenseLinearOp ending{op.out, op.x, View{}, product.BiasOf(group.expert), false, Activation::kNone, false};
    const PackedInputs x{InputsOf(group), group.count};
    product.experts.Of(group.expert, [&](const auto& weight) {
      const float* sums = weight.Sums(x, {row, sorted_.rows, token, tokens});
      const int64_t count = Smaller(sorted_.rows, op.weight.outputs - row);
      for (int64_t t = 0; t < tokens; ++t) {
        FinishRow(ending, first_ + sorted_.order[group.first + token + t], row, count, sums + t * kPanelRows);
      }
    });
  }

 private:
  int64_t GroupBytes() const { return RoundUp(products_->op.expert_count * int64_t{sizeof(ExpertGroup)}, 64); }
  float* InputsOf(const ExpertGroup& group) const { return packed_ + (one_ ? 0 : group.first * blocks_ * kPitch); }

  const ExpertProduct<Experts>* products_;
  int64_t count_, first_, choices_;
  int64_t inputs_, blocks_, each_, order_block_ = 0;
  /// How many pieces each row has, so that several threads may pack one.
  int64_t pieces_ = 1;
  bool one_ = false;
  ExpertGroups sorted_{};
  float* packed_ = nullptr;
};

/// The choices of a slice by expert, in scratch of the calling thread with `more` bytes behind.
struct SortedChoices {
  ExpertGroups groups;
  uint8_t* rest;

  SortedChoices(const ExpertLinearOp& op, int64_t first, int64_t choices, int64_t more) {
    const int64_t group_bytes = op.expert_count * int64_t{sizeof(ExpertGroup)};
    const int64_t head_bytes = RoundUp(group_bytes + choices * int64_t{sizeof(int32_t)}, 64);
    uint8_t* scratch = static_cast<uint8_t*>(Scratch(ScratchUse::kOperation, static_cast<size_t>(head_bytes + more)));
    groups = GroupChoices(op, first, choices, reinterpret_cast<ExpertGroup*>(scratch),
                          reinterpret_cast<int32_t*>(scratch + group_bytes));
    rest = scratch + head_bytes;
  }
};

/// Choices whose inputs are packed at once.
inline int64_t ChoicesAtOnce(const ExpertLinearOp& op) {
  const int64_t row_bytes = RoundUp(Larger(1, op.x.shape[1]), kDepth) * int64_t{sizeof(float)};
  return Larger(kTaskTokens, kPackedBytes / row_bytes);
}

template <class Experts>
inline void ExpertsOf(const ExpertProduct<Experts>* products, int64_t count, Run& run) {
  const ExpertLinearOp& op = products->op;
  const int64_t choices = op.out.shape[0], slice = ChoicesAtOnce(op);
  for (int64_t first = 0; first < choices; first += slice) {
    const int64_t some = Smaller(slice, choices - first);
    ExpertProducts<Experts> work(products, count, first, some);
    const SortedChoices sorted(op, first, some, work.bytes());
    work.Begin(sorted.rest, sorted.groups, run);
    const auto pack = [&](int64_t at) { work.Pack(at); };
    const auto multiply = [&](int64_t task) { work.Multiply(task); };
    const ThreadPool::Phase phases[] = {PhaseOf(work.piece_count, work.piece_work, pack),
                                        PhaseOf(work.task_count, work.task_work, multiply)};
    run.pool.ParallelPhases(phases, 2, run.cancel);
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

/// Calls f with a function that makes an ExpertProduct of `op`, or of one whose weights are like its.
template <class F>
inline void WithExperts(const ExpertLinearOp& op, F f) {
  if (op.weight.format == WeightFormat::kDense) {
    WithProductType(DenseOf(op).weight, [&]<class W>(W, const View& weight) {
      f([&weight](const ExpertLinearOp& one, const View& bias) {
        return ExpertProduct<DenseExperts<W>>{one, {weight, DenseOf(one).weights}, bias};
      });
    });
  } else {
    WithExpandedType(op.weight, [&]<class W>(W) {
      f([](const ExpertLinearOp& one, const View& bias) { return ExpertProduct<StoredExperts<W>>{one, {one}, bias}; });
    });
  }
}

inline void ExpertLinearKernel(const ExpertLinearOp& op, Run& run) {
  CheckExperts(op);
  WithExperts(op, [&](auto product_of) {
    const auto product = product_of(op, View{});
    ExpertsOf(&product, 1, run);
  });
}

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
