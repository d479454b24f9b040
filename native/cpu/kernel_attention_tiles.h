// The two products inside attention, on register tiles: q · keysᵀ with lanes over keys, p · values with lanes over D.
#pragma once
#include "cpu/kernel_math.h"

namespace zi::ZI_ISA {

constexpr int kKeyVecs = 4;
/// Keys per block of the online softmax.
constexpr int kKeyBlock = kKeyVecs * kWidth;

/// keys[j][d] → to[d · kKeyBlock + j].
inline void TransposeKeys(const float* const* keys, int64_t depth, float* to) {
  for (int j = 0; j < kKeyBlock; j += kWidth) {
    int64_t d = 0;
    for (; d + kWidth <= depth; d += kWidth) {
      const float* rows[kWidth];
      for (int i = 0; i < kWidth; ++i) rows[i] = keys[j + i] + d;
      Transpose(rows, to + d * kKeyBlock + j, kKeyBlock);
    }
    for (; d < depth; ++d) {
      for (int i = 0; i < kWidth; ++i) to[d * kKeyBlock + j + i] = keys[j + i][d];
    }
  }
}

/// scores[c][kKeyBlock] = q[c] · keys, in order of d.
template <int C>
inline void ScoreTile(const float* const* q, const float* keys, int64_t depth, float* scores) {
  Vec acc[C][kKeyVecs];
  for (int c = 0; c < C; ++c) {
    for (int v = 0; v < kKeyVecs; ++v) acc[c][v] = Zero();
  }
  for (int64_t d = 0; d < depth; ++d) {
    Vec k[kKeyVecs];
    for (int v = 0; v < kKeyVecs; ++v) k[v] = Load(keys + d * kKeyBlock + v * kWidth);
    for (int c = 0; c < C; ++c) {
      const Vec in = Set(q[c][d]);
      for (int v = 0; v < kKeyVecs; ++v) acc[c][v] = Fma(in, k[v], acc[c][v]);
    }
  }
  for (int c = 0; c < C; ++c) {
    for (int v = 0; v < kKeyVecs; ++v) Store(scores + c * kKeyBlock + v * kWidth, acc[c][v]);
  }
}

template <int C = kTokenTile>
inline void ScoreRows(int64_t rows, const float* const* q, const float* keys, int64_t depth, float* scores) {
  if (rows >= C) {
    ScoreTile<C>(q, keys, depth, scores);
  } else if constexpr (C > 1) {
    ScoreRows<C - 1>(rows, q, keys, depth, scores);
  }
}

/// sums[c][0 … V · kWidth) += Σ p[c][j] · values[j][at …] for j in [from, to), in order; the last vector holds `n`.
template <int C, int V>
inline void WeighTile(const float* p, const float* const* values, int64_t at, int64_t n, int from, int to,
                      float* sums, int64_t sums_stride) {
  Vec acc[C][V];
  for (int c = 0; c < C; ++c) {
    for (int v = 0; v < V; ++v) acc[c][v] = Load(sums + c * sums_stride + at + v * kWidth);
  }
  for (int j = from; j < to; ++j) {
    Vec value[V];
    for (int v = 0; v < V - 1; ++v) value[v] = Load(values[j] + at + v * kWidth);
    value[V - 1] = LoadUpTo(values[j] + at + (V - 1) * kWidth, n);
    for (int c = 0; c < C; ++c) {
      const Vec weight = Set(p[c * kKeyBlock + j]);
      for (int v = 0; v < V; ++v) acc[c][v] = Fma(weight, value[v], acc[c][v]);
    }
  }
  for (int c = 0; c < C; ++c) {
    for (int v = 0; v < V; ++v) Store(sums + c * sums_stride + at + v * kWidth, acc[c][v]);
  }
}

template <int C = kTokenTile>
inline void WeighRows(int64_t rows, const float* p, const float* const* values, int from, int to, int64_t depth,
                      float* sums, int64_t sums_stride) {
  if (rows >= C) {
    int64_t d = 0;
    for (; d + 4 * kWidth <= depth; d += 4 * kWidth) {
      WeighTile<C, 4>(p, values, d, kWidth, from, to, sums, sums_stride);
    }
    for (; d < depth; d += kWidth) WeighTile<C, 1>(p, values, d, depth - d, from, to, sums, sums_stride);
  } else if constexpr (C > 1) {
    WeighRows<C - 1>(rows, p, values, from, to, depth, sums, sums_stride);
  }
}

}  // namespace zi::ZI_ISA
