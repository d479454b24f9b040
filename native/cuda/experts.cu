// expert_linear: which way it goes, and for few choices, where every choice reads the rows of its own expert.
#include "cuda/experts.h"

#include "cuda/dot.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

struct DotArguments {
  ExpertWeights weights;
  ChoiceTable choices;
  RowView x, out;
  int64_t x_stride, x_each;  // choices that share a row of x
  bool aligned;
};

template <class W, class X>
__global__ void __launch_bounds__(kDotThreads) Dots(const __grid_constant__ DotArguments a) {
  Begin();
  __shared__ float sums[kDotRows];
  const ExpertWeights& weights = a.weights;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kDotRows;
  for (int64_t choice = blockIdx.y; choice < a.choices.count; choice += gridDim.y) {
    const int expert = a.choices.Expert(choice);
    if (expert < 0) {
      if (threadIdx.x == 0) a.choices.ReportOutside(choice);
      continue;
    }
    DenseRow<W> rows[kDotRows];
#pragma unroll
    for (int r = 0; r < kDotRows; ++r) {
      rows[r].data = weights.Row<W>(expert, first + r < weights.outputs ? first + r : weights.outputs - 1);
    }
    DotRows<X, 1>(rows, a.x.Row<X>(choice / a.x_each), a.x_stride, weights.inputs, a.aligned, sums);
    if (threadIdx.x < kDotRows && first + threadIdx.x < weights.outputs) {
      a.out.Put(choice, first + threadIdx.x, sums[threadIdx.x]);
    }
    __syncthreads();
  }
}

void LaunchDots(const DenseExpertLinearOp& op, Run& run) {
  const bool same = op.x.dtype == op.weight.dtype;
  const View x = same || op.x.dtype == DType::kF32 ? op.x : run.inputs().Convert(op.x, DType::kF32, run);
  DotArguments a{};
  a.weights = ExpertWeights(op);
  a.choices = ChoiceTable(op, run.fault());
  a.x = RowView(x);
  a.out = RowView(op.out);
  a.x_stride = x.strides[0];
  a.x_each = ChoicesPerRow(op);
  a.aligned = RowsAligned(x, 16) && WeightsAligned(op);
  const dim3 grid(Blocks(a.weights.outputs, kDotRows), Blocks(a.choices.count, 1, kMostGridRows));
  const auto launch = [&](auto kernel) { Overlapped(kernel, grid, kDotThreads, run, a); };
  switch (op.weight.dtype) {
    case DType::kF16:
      return same ? launch(Dots<__half, __half>) : launch(Dots<__half, float>);
    case DType::kBF16:
      return same ? launch(Dots<__nv_bfloat16, __nv_bfloat16>) : launch(Dots<__nv_bfloat16, float>);
    case DType::kF32:
      return launch(Dots<float, float>);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(op.weight.dtype);
}

void LaunchDense(const DenseExpertLinearOp& op, Run& run) {
  if (const auto tiling = TilingOf(op)) {
    LaunchExpertTiles(op, *tiling, run);
  } else {
    LaunchDots(op, run);
  }
}

void LaunchStored(const ExpertLinearOp& op, Run& run) {
  if (const auto tiling = TilingOf(op)) {
    LaunchExpertTiles(op, *tiling, run);
  } else {
    LaunchStoredDots(op, run);
  }
}

}  // namespace

void Launch(const ExpertLinearOp& op, Run& run) {
  if (op.expert_count > kMostExperts) throw std::runtime_error("more than 1024 experts");
  if (op.out.shape[0] == 0 || op.weight.outputs == 0) return;
  if (op.weight.format == WeightFormat::kDense) {
    LaunchDense(DenseOf(op), run);
  } else {
    LaunchStored(op, run);
  }
  run.inputs().Written(op.out);
}

}  // namespace zi::cuda
