// gated_rms: half a warp to a block per row, whose values stay in registers where rows are aligned and not too long.
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

/// Sum over neighbouring threads of a warp that have a row, or over the block.
template <int kRowThreads>
__device__ float RowSum(float value, float* shared) {
  if constexpr (kRowThreads > 32) {
    return BlockSum(value, shared);
  } else {
    for (int offset = kRowThreads / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
  }
}

/// The same of rows that are read once, up to kGroups times eight neighbours a thread.
template <int kRowThreads, int kGroups>
__global__ void __launch_bounds__(kThreads) GatedNormInRegisters(const __grid_constant__ GatedNormArguments a) {
  Begin();
  __shared__ float shared[32];
  const int lane = threadIdx.x % kRowThreads, length = static_cast<int>(a.length);
  const int64_t place = static_cast<int64_t>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  // Threads beyond the last row go along: others of their warp may need them.
  const int64_t row = min(place, a.rows - 1);
  float values[kGroups][8], gates[kGroups][8], squares = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int i = (g * kRowThreads + lane) * 8;
    if (i >= length) break;
    a.x.GetEight(row, i, values[g]);
    a.gate.GetEight(row, i, gates[g]);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      gates[g][j] *= Sigmoid(gates[g][j]);
      if (a.gate_first) values[g][j] *= gates[g][j];
      squares = fmaf(values[g][j], values[g][j], squares);
    }
  }
  squares = RowSum<kRowThreads>(squares, shared);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(length) + a.eps);
  if (place >= a.rows) return;
  const int64_t first_weight = row % a.weight_groups * length;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int i = (g * kRowThreads + lane) * 8;
    if (i >= length) break;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float normal = values[g][j] * inverse * a.weight.At(first_weight + i + j);
      values[g][j] = a.gate_first ? normal : normal * gates[g][j];
    }
    a.out.PutEight(row, i, values[g]);
  }
}

}  // namespace

void Launch(const GatedRmsOp& op, Run& run) {
  const int64_t length = RowLength(op.x), rows = RowCount(op.x);
  if (rows == 0 || length == 0) return;
  const int64_t groups = op.weight.shape[0] == length ? 1 : op.weight.shape[0] / length;
  const GatedNormArguments a{RowView(op.out), RowView(op.x), RowView(op.gate), WeightVector(op.weight), groups, op.eps,
                             op.gate_first,   rows,          length};
  const auto launch = [&](auto kernel, int row_threads) {
    Overlapped(kernel, Blocks(rows, kThreads / row_threads), kThreads, run, a);
  };
  if (length % 8 == 0 && RowsAligned(op.out, 16) && RowsAligned(op.x, 16) && RowsAligned(op.gate, 16)) {
    if (length <= 16 * 8) return launch(GatedNormInRegisters<16, 1>, 16);
    if (length <= 32 * 8 * 2) return launch(GatedNormInRegisters<32, 2>, 32);
    if (length <= kThreads * 8 * 4) return launch(GatedNormInRegisters<kThreads, 4>, kThreads);
  }
  if (length <= kWarpLength) return launch(GatedNorm<32>, 32);
  launch(GatedNorm<kThreads>, kThreads);
}

}  // namespace zi::cuda
