// linear with [N, K] weights: dot products along K, with an order of additions that depends on nothing but K.
//
// Every output element is computed as: for each block of kDepth inputs, one vector accumulator that takes the inputs
// kWidth at a time, then one fixed tree over its lanes; blocks are added up in order. All paths below keep to that,
// so an element has the same bits whatever else is in the batch and however many threads run.
#pragma once
#include "cpu/kernel_linear_finish.h"
#include "cpu/kernel_linear_tiles.h"

namespace zi::ZI_ISA {

/// Weight rows per task, unless that would leave threads without work.
constexpr int64_t kPanelRows = 64;
/// Tokens per task: bounds the scratch for sums, and how long a task runs after a cancel.
constexpr int64_t kTaskTokens = 256;
/// Up to this many tokens weights are widened in registers, each time they are used; beyond, once into scratch.
constexpr int64_t kDirectTokens = 4 * kTokenTile;
/// Packed inputs take at most this much scratch; larger batches are done in slices.
constexpr int64_t kPackedBytes = int64_t{32} << 20;

/// From lane k on of a row of weights.
template <class W>
inline const uint8_t* WeightsAt(const View& weight, int64_t row, int64_t k) {
  return weight.data + row * weight.strides[0] * (W::kBytes / W::kInputs) + k * W::kBytes;
}

/// Calls f with the tag of how products with that weight are computed, and the weight with its inputs counted in lanes.
template <class F>
inline void WithProductType(const View& weight, F f) {
#ifdef ZI_PAIR_PRODUCTS
  if (weight.dtype == DType::kBF16 && weight.shape[1] % BF16Pairs::kInputs == 0) {
    View pairs = weight;
    pairs.shape[1] /= BF16Pairs::kInputs;
    return f(BF16Pairs{}, pairs);
  }
#endif
  WithType(weight.dtype, [&](auto type) { f(type, weight); });
}

/// What a tile of four rows takes of memory is asked for so many tiles before, or half as many of eight rows.
constexpr int64_t kTilesAhead = 2;
/// Up to this many tokens eight rows are walked together, where registers have room for several tokens' sums.
constexpr int64_t kEightRowTokens = kTokenTile / 2;

/// A few tokens: each weight is read from memory once, widened in registers, and used for all of them.
/// G · 4 rows are walked together: more for few tokens, because each row is asked for by itself and ends soon, and because a single
/// token has no other independent chains of additions.
template <class W, int G>
inline void DirectPanel(const View& weight, const PackedInputs& x, int64_t first_row, int64_t count, float* sums) {
  constexpr int R = kRowTile * G;
  const int64_t inputs = weight.shape[1], last = weight.shape[0] - 1, blocks = (inputs + kDepth - 1) / kDepth;
  // Rows beyond the last repeat it; their sums are never read.
  const auto at = [&](int64_t row, int64_t k) {
    return WeightsAt<W>(weight, Smaller(row, last), k);
  };
  for (int64_t row = first_row; row < first_row + count && row <= last; row += R) {
    for (int64_t k = 0, block = 0; k < inputs; k += kDepth, ++block) {
      const int64_t length = Smaller(kDepth, inputs - k);
      const int64_t ahead = block + kTilesAhead / G;
      const uint8_t* rows[R];
      const uint8_t* next[R];
      for (int r = 0; r < R; ++r) {
        rows[r] = at(row + r, k);
        next[r] = at(row + ahead / blocks * R + r, ahead % blocks * kDepth);
      }
      float* to = sums + (row - first_row);
      constexpr int64_t kMost = kTokenTile / G;
      // Two tiles ask for half of the rows each: memory would wait for the second one otherwise.
      const bool one = x.tokens <= kMost;
      for (int64_t t = 0, tile, which = 0; t < x.tokens; t += tile, ++which) {
        tile = TileTokens(x.tokens - t, kMost);
        const float* in = x.At(block, t);
        if (one) {
          DotTokens<W, R, G>(tile, rows, next, in, length, to, kPanelRows);
        } else if (which < 2) {
          DotTokens<W, R / 2, G>(tile, rows, next + which * (R / 2), in, length, to + t * kPanelRows, kPanelRows);
        } else {
          DotTokens<W, 0, G>(tile, rows, next, in, length, to + t * kPanelRows, kPanelRows);
        }
      }
    }
  }
}

/// Asks for the lines of `rows` runs of memory a few at a time, so that they arrive while tiles compute.
struct Ahead {
  const uint8_t* data;
  int64_t rows, row_bytes, row_distance;
  int64_t row = 0, at = 0;

