// Operands of expert_linear as its kernels take them.
#pragma once
#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/fault.h"
#include "cuda/run.h"
#include "cuda/stored_weights.h"
#include "cuda/views.h"
#include "ops/mailbox.h"

namespace zi::cuda {

/// What a launch takes by value; a layer with more experts is refused.
constexpr int kMostExperts = 1024;
/// The same of parts of stored weights: 24 KiB of the 32 that a launch may take.
constexpr int kMostExpertParts = 3 * kMostExperts;

/// Where experts that lie in slots are, from the first slot on; null where each has its own place.
struct SlotTable {
  const int32_t* of = nullptr;
  int64_t bytes = 0;

  SlotTable() = default;
  template <class Op>
  explicit SlotTable(const Op& op) : of(reinterpret_cast<const int32_t*>(op.slots.data)), bytes(op.slot_bytes) {}
  __device__ int64_t Offset(int expert) const { return of[expert] * bytes; }
};

/// One [N, K] matrix per expert, all alike. An expert may have none: nothing is computed of it then.
struct ExpertWeights {
  const uint8_t* data[kMostExperts];
  int64_t stride, outputs, inputs;
  SlotTable slots;

  ExpertWeights() = default;
  explicit ExpertWeights(const DenseExpertLinearOp& op)
      : stride(op.weight.strides[0]), outputs(op.weight.shape[0]), inputs(op.weight.shape[1]), slots(op) {
    for (int64_t e = 0; e < op.place_count(); ++e) data[e] = op.weights[e];
  }
  __device__ bool Has(int expert) const { return slots.of || data[expert] != nullptr; }
  template <class W>
  __device__ const W* Row(int expert, int64_t row) const {
    const uint8_t* const at = slots.of ? data[0] + slots.Offset(expert) : data[expert];
    return reinterpret_cast<const W*>(at) + row * stride;
  }
};

/// The same of weights that are stored in parts.
struct StoredExperts {
  const uint8_t* data[kMostExpertParts];  // by part of those that there are, then by expert
  /// Like those of all, but for where their parts lie.
  StoredWeight first;
  WeightFormat format;
  int place_count;  // of each part
  int8_t place[kWeightParts];  // of a part among those that there are, or -1
  bool nested;
  SlotTable slots;
  float nested_offsets[kMostExperts];

  StoredExperts() = default;
  StoredExperts(const ExpertLinearOp& op, Fault* fault)
      : first(op.weight, fault), format(op.weight.format), place_count(static_cast<int>(op.place_count())), slots(op) {
    first.eights = first.eights && CodesAligned(op);
    nested = op.nested_offsets != nullptr;
    if (nested) std::copy_n(op.nested_offsets, op.expert_count, nested_offsets);
    int64_t count = 0;
    for (int part = 0; part < kWeightParts; ++part) {
      place[part] = -1;
      if (!op.weight.parts[part].data) continue;
      if ((count + 1) * place_count > kMostExpertParts) throw std::runtime_error("experts of more parts than a launch takes");
      const auto element = static_cast<uintptr_t>(ElementBytes(op.weight.parts[part].dtype));
      for (int64_t e = 0; e < place_count; ++e) {
        const uint8_t* const at = op.parts[part][e];
        if (reinterpret_cast<uintptr_t>(at) % element != 0) {
          throw std::invalid_argument(std::string(kWeightPartNames[part]) + " of an expert lie at no multiple of their size");
        }
        data[count * place_count + e] = at;
      }
      place[part] = static_cast<int8_t>(count++);
    }
  }
  __device__ bool Has(int) const { return true; }
  __device__ const uint8_t* Part(int expert, WeightPart part) const {
    const int at = place[static_cast<int>(part)];
    if (at < 0) return nullptr;
    return slots.of ? data[at * place_count] + slots.Offset(expert) : data[at * place_count + expert];
  }
  __device__ StoredWeight Of(int expert) const {
    StoredWeight weight = first;
#pragma unroll
    for (int part = 0; part < kWeightParts; ++part) weight.parts[part] = Part(expert, static_cast<WeightPart>(part));
    if (nested) weight.nested_offset = nested_offsets[expert];
    return weight;
  }
};

/// The expert of every choice, in rows of as many choices as a token has.
struct ChoiceTable {
  const int32_t* experts;
  int64_t stride, each, count;
  int expert_count;
  Fault* fault;
  /// Where experts lie in slots, who lies in none cannot be chosen.
  const int32_t* slots;
  int slot_count;

  ChoiceTable() = default;
  template <class Op>
  ChoiceTable(const Op& op, Fault* to)
      : experts(reinterpret_cast<const int32_t*>(op.experts.data)),
        stride(op.experts.strides[0]),
        each(op.experts.shape[1]),
        count(op.out.shape[0]),
        expert_count(static_cast<int>(op.expert_count)),
        fault(to),
        slots(reinterpret_cast<const int32_t*>(op.slots.data)),
        slot_count(static_cast<int>(op.slot_count)) {}
  /// -1 where there is no such expert.
  __device__ int Expert(int64_t choice) const {
    const int expert = At(choice);
    if (expert < 0 || expert >= expert_count) return -1;
    if (!slots) return expert;
    const int slot = slots[expert];
    return slot >= 0 && slot < slot_count ? expert : -1;
  }
  __device__ void ReportOutside(int64_t choice) const {
    const int expert = At(choice);
    if (expert == kElsewhere) return;
    const bool known = expert >= 0 && expert < expert_count;
    Report(fault, known ? kExpertInNoSlot : kExpertOutside, choice, expert, expert_count);
  }

 private:
  __device__ int At(int64_t choice) const {
    return stride == each ? experts[choice] : experts[choice / each * stride + choice % each];
  }
};

/// A row of x is one choice's own, or all choices of a token read it.
template <class Op>
int64_t ChoicesPerRow(const Op& op) {
  return op.x.shape[0] == op.out.shape[0] ? 1 : op.experts.shape[1];
}

/// Weights that are stored in parts, choice by choice.
void LaunchStoredDots(const ExpertLinearOp& op, Run& run);
/// The same on an H100 of FP4 whose values bf16 holds, where the rows of an expert follow each other; x is f32 or bf16. False
/// where it is not so: nothing is launched then.
bool LaunchFp4Streamed(const ExpertLinearOp& op, Run& run);
/// The same on any GPU of FP4 whose values bf16 holds, which one kernel reads in long pieces; x is f32 at multiples of 16 bytes.
bool IsPlainFp4(const ExpertLinearOp& op);
void LaunchFp4Dots(const ExpertLinearOp& op, const View& x, Run& run);
/// The same in tiles of one expert's choices, either as they are stored or slab by slab as values in scratch.
void LaunchExpertTiles(const ExpertLinearOp& op, const ExpertTiling& tiling, Run& run);

}  // namespace zi::cuda
