// Operands of expert_linear as its kernels take them.
#pragma once
#include "cuda/fault.h"
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {

/// What a launch takes by value; a layer with more experts is refused.
constexpr int kMostExperts = 1024;

/// One [N, K] matrix per expert, all alike.
struct ExpertWeights {
  const uint8_t* data[kMostExperts];
  int64_t stride, outputs, inputs;

  ExpertWeights() = default;
  explicit ExpertWeights(const DenseExpertLinearOp& op)
      : stride(op.weight.strides[0]), outputs(op.weight.shape[0]), inputs(op.weight.shape[1]) {
    for (int64_t e = 0; e < op.expert_count; ++e) data[e] = op.weights[e];
  }
  template <class W>
  __device__ const W* Row(int expert, int64_t row) const {
    return reinterpret_cast<const W*>(data[expert]) + row * stride;
  }
};

/// The expert of every choice, in rows of as many choices as a token has.
struct ChoiceTable {
  const int32_t* experts;
  int64_t stride, each, count;
  int expert_count;
  Fault* fault;

  ChoiceTable() = default;
  ChoiceTable(const DenseExpertLinearOp& op, Fault* to)
      : experts(reinterpret_cast<const int32_t*>(op.experts.data)),
        stride(op.experts.strides[0]),
        each(op.experts.shape[1]),
        count(op.out.shape[0]),
        expert_count(static_cast<int>(op.expert_count)),
        fault(to) {}
  /// -1 where there is no such expert.
  __device__ int Expert(int64_t choice) const {
    const int expert = At(choice);
    return expert >= 0 && expert < expert_count ? expert : -1;
  }
  __device__ void ReportOutside(int64_t choice) const { Report(fault, kExpertOutside, choice, At(choice), expert_count); }

 private:
  __device__ int At(int64_t choice) const {
    return stride == each ? experts[choice] : experts[choice / each * stride + choice % each];
  }
};

/// A row of x is one choice's own, or all choices of a token read it.
inline int64_t ChoicesPerRow(const DenseExpertLinearOp& op) {
  return op.x.shape[0] == op.out.shape[0] ? 1 : op.experts.shape[1];
}

}  // namespace zi::cuda
