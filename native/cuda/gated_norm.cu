// gated_rms: a warp per short row, a block per long one.
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// Up to this length a warp does a row.
constexpr int64_t kWarpLength = 512;

struct GatedNormArguments {
  RowView out, x, gate;
  WeightVector weight;
  /// Groups that have weights of their own; 1 where all share them.
  int64_t weight_groups;
  float eps;
  bool gate_first;
  int64_t rows, length;
};

template <int kRowThreads>
__global__ void GatedNorm(const GatedNormArguments a) {
  Begin();
  __shared__ float shared[32];
  const int lane = threadIdx.x % kRowThreads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= a.rows) return;  // whole warps or whole blocks
  // Finding a row takes divisions, which for every element would be most of the time.
  const int64_t from = a.x.Offset(row), gate_from = a.gate.Offset(row), to = a.out.Offset(row);
  const auto gate = [&](int64_t i) {
    const float value = GetAs(a.gate.data, a.gate.dtype, gate_from + i);
    return value * Sigmoid(value);
  };
  const auto entering = [&](int64_t i) {
    const float value = GetAs(a.x.data, a.x.dtype, from + i);
    return a.gate_first ? value * gate(i) : value;
  };
  float squares = 0;
  for (int64_t i = lane; i < a.length; i += kRowThreads) {
    const float value = entering(i);
    squares = fmaf(value, value, squares);
  }
  if constexpr (kRowThreads == 32) {
    squares = WarpSum(squares);
  } else {
    squares = BlockSum(squares, shared);
  }
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(a.length) + a.eps);
  const int64_t first_weight = row % a.weight_groups * a.length;
  for (int64_t i = lane; i < a.length; i += kRowThreads) {
    const float normal = entering(i) * inverse * a.weight.At(first_weight + i);
    PutAs(a.out.data, a.out.dtype, to + i, a.gate_first ? normal : normal * gate(i));
  }
}

}  // namespace

void Launch(const GatedRmsOp& op, Run& run) {
  const int64_t length = RowLength(op.x), rows = RowCount(op.x);
  if (rows == 0 || length == 0) return;
  const int64_t groups = op.weight.shape[0] == length ? 1 : op.weight.shape[0] / length;
  const GatedNormArguments a{RowView(op.out), RowView(op.x), RowView(op.gate), WeightVector(op.weight), groups, op.eps,
                             op.gate_first,   rows,          length};
  if (length <= kWarpLength) {
    Overlapped(GatedNorm<32>, Blocks(rows, kThreads / 32), kThreads, run, a);
  } else {
    Overlapped(GatedNorm<kThreads>, Blocks(rows, 1), kThreads, run, a);
  }
}

}  // namespace zi::cuda
