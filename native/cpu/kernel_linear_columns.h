// linear with [K, N] weights (GPT-2): lanes over N, one chain of multiply-adds along k per element, in order of k.
// The chain is the same however K, N and T are cut into tiles, so an element's bits do not depend on the batch.
#pragma once
#include "cpu/kernel_linear_runs.h"

namespace zi::ZI_ISA {

/// Vectors of columns per tile: with tokens it fills the registers (6 × 2 + 2 of 16, or 6 × 4 + 4 of 32).
constexpr int kColumnVecs = kWidth == 8 ? 2 : 4;
constexpr int kColumnTile = kColumnVecs * kWidth;
constexpr int kColumnTokens = 6;
/// Inputs whose weights are widened into scratch at once.
constexpr int64_t kColumnDepth = 256;
/// Columns and tokens per task.
constexpr int64_t kTaskColumns = 4 * kColumnTile;
constexpr int64_t kColumnTaskTokens = 192;

/// sums[c][kColumnTile] continues over `depth` inputs; weights are widened rows of kColumnTile floats.
template <int C>
inline void ColumnTile(const float* const* x, const float* weights, int64_t depth, float* sums) {
  Vec acc[C][kColumnVecs];
  for (int c = 0; c < C; ++c) {
    for (int v = 0; v < kColumnVecs; ++v) acc[c][v] = Load(sums + c * kTaskColumns + v * kWidth);
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec w[kColumnVecs];
    for (int v = 0; v < kColumnVecs; ++v) w[v] = Load(weights + k * kColumnTile + v * kWidth);
    for (int c = 0; c < C; ++c) {
      const Vec in = Set(x[c][k]);
      for (int v = 0; v < kColumnVecs; ++v) acc[c][v] = Fma(in, w[v], acc[c][v]);
    }
  }
  for (int c = 0; c < C; ++c) {
    for (int v = 0; v < kColumnVecs; ++v) Store(sums + c * kTaskColumns + v * kWidth, acc[c][v]);
  }
}

template <int C = kColumnTokens>
inline void ColumnTokens(int64_t tokens, const float* const* x, const float* weights, int64_t depth, float* sums) {
  if (tokens >= C) {
    ColumnTile<C>(x, weights, depth, sums);
  } else if constexpr (C > 1) {
    ColumnTokens<C - 1>(tokens, x, weights, depth, sums);
  }
}

/// Widens weights [k, k + depth) × [column, column + count) into tiles [tile][k][kColumnTile], zero-padded.
template <class W>
inline void WidenColumns(const View& weight, int64_t k, int64_t depth, int64_t column, int64_t count, float* to) {
  for (int64_t i = 0; i < depth; ++i) {
    const uint8_t* row = weight.data + ((k + i) * weight.strides[0] + column) * W::kBytes;
    for (int64_t n = 0; n < RoundUp(count, kColumnTile); n += kWidth) {
      float* tile = to + n / kColumnTile * kColumnDepth * kColumnTile;
      const Vec w = n < count ? LoadUpTo<W>(row + n * W::kBytes, count - n) : Zero();
      Store(tile + i * kColumnTile + n % kColumnTile, w);
    }
  }
}

template <class W>
inline void ColumnTask(const DenseLinearOp& op, int64_t column, int64_t first, int64_t tokens) {
  const int64_t inputs = op.weight.shape[0], count = Smaller(kTaskColumns, op.weight.shape[1] - column);
  const size_t sum_count = static_cast<size_t>(tokens * kTaskColumns);
  const size_t panel_count = static_cast<size_t>(kColumnDepth * kTaskColumns);
  float* panel = static_cast<float*>(Scratch(ScratchUse::kTile, (panel_count + sum_count) * sizeof(float)));
  float* sums = panel + panel_count;
  std::memset(sums, 0, sum_count * sizeof(float));
  for (int64_t k = 0; k < inputs; k += kColumnDepth) {
    const int64_t depth = Smaller(kColumnDepth, inputs - k);
    WidenColumns<W>(op.weight, k, depth, column, count, panel);
    for (int64_t t = 0; t < tokens; t += kColumnTokens) {
      const float* x[kColumnTokens];
      for (int c = 0; c < kColumnTokens; ++c) x[c] = Row(op.x, first + Smaller(t + c, tokens - 1)) + k;
      for (int64_t n = 0; n < count; n += kColumnTile) {
        ColumnTokens(tokens - t, x, panel + n * kColumnDepth, depth, sums + t * kTaskColumns + n);
      }
    }
  }
  for (int64_t t = 0; t < tokens; ++t) FinishRow(op, first + t, column, count, sums + t * kTaskColumns);
}

inline void LinearColumns(const DenseLinearOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], outputs = op.weight.shape[1], inputs = op.weight.shape[0];
  WithType(op.weight.dtype, [&]<class W>(W) {
    if (tokens <= kRunMaxTokens) {
      const int64_t columns = RunColumns(outputs, tokens, run);
      ForEach(run, (outputs + columns - 1) / columns, inputs * columns / kWidth, [&](int64_t i) {
        const int64_t column = i * columns, count = Smaller(columns, outputs - column);
        // More inputs at once save passes over the sums; with more tokens those lie in registers for longer anyway.
        if (tokens <= 2) {
          ColumnRun<W, 8>(op, column, count);
        } else {
          ColumnRun<W, 4>(op, column, count);
        }
      });
      return;
    }
    const int64_t token_blocks = (tokens + kColumnTaskTokens - 1) / kColumnTaskTokens;
    const int64_t runs = (outputs + kTaskColumns - 1) / kTaskColumns;
    ForEach(run, runs * token_blocks, inputs * kTaskColumns / kWidth * tokens, [&](int64_t task) {
      const int64_t first = task % token_blocks * kColumnTaskTokens;
      ColumnTask<W>(op, task / token_blocks * kTaskColumns, first, Smaller(kColumnTaskTokens, tokens - first));
    });
  });
}

}  // namespace zi::ZI_ISA
