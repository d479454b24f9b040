// The norm of the residual stream's rows: eight values for each thread, whose sums are added in one order however many threads
// a row has, so that a norm is the same to the bit wherever it is made.
#pragma once
#include "cuda/joined.h"
#include "cuda/math.h"
#include "cuda/values.h"

namespace zi::cuda {

/// Rows of f32, at multiples of 16 bytes, with a weight, and a bias of its type or none.
struct HiddenNorm {
  const float* x;
  int64_t x_stride;
  const void *weight, *bias;
  float eps, weight_offset;
  bool centers;

  HiddenNorm() = default;
  explicit HiddenNorm(const NormOp& op)
      : x(reinterpret_cast<const float*>(op.x.data)), x_stride(op.x.strides[0]), weight(op.weight.data), bias(op.bias.data),
        eps(op.eps), weight_offset(op.weight_offset), centers(op.centers) {}
};

/// Eight of a row's values, normed and rounded.
template <class T>
__device__ inline uint4 NormedEight(float (&values)[8], float mean, float inverse, const T* weights, const T* biases, float offset) {
  float weight[8], bias[8] = {};
  GetEight(weights, weight);
  if (biases) GetEight(biases, bias);
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = fmaf((values[i] - mean) * inverse, weight[i] + offset, bias[i]);
  uint4 eight;
  PutEight(reinterpret_cast<T*>(&eight), values);
  return eight;
}

/// Sums over groups of 32 threads' values, then over those groups.
template <int kThreads, int kMost>
__device__ float RowSum(const float (&mine)[kMost], int warps, float* shared) {
  __syncthreads();  // the sums before may still be read
#pragma unroll
  for (int g = 0; g < kMost; ++g) {
    const float sum = WarpSum(mine[g]);
    if (threadIdx.x % 32 == 0) shared[(g * kThreads + threadIdx.x) / 32] = sum;
  }
  __syncthreads();
  float total = 0;
  for (int i = 0; i < warps; ++i) total += shared[i];
  return total;
}

/// Norms row t and calls `put(i, eight)` for each eight values that the thread has of it. `weights` and `biases` may lie in
/// shared memory; `shared` holds a sum for every 32 groups of eight.
template <int kThreads, class T, class Put>
__device__ void NormHidden(const HiddenNorm& norm, int t, int length, const T* weights, const T* biases, float* shared, Put put) {
  constexpr int kMost = kMostHiddenLength / 8 / kThreads;
  const float* const row = norm.x + t * norm.x_stride;
  const int warps = (length / 8 + 31) / 32;
  float values[kMost][8], sums[kMost];
#pragma unroll
  for (int g = 0; g < kMost; ++g) {
    const int at = 8 * (threadIdx.x + g * kThreads);
    for (float& value : values[g]) value = 0;
    if (at < length) GetEight(row + at, values[g]);
  }
  float mean = 0;
  if (norm.centers) {
#pragma unroll
    for (int g = 0; g < kMost; ++g) {
      sums[g] = 0;
      for (const float value : values[g]) sums[g] += value;
    }
    mean = RowSum<kThreads>(sums, warps, shared) / static_cast<float>(length);
  }
#pragma unroll
  for (int g = 0; g < kMost; ++g) {
    sums[g] = 0;
    if (8 * (threadIdx.x + g * kThreads) >= length) continue;
    for (const float value : values[g]) sums[g] = fmaf(value - mean, value - mean, sums[g]);
  }
  const float inverse = 1.0f / sqrtf(RowSum<kThreads>(sums, warps, shared) / static_cast<float>(length) + norm.eps);
#pragma unroll
  for (int g = 0; g < kMost; ++g) {
    const int i = threadIdx.x + g * kThreads;
    if (8 * i < length) put(i, NormedEight(values[g], mean, inverse, weights + 8 * i, biases ? biases + 8 * i : nullptr, norm.weight_offset));
  }
}

}  // namespace zi::cuda
