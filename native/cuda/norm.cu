// layer_norm and rms_norm: a warp per short row, a block per long one.
#include "cuda/math.h"
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// Up to this length (heads, small models) a warp does a row.
constexpr int64_t kWarpLength = 512;

/// Sum over the threads of a row: 32 of them, or the whole block.
template <int kRowThreads>
__device__ float RowSum(float value, float* shared) {
  if constexpr (kRowThreads == 32) {
    return WarpSum(value);
  } else {
    return BlockSum(value, shared);
  }
}

template <int kRowThreads, bool kCenter>
__global__ void Norm(RowView out, RowView x, WeightVector weight, WeightVector bias, float eps, float weight_offset,
                     int64_t rows, int64_t length) {
  __shared__ float shared[32];
  const int lane = threadIdx.x % kRowThreads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= rows) return;  // whole warps or whole blocks
  const float* from = x.Row(row);
  float mean = 0;
  if constexpr (kCenter) {
    float sum = 0;
    for (int64_t i = lane; i < length; i += kRowThreads) sum += from[i];
    mean = RowSum<kRowThreads>(sum, shared) / static_cast<float>(length);
  }
  float squares = 0;
  for (int64_t i = lane; i < length; i += kRowThreads) squares = fmaf(from[i] - mean, from[i] - mean, squares);
  squares = RowSum<kRowThreads>(squares, shared);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(length) + eps);
  float* to = out.Row(row);
  for (int64_t i = lane; i < length; i += kRowThreads) {
    const float value = (from[i] - mean) * inverse * (weight.At(i) + weight_offset);
    to[i] = bias.data ? value + bias.At(i) : value;
  }
}

template <bool kCenter>
void LaunchNorm(const View& out, const View& x, const View& weight, const View& bias, float eps, float offset, Run& run) {
  const int64_t rows = RowCount(x), length = RowLength(x);
  if (rows == 0 || length == 0) return;
  const RowView to(out), from(x);
  const WeightVector w(weight), b(bias);
  if (length <= kWarpLength) {
    Norm<32, kCenter><<<Blocks(rows, kThreads / 32), kThreads, 0, run.stream>>>(to, from, w, b, eps, offset, rows, length);
  } else {
    Norm<kThreads, kCenter><<<Blocks(rows, 1), kThreads, 0, run.stream>>>(to, from, w, b, eps, offset, rows, length);
  }
}

}  // namespace

void Launch(const LayerNormOp& op, Run& run) { LaunchNorm<true>(op.out, op.x, op.weight, op.bias, op.eps, 0, run); }

void Launch(const RmsNormOp& op, Run& run) {
  LaunchNorm<false>(op.out, op.x, op.weight, View{}, op.eps, op.weight_offset, run);
}

}  // namespace zi::cuda
