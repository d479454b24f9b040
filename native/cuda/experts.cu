// expert_linear: every choice reads the rows of its own expert.
#include <algorithm>

#include "cuda/dot.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

/// What a launch takes by value; a layer with more experts is refused.
constexpr int kMostExperts = 1024;

struct ExpertArguments {
  const uint8_t* weights[kMostExperts];
  int64_t weight_stride, outputs, inputs;
  RowView x;
  int64_t x_stride, x_each;  // choices that share a row of x
  const int32_t* experts;
  int64_t experts_stride, each, expert_count;
  RowView out;
  int64_t choices;
  bool aligned;
  Fault* fault;
};

template <class W, class X>
__global__ void __launch_bounds__(kDotThreads) Experts(const __grid_constant__ ExpertArguments a) {
  Begin();
  __shared__ float sums[kDotRows];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kDotRows;
  for (int64_t choice = blockIdx.y; choice < a.choices; choice += gridDim.y) {
    const int64_t expert = a.experts[choice / a.each * a.experts_stride + choice % a.each];
    if (expert < 0 || expert >= a.expert_count) {
      if (threadIdx.x == 0) Report(a.fault, kExpertOutside, choice, expert, a.expert_count);
      continue;
    }
    const W* rows[kDotRows];
#pragma unroll
    for (int r = 0; r < kDotRows; ++r) {
      const int64_t row = first + r < a.outputs ? first + r : a.outputs - 1;
      rows[r] = reinterpret_cast<const W*>(a.weights[expert]) + row * a.weight_stride;
    }
    DotRows<W, X, 1>(rows, a.x.Row<X>(choice / a.x_each), a.x_stride, a.inputs, a.aligned, sums);
    if (threadIdx.x < kDotRows && first + threadIdx.x < a.outputs) {
      a.out.Put(choice, first + threadIdx.x, sums[threadIdx.x]);
    }
    __syncthreads();
  }
}

}  // namespace

void Launch(const ExpertLinearOp& op, Run& run) {
  if (op.expert_count > kMostExperts) throw std::runtime_error("more than 1024 experts");
  if (op.out.shape[0] == 0 || op.weight.shape[0] == 0) return;
  ExpertArguments a{};
  a.weight_stride = op.weight.strides[0];
  a.outputs = op.weight.shape[0];
  a.inputs = op.weight.shape[1];
  const bool same = op.x.dtype == op.weight.dtype;
  const View x = same || op.x.dtype == DType::kF32 ? op.x : ConvertInputs(op.x, DType::kF32, run);
  a.x = RowView(x);
  a.x_stride = x.strides[0];
  a.x_each = op.x.shape[0] == op.out.shape[0] ? 1 : op.experts.shape[1];
  a.experts = reinterpret_cast<const int32_t*>(op.experts.data);
  a.experts_stride = op.experts.strides[0];
  a.each = op.experts.shape[1];
  a.expert_count = op.expert_count;
  a.out = RowView(op.out);
  a.choices = op.out.shape[0];
  a.aligned = RowsAligned(x, 16);
  a.fault = run.fault;
  for (int64_t e = 0; e < op.expert_count; ++e) {
    View weight = op.weight;
    weight.data = const_cast<uint8_t*>(op.weights[e]);
    a.weights[e] = op.weights[e];
    a.aligned = a.aligned && RowsAligned(weight, 16);
  }
  const dim3 grid(Blocks(a.outputs, kDotRows), Blocks(a.choices, 1, kMostGridRows));
  const auto launch = [&](auto kernel) { Overlapped(kernel, grid, kDotThreads, run, a); };
  switch (op.weight.dtype) {
    case DType::kF16:
      return same ? launch(Experts<__half, __half>) : launch(Experts<__half, float>);
    case DType::kBF16:
      return same ? launch(Experts<__nv_bfloat16, __nv_bfloat16>) : launch(Experts<__nv_bfloat16, float>);
    default:
      return launch(Experts<float, float>);
  }
}

}  // namespace zi::cuda
