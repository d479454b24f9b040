// linear with [K, N] weights for a few tokens: weights pass by once, in long pieces of rows, while sums stay in cache.
#pragma once
#include "cpu/kernel_linear_finish.h"

namespace zi::ZI_ISA {

/// Tokens that share a widened weight in ColumnRun.
constexpr int kRunTokens = 4;
/// Up to this many tokens ColumnRun is used.
constexpr int64_t kRunMaxTokens = 8;

/// sums[c][n … n + V · kWidth) continues over D inputs for C tokens; the last vector may hold `left` columns only.
template <class W, int C, int V, int D, bool kWhole>
inline void RunStep(const uint8_t* rows, int64_t row_bytes, int64_t n, int64_t left, const float* const* x, float* sums,
                    int64_t sums_stride) {
  Vec acc[C][V];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[c][v] = Load(sums + c * sums_stride + n + v * kWidth);
  }
#pragma GCC unroll 8
  for (int i = 0; i < D; ++i) {
    const uint8_t* row = rows + i * row_bytes + n * W::kBytes;
    Vec w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      w[v] = kWhole ? W::LoadFull(row + v * kWidth * W::kBytes) : LoadUpTo<W>(row + v * kWidth * W::kBytes, left);
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Vec in = Set(x[c][i]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[c][v] = Fma(in, w[v], acc[c][v]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) Store(sums + c * sums_stride + n + v * kWidth, acc[c][v]);
  }
}

/// D weight rows times C tokens on a run of columns; asks for the D rows below meanwhile when kAhead.
template <class W, int C, int D, bool kAhead>
inline void RunBand(const uint8_t* rows, int64_t row_bytes, int64_t count, const float* const* x, float* sums,
                    int64_t sums_stride) {
  constexpr int V = C <= 2 ? 4 : 2;
  int64_t n = 0;
  for (; n + V * kWidth <= count; n += V * kWidth) {
    if constexpr (kAhead) {
#pragma GCC unroll 8
      for (int i = D; i < 2 * D; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(rows + i * row_bytes + n * W::kBytes), _MM_HINT_T1);
      }
    }
    RunStep<W, C, V, D, true>(rows, row_bytes, n, count - n, x, sums, sums_stride);
  }
  for (; n < count; n += kWidth) RunStep<W, C, 1, D, false>(rows, row_bytes, n, count - n, x, sums, sums_stride);
}

template <class W, int D, bool kAhead, int C = kRunTokens>
inline void RunTokens(int64_t tokens, const uint8_t* rows, int64_t row_bytes, int64_t count, const float* const* x,
                      float* sums, int64_t sums_stride) {
  if (tokens >= C) {
    RunBand<W, C, D, kAhead>(rows, row_bytes, count, x, sums, sums_stride);
  } else if constexpr (C > 1) {
    RunTokens<W, D, kAhead, C - 1>(tokens, rows, row_bytes, count, x, sums, sums_stride);
  }
}

/// D weight rows times all tokens: the first tokens read them from memory, the others from the cache.
template <class W, int D>
inline void RunRows(const DenseLinearOp& op, int64_t k, int64_t column, int64_t count, float* sums, int64_t sums_stride) {
  const int64_t tokens = op.x.shape[0], row_bytes = op.weight.strides[0] * W::kBytes;
  const uint8_t* rows = op.weight.data + k * row_bytes + column * W::kBytes;
  const float* x[kRunMaxTokens];
  for (int64_t t = 0; t < tokens; ++t) x[t] = Row(op.x, t) + k;
  if (k + 2 * D <= op.weight.shape[0]) {
    RunTokens<W, D, true>(tokens, rows, row_bytes, count, x, sums, sums_stride);
  } else {
    RunTokens<W, D, false>(tokens, rows, row_bytes, count, x, sums, sums_stride);
  }
  for (int64_t t = kRunTokens; t < tokens; t += kRunTokens) {
    RunTokens<W, D, false>(tokens - t, rows, row_bytes, count, x + t, sums + t * sums_stride, sums_stride);
  }
}

/// Few tokens, D inputs at a time: sums of a wide run of columns stay in the cache while weights pass by once, in long runs.
template <class W, int D>
inline void ColumnRun(const DenseLinearOp& op, int64_t column, int64_t count) {
  const int64_t inputs = op.weight.shape[0], tokens = op.x.shape[0], stride = RoundUp(count, kWidth) + kWidth;
  const size_t sum_count = static_cast<size_t>(tokens * stride);
  float* sums = static_cast<float*>(Scratch(ScratchUse::kTile, sum_count * sizeof(float)));
  std::memset(sums, 0, sum_count * sizeof(float));
  int64_t k = 0;
  for (; k + D <= inputs; k += D) RunRows<W, D>(op, k, column, count, sums, stride);
  for (; k < inputs; ++k) RunRows<W, 1>(op, k, column, count, sums, stride);
  for (int64_t t = 0; t < tokens; ++t) FinishRow(op, t, column, count, sums + t * stride);
}

/// Columns per ColumnRun: many, because short pieces of rows far apart are slow to read, but with sums that fit the L1
/// cache beside the weights and with work for all threads.
inline int64_t RunColumns(int64_t outputs, int64_t tokens, const Run& run) {
  const int64_t share = outputs / (2 * static_cast<int64_t>(run.pool.threads()));
  return Larger(128, Smaller(RoundUp(share, 64), 2048 / Larger(1, tokens / 2)));
}

}  // namespace zi::ZI_ISA
