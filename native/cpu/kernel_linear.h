// linear with [N, K] weights: dot products along K, with an order of additions that depends on nothing but K.
//
// Every output element is computed as: for each block of kDepth inputs, one vector accumulator that takes the inputs
// kWidth at a time, then one fixed tree over its lanes; blocks are added up in order. All paths below keep to that,
// so an element has the same bits whatever else is in the batch and however many threads run.
#pragma once
#include "cpu/kernel_linear_finish.h"

namespace zi::ZI_ISA {

/// Inputs per block: rows of this many floats keep a 4-row weight tile and a few tokens in the L1 cache.
constexpr int64_t kDepth = 64 * kWidth;
/// Weight rows whose sums are reduced together.
constexpr int kRowTile = 4;
/// Weight rows per task.
constexpr int64_t kPanelRows = 32;
/// Tokens per task: bounds the scratch for sums, and how long a task runs after a cancel.
constexpr int64_t kTaskTokens = 256;
/// Up to this many tokens weights are widened in registers, each time they are used; beyond, once into scratch.
constexpr int64_t kDirectTokens = 2 * kTokenTile;
/// Packed inputs take at most this much scratch; larger batches are done in slices.
constexpr int64_t kPackedBytes = int64_t{32} << 20;

/// x[T, K] as [blocks of K][T][kDepth], rows zero-padded to whole vectors: tiles read it in order and need no tail.
struct PackedInputs {
  float* data;
  int64_t tokens;
  const float* At(int64_t block, int64_t token) const { return data + (block * tokens + token) * kDepth; }
};

inline PackedInputs PackInputs(const View& x, int64_t first, int64_t tokens, Run& run) {
  const int64_t inputs = x.shape[1], blocks = (inputs + kDepth - 1) / kDepth;
  const size_t size = static_cast<size_t>(blocks * tokens * kDepth) * sizeof(float);
  PackedInputs packed{static_cast<float*>(Scratch(ScratchUse::kOperation, size)), tokens};
  ForEach(run, tokens, inputs / kWidth, [&](int64_t t) {
    const float* from = Row(x, first + t);
    for (int64_t block = 0; block < blocks; ++block) {
      float* to = const_cast<float*>(packed.At(block, t));
      const int64_t length = Smaller(kDepth, inputs - block * kDepth);
      for (int64_t k = 0; k < length; k += kWidth) Store(to + k, LoadUpTo(from + block * kDepth + k, length - k));
    }
  });
  return packed;
}

/// sums[c · sums_stride + r] += dot(weight row r, token c) over one block, for 4·G rows and C tokens.
/// Tokens are kDepth apart. `length` inputs of type W are read from each row.
template <class W, int G, int C>
inline void DotTile(const uint8_t* const* rows, const float* x, int64_t length, float* sums, int64_t sums_stride) {
  constexpr int R = kRowTile * G;
  Vec acc[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) acc[r][c] = Zero();
  }
  int64_t k = 0;
  for (; k + kWidth <= length; k += kWidth) {
    Vec in[C];
    for (int c = 0; c < C; ++c) in[c] = Load(x + c * kDepth + k);
    for (int r = 0; r < R; ++r) {
      const Vec w = W::LoadFull(rows[r] + k * W::kBytes);
      for (int c = 0; c < C; ++c) acc[r][c] = Fma(w, in[c], acc[r][c]);
    }
  }
  if (k < length) {
    for (int r = 0; r < R; ++r) {
      const Vec w = W::LoadFirst(rows[r] + k * W::kBytes, static_cast<int>(length - k));
      for (int c = 0; c < C; ++c) acc[r][c] = Fma(w, Load(x + c * kDepth + k), acc[r][c]);
    }
  }
  for (int c = 0; c < C; ++c) {
    for (int g = 0; g < G; ++g) {
      float* sum = sums + c * sums_stride + g * kRowTile;
      const __m128 add = Sums4(acc[g * 4][c], acc[g * 4 + 1][c], acc[g * 4 + 2][c], acc[g * 4 + 3][c]);
      _mm_storeu_ps(sum, _mm_add_ps(_mm_loadu_ps(sum), add));
    }
  }
}

/// DotTile for up to kTokenTile tokens.
template <class W, int C = kTokenTile>
inline void DotTokens(int64_t tokens, const uint8_t* const* rows, const float* x, int64_t length, float* sums,
                      int64_t sums_stride) {
  if (tokens >= C) {
    DotTile<W, 1, C>(rows, x, length, sums, sums_stride);
  } else if constexpr (C > 1) {
    DotTokens<W, C - 1>(tokens, rows, x, length, sums, sums_stride);
  }
}

