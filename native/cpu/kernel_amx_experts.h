// expert_linear on tiles of AMX: the choices of an expert are the columns of its products.
#pragma once
#include "cpu/kernel_amx.h"
#include "cpu/kernel_experts.h"

namespace zi::amx {

/// Weights of all experts with values of bf16, and the source of one.
struct DenseTileExperts {
  View first;
  const uint8_t* const* places;
  template <class F>
  void Of(int64_t expert, F f) const {
    View weight = first;
    weight.data = const_cast<uint8_t*>(places[expert]);
    f(DenseTiles{{weight}});
  }
};
struct StoredTileExperts {
  const ExpertLinearOp& op;
  template <class F>
  void Of(int64_t expert, F f) const {
    f(StoredTiles{WeightOf(op, expert)});
  }
};

/// Choices [first, first + choices): sorted by expert, their inputs packed group by group, then one loop over all panels of all
/// experts that are used.
template <class Experts>
inline void AmxExpertSlice(const ExpertLinearOp& op, const Experts& experts, int64_t first, int64_t choices, int64_t parts, Run& run) {
  const int64_t inputs = op.x.shape[1], steps = StepsOf(inputs), outputs = op.weight.outputs;
  const int64_t each = op.x.shape[0] == op.out.shape[0] ? 1 : op.experts.shape[1];
  const int64_t group_bytes = op.expert_count * int64_t{sizeof(ExpertGroup)};
  const int64_t order_bytes = RoundUp(choices * int64_t{sizeof(int32_t)}, 64);
  const int64_t place_bytes = op.expert_count * int64_t{sizeof(int64_t)};
  const int64_t head_bytes = RoundUp(group_bytes + order_bytes + place_bytes, 64);
  // A group's last tile may have one token only.
  const int64_t most_words = (choices + Smaller(op.expert_count, choices) * (kTileRows - 1)) * steps * kTileRows * parts;
  const int64_t size = head_bytes + (most_words + op.expert_count * kWidth) * 4;
  uint8_t* scratch = static_cast<uint8_t*>(Scratch(ScratchUse::kOperation, static_cast<size_t>(size)));
  int64_t* places = reinterpret_cast<int64_t*>(scratch + group_bytes + order_bytes);
  uint32_t* words = reinterpret_cast<uint32_t*>(scratch + head_bytes);
  ExpertGroups sorted = GroupChoices(op, first, choices, reinterpret_cast<ExpertGroup*>(scratch),
                                     reinterpret_cast<int32_t*>(scratch + group_bytes));
  const auto columns = [&](int64_t g) { return ColumnTiles{words + places[g], sorted.groups[g].count, parts, steps}; };
  // Tasks are as small as all that is chosen wants, which is the same for every expert.
  const bool turned = !op.weight.dense() && CanBeTurned(op.weight);
  const auto tasks_of = [&](const ExpertGroup& group) {
    return TileTasks(outputs, group.count, turned, (run.pool.threads() + sorted.group_count - 1) / sorted.group_count);
  };
  sorted.task_count = 0;
  int64_t place = 0;
  for (int64_t g = 0; g < sorted.group_count; ++g) {
    ExpertGroup& group = sorted.groups[g];
    group.first_task = sorted.task_count;
    sorted.task_count += tasks_of(group).count();
    places[g] = place;
    place += ColumnWords(group.count, parts, inputs);
    PackColumns(columns(g), inputs, [&](int64_t t) { return Row(op.x, (first + sorted.order[group.first + t]) / each); }, run);
  }
  const DenseLinearOp ending{op.out, op.x, View{}, View{}, false, Activation::kNone, false};
  const int64_t work = kAmxRows * inputs / kWidth * Larger(1, choices / Larger(1, sorted.group_count)) / 2;
  ForEach(run, sorted.task_count, work, [&](int64_t task) {
    const ExpertGroup& group = sorted.OfTask(task);
    experts.Of(group.expert, [&](const auto& source) {
      tasks_of(group).Do(source, columns(&group - sorted.groups), task - group.first_task,
                         [&](int64_t t, int64_t row, int64_t rows, const float* sums) {
                           FinishRow(ending, first + sorted.order[group.first + t], row, rows, sums);
                         });
    });
  });
}

template <class Experts>
inline void AmxExperts(const ExpertLinearOp& op, const Experts& experts, int64_t parts, Run& run) {
  const int64_t choices = op.out.shape[0], slice = SliceTokens(parts, op.x.shape[1]);
  for (int64_t first = 0; first < choices; first += slice) {
    AmxExpertSlice(op, experts, first, Smaller(slice, choices - first), parts, run);
  }
}

}  // namespace zi::amx
