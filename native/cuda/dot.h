// Dot products of a few weight rows with a few tokens by one block: each weight is read from memory once.
//
// Thread i takes inputs 8i … 8i+7 of every 1024, the warps' sums are added in their order: an output depends on K and
// on how operands are aligned, not on how many tokens there are.
#pragma once
#include "cuda/math.h"
#include "cuda/views.h"

namespace zi::cuda {

constexpr int kDotThreads = 128;
/// Weight rows per block.
constexpr int kDotRows = 4;
constexpr int kDotWidth = 8;

/// A row of weights that are stored as their values.
template <class W>
struct DenseRow {
  const W* data;

  /// From a multiple of 16 bytes on.
  __device__ void LoadEight(int64_t k, float (&to)[kDotWidth]) const {
    constexpr int kLoads = sizeof(W) / 2;
    uint4 words[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) words[i] = __ldcs(reinterpret_cast<const uint4*>(data + k) + i);
    const W* values = reinterpret_cast<const W*>(words);
#pragma unroll
    for (int i = 0; i < kDotWidth; ++i) to[i] = Widen(values[i]);
  }
  __device__ float At(int64_t k) const { return Widen(data[k]); }
};

/// Leaves act-free sums of row r and token t in sums[r · T + t]; call with all threads, then read after a barrier.
/// When `aligned`, eight weights are loaded at once, and `x + t · x_stride` begin at multiples of 16 bytes.
/// Tokens beyond `last` repeat it.
template <class X, int T, class Row>
__device__ inline void DotRows(const Row (&rows)[kDotRows], const X* x, int64_t x_stride, int64_t inputs, bool aligned,
                               float* sums, int last = T - 1) {
  __shared__ float parts[kDotThreads / 32][kDotRows * T];
  float acc[kDotRows][T];
  for (int r = 0; r < kDotRows; ++r) {
    for (int t = 0; t < T; ++t) acc[r][t] = 0;
  }
  int64_t done = 0;
  if (aligned) {
    const int64_t whole = inputs / kDotWidth * kDotWidth;
#pragma unroll 2
    for (int64_t k = threadIdx.x * kDotWidth; k < whole; k += kDotThreads * kDotWidth) {
      float w[kDotRows][kDotWidth];
#pragma unroll
      for (int r = 0; r < kDotRows; ++r) rows[r].LoadEight(k, w[r]);
#pragma unroll
      for (int t = 0; t < T; ++t) {
        float in[kDotWidth];
        GetEight(x + min(t, last) * x_stride + k, in);
#pragma unroll
        for (int r = 0; r < kDotRows; ++r) {
#pragma unroll
          for (int i = 0; i < kDotWidth; ++i) acc[r][t] = fmaf(w[r][i], in[i], acc[r][t]);
        }
      }
    }
    done = whole;
  }
  for (int64_t k = done + threadIdx.x; k < inputs; k += kDotThreads) {
#pragma unroll
    for (int r = 0; r < kDotRows; ++r) {
      const float w = rows[r].At(k);
#pragma unroll
      for (int t = 0; t < T; ++t) acc[r][t] = fmaf(w, Widen(x[min(t, last) * x_stride + k]), acc[r][t]);
    }
  }
#pragma unroll
  for (int r = 0; r < kDotRows; ++r) {
#pragma unroll
    for (int t = 0; t < T; ++t) {
      const float sum = WarpSum(acc[r][t]);
      if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][r * T + t] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x < kDotRows * T) {
    float sum = 0;
    for (int warp = 0; warp < kDotThreads / 32; ++warp) sum += parts[warp][threadIdx.x];
    sums[threadIdx.x] = sum;
  }
  __syncthreads();
}

}  // namespace zi::cuda