/// A few tokens: each weight is read from memory once, widened in registers, and used for all of them.
template <class W>
inline void DirectPanel(const LinearOp& op, const PackedInputs& x, int64_t first_row, float* sums) {
  const int64_t inputs = op.weight.shape[1], last = op.weight.shape[0] - 1;
  constexpr int G = 2, R = kRowTile * G;
  for (int64_t r0 = 0; r0 < kPanelRows && first_row + r0 <= last; r0 += R) {
    const uint8_t* start[R];
    // Rows beyond the last repeat it; their sums are never read.
    for (int r = 0; r < R; ++r) {
      start[r] = op.weight.data + Smaller(first_row + r0 + r, last) * op.weight.strides[0] * W::kBytes;
    }
    for (int64_t k = 0, block = 0; k < inputs; k += kDepth, ++block) {
      const int64_t length = Smaller(kDepth, inputs - k);
      const uint8_t* rows[R];
      for (int r = 0; r < R; ++r) rows[r] = start[r] + k * W::kBytes;
      if (x.tokens == 1) {
        DotTile<W, G, 1>(rows, x.At(block, 0), length, sums + r0, kPanelRows);
        continue;
      }
      for (int64_t t = 0; t < x.tokens; t += kTokenTile) {
        for (int g = 0; g < G; ++g) {
          DotTokens<W>(x.tokens - t, rows + g * kRowTile, x.At(block, t), length,
                       sums + t * kPanelRows + r0 + g * kRowTile, kPanelRows);
        }
      }
    }
  }
}

/// Many tokens: a panel of weights is widened to f32 once per block of inputs and used for all tokens of the task.
template <class W>
inline void WidenedPanel(const LinearOp& op, const PackedInputs& x, int64_t first_row, int64_t first_token,
                         int64_t tokens, float* sums, float* panel) {
  // A block of tokens small enough to stay in the L1 cache beside a weight tile.
  constexpr int64_t kTokenBlock = 2 * kTokenTile;
  const int64_t inputs = op.weight.shape[1], last = op.weight.shape[0] - 1;
  const int64_t row_count = RoundUp(Smaller(kPanelRows, last + 1 - first_row), kRowTile);
  for (int64_t k = 0, block = 0; k < inputs; k += kDepth, ++block) {
    const int64_t length = Smaller(kDepth, inputs - k), padded = RoundUp(length, kWidth);
    for (int64_t r = 0; r < row_count; ++r) {
      const uint8_t* from =
          op.weight.data + (Smaller(first_row + r, last) * op.weight.strides[0] + k) * W::kBytes;
      float* to = panel + r * kDepth;
      for (int64_t i = 0; i < length; i += kWidth) Store(to + i, LoadUpTo<W>(from + i * W::kBytes, length - i));
    }
    for (int64_t t0 = 0; t0 < tokens; t0 += kTokenBlock) {
      const int64_t t1 = Smaller(tokens, t0 + kTokenBlock);
      for (int64_t r = 0; r < row_count; r += kRowTile) {
        const uint8_t* rows[kRowTile];
        for (int i = 0; i < kRowTile; ++i) rows[i] = reinterpret_cast<const uint8_t*>(panel + (r + i) * kDepth);
        for (int64_t t = t0; t < t1; t += kTokenTile) {
          DotTokens<F32>(t1 - t, rows, x.At(block, first_token + t), padded, sums + t * kPanelRows + r, kPanelRows);
        }
      }
    }
  }
}

template <class W>
inline void LinearSlice(const LinearOp& op, int64_t first, const PackedInputs& x, Run& run) {
  const int64_t outputs = op.weight.shape[0];
  const int64_t panels = (outputs + kPanelRows - 1) / kPanelRows;
  const int64_t token_blocks = (x.tokens + kTaskTokens - 1) / kTaskTokens;
  const bool direct = x.tokens <= kDirectTokens;
  const int64_t work = kPanelRows * op.weight.shape[1] / kWidth * Smaller(x.tokens, kTaskTokens) / 2;
  // Token blocks of one panel are neighbours, so that the second finds the panel's weights in the cache.
  ForEach(run, panels * token_blocks, work, [&](int64_t task) {
    const int64_t row = task / token_blocks * kPanelRows, token = task % token_blocks * kTaskTokens;
    const int64_t tokens = Smaller(kTaskTokens, x.tokens - token);
    const size_t sum_count = static_cast<size_t>(tokens * kPanelRows);
    const size_t panel_count = direct ? 0 : static_cast<size_t>(kPanelRows * kDepth);
    float* panel = static_cast<float*>(Scratch(ScratchUse::kTile, (sum_count + panel_count) * sizeof(float)));
    float* sums = panel + panel_count;
    std::memset(sums, 0, sum_count * sizeof(float));
    if (direct) {
      DirectPanel<W>(op, x, row, sums);
    } else {
      WidenedPanel<W>(op, x, row, token, tokens, sums, panel);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      FinishRow(op, first + token + t, row, Smaller(kPanelRows, outputs - row), sums + t * kPanelRows);
    }
  });
}

inline void LinearRows(const LinearOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0];
  const int64_t token_bytes = RoundUp(Larger(1, op.x.shape[1]), kDepth) * int64_t{sizeof(float)};
  const int64_t slice = Larger(kTaskTokens, kPackedBytes / token_bytes);
  WithType(op.weight.dtype, [&]<class W>(W) {
    for (int64_t first = 0; first < tokens; first += slice) {
      const PackedInputs x = PackInputs(op.x, first, Smaller(slice, tokens - first), run);
      LinearSlice<W>(op, first, x, run);
    }
  });
}

}  // namespace zi::ZI_ISA