  int64_t Lines() const { return rows <= 0 ? 0 : rows * ((row_bytes + 63) / 64); }
  void Request(int64_t lines) {
    // Copies, because otherwise each request would wait for the place of the one before it to be stored and loaded.
    int64_t r = row, byte = at;
    for (; lines > 0 && r < rows; --lines) {
      _mm_prefetch(reinterpret_cast<const char*>(data + r * row_distance + byte), _MM_HINT_T1);
      byte += 64;
      if (byte >= row_bytes) {
        byte = 0;
        ++r;
      }
    }
    row = r;
    at = byte;
  }
};

/// Where codes of rows lie, one or 2^shift to a byte.
struct CodeRows {
  const uint8_t* first;
  int64_t distance;
  int shift;
  const uint8_t* At(int64_t row, int64_t k) const { return first + row * distance + (k >> shift); }
};

/// Codes that are asked for while tiles of a few rows compute: those a block of inputs further in these rows, and after their last
/// those of the rows below. Each is asked for once, also where the last block is short.
struct AheadInRows {
  const uint8_t* here = nullptr;
  const uint8_t* below = nullptr;
  /// From this input of the block on those of the rows below.
  int64_t turn = 0;

  AheadInRows() = default;
  AheadInRows(const CodeRows& codes, int64_t inputs, int64_t row, int64_t rows, int64_t k) {
    const int64_t distance = Smaller(kDepth, inputs);
    turn = inputs - distance - k;
    here = codes.At(row, k + distance);
    below = codes.At(row + rows, k + distance - inputs);
  }
};

/// What one task computes: weight rows times tokens.
struct Panel {
  int64_t row, rows, token, tokens;
};

/// Many tokens: a panel of weights is widened once per block of inputs and used for all tokens of the task. `source` has
/// `outputs()` rows of `lanes()` lanes; `Widen(row, count, k, to)` writes those from lane k on to rows of kPitch floats, whole
/// vectors, and `From(row, count, k)` says where they are stored.
template <class Source>
inline void WidenedPanel(const Source& source, const PackedInputs& x, const Panel& task, float* sums, float* panel) {
  // Tokens that stay in the L1 cache beside a weight tile.
  constexpr int64_t kTokenBlock = 2 * kTokenTile;
  const int64_t inputs = source.lanes(), tokens = task.tokens;
  const int64_t row_count = RoundUp(Smaller(task.rows, source.outputs() - task.row), kRowTile);
  const int64_t tiles = row_count / kRowTile * ((tokens + kTokenTile - 1) / kTokenTile);
  for (int64_t k = 0, block = 0; k < inputs; k += kDepth, ++block) {
    const int64_t padded = RoundUp(Smaller(kDepth, inputs - k), kWidth);
    source.Widen(task.row, row_count, k, panel);
    const bool below = k + kDepth >= inputs;
    Ahead weights = source.From(below ? task.row + row_count : task.row, row_count, below ? 0 : k + kDepth);
    const int64_t weight_lines = weights.Lines() / tiles + 1;
    for (int64_t t0 = 0; t0 < tokens; t0 += kTokenBlock) {
      const int64_t t1 = Smaller(tokens, t0 + kTokenBlock);
      const int64_t block_bytes = Smaller(kTokenBlock, tokens - t1) * kPitch * int64_t{sizeof(float)};
      Ahead inputs_ahead{reinterpret_cast<const uint8_t*>(x.At(block, task.token + t1)), 1, block_bytes, 0};
      if (block_bytes == 0) inputs_ahead.rows = 0;
      constexpr int64_t kInputLines = kTokenTile * kPitch * int64_t{sizeof(float)} / 64 / 8;
      for (int64_t r = 0; r < row_count; r += kRowTile) {
        const uint8_t* tile[kRowTile];
        for (int i = 0; i < kRowTile; ++i) tile[i] = reinterpret_cast<const uint8_t*>(panel + (r + i) * kPitch);
        for (int64_t t = t0, count; t < t1; t += count) {
          count = TileTokens(t1 - t);
          weights.Request(weight_lines);
          inputs_ahead.Request(kInputLines);
          DotTokens<typename Source::Inputs::Wide, 0>(count, tile, tile, x.At(block, task.token + t), padded,
                                                          sums + t * kPanelRows + r, kPanelRows);
        }
      }
    }
  }
}

/// Rows per task: a panel, or less where that would leave threads without work. With few tokens tasks may be small, because no
/// input is read anew for each, and then all threads end together.
inline int64_t TaskRows(int64_t outputs, int64_t least_rows, int64_t token_blocks, bool small, const Run& run) {
  const int64_t wanted = (small ? 16 : 4) * static_cast<int64_t>(run.pool.threads());
  int64_t rows = kPanelRows;
  while (rows > least_rows && outputs * token_blocks < rows * wanted) rows /= 2;
  return rows;
}
/// What ForEach takes for the work of a task. Weights that few tokens meet come from memory, which takes longer than computing.
inline int64_t TaskWork(int64_t rows, int64_t lanes, int64_t tokens) { return rows * lanes / kWidth * Larger(tokens, 4) / 2; }

/// Weights whose values are stored, [N, K] with K counted in lanes.
template <class W>
struct DenseRows {
  using Inputs = W;
  static constexpr int64_t kLeastRows = 2 * kRowTile;
  View weight;

  int64_t outputs() const { return weight.shape[0]; }
  int64_t lanes() const { return weight.shape[1]; }
  int64_t order_block() const { return 0; }
  bool takes_small_tasks() const { return true; }

  void Widen(int64_t row, int64_t count, int64_t k, float* to) const {
    const int64_t length = Smaller(kDepth, lanes() - k);
    for (int64_t r = 0; r < count; ++r, to += kPitch) {
      const uint8_t* from = WeightsAt<W>(weight, Smaller(row + r, outputs() - 1), k);
      for (int64_t i = 0; i < length; i += kWidth) Store(to + i, LoadUpTo<W>(from + i * W::kBytes, length - i));
    }
  }
  Ahead From(int64_t row, int64_t count, int64_t k) const {
    return {WeightsAt<W>(weight, row, k), Smaller(count, outputs() - row), Smaller(kDepth, lanes() - k) * W::kBytes,
            weight.strides[0] * W::kBytes / W::kInputs};
  }

  /// Products of the panel with tokens of `x` as [tokens][kPanelRows], in scratch of the calling thread.
  const float* Sums(const PackedInputs& x, const Panel& task) const {
    const bool direct = x.tokens <= kDirectTokens;
    const size_t sum_count = static_cast<size_t>(task.tokens * kPanelRows);
    const size_t panel_count = direct ? 0 : static_cast<size_t>(kPanelRows * kPitch);
    float* panel = static_cast<float*>(Scratch(ScratchUse::kTile, (sum_count + panel_count) * sizeof(float)));
    float* sums = panel + panel_count;
    std::memset(sums, 0, sum_count * sizeof(float));
    if (x.tokens <= kEightRowTokens) {
      DirectPanel<W, 2>(weight, x, task.row, task.rows, sums);
    } else if (direct) {
      DirectPanel<W, 1>(weight, x, task.row, task.rows, sums);
    } else {
      WidenedPanel(*this, x, task, sums, panel);
    }
    return sums;
  }
};

/// `op` says how sums end; its weight is not looked at.
template <class Source>
inline void LinearSlice(const DenseLinearOp& op, const Source& source, int64_t first, const PackedInputs& x, Run& run) {
  const int64_t outputs = source.outputs();
  const int64_t token_blocks = (x.tokens + kTaskTokens - 1) / kTaskTokens;
  const int64_t rows = TaskRows(outputs, Source::kLeastRows, token_blocks, source.takes_small_tasks() && x.tokens <= kDirectTokens, run);
  const int64_t panels = (outputs + rows - 1) / rows, work = TaskWork(rows, source.lanes(), Smaller(x.tokens, kTaskTokens));
  // Token blocks of one panel are neighbours, so that the second finds the panel's weights in the cache.
  ForEach(run, panels * token_blocks, work, [&](int64_t task) {
    const int64_t row = task / token_blocks * rows, token = task % token_blocks * kTaskTokens;
    const int64_t tokens = Smaller(kTaskTokens, x.tokens - token);
    const float* sums = source.Sums(x, {row, rows, token, tokens});
    for (int64_t t = 0; t < tokens; ++t) {
      FinishRow(op, first + token + t, row, Smaller(rows, outputs - row), sums + t * kPanelRows);
    }
  });
}

/// The product with the weights of `source`, a slice of tokens at a time.
template <class Source>
inline void LinearOf(const DenseLinearOp& op, const Source& source, Run& run) {
  const int64_t tokens = op.x.shape[0];
  const int64_t token_bytes = RoundUp(Larger(1, op.x.shape[1]), kDepth) * int64_t{sizeof(float)};
  const int64_t slice = Larger(kTaskTokens, kPackedBytes / token_bytes);
  for (int64_t first = 0; first < tokens; first += slice) {
    const PackedInputs x = PackInputs<typename Source::Inputs>(op.x, first, Smaller(slice, tokens - first),
                                                                    source.order_block(), run);
    LinearSlice(op, source, first, x, run);
  }
}

inline void LinearRows(const DenseLinearOp& op, Run& run) {
  WithProductType(op.weight, [&]<class W>(W, const View& weight) { LinearOf(op, DenseRows<W>{weight}, run); });
}

}  // namespace zi::ZI_ISA
