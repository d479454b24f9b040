// linear with weights that are no values yet: expanded block by block where they are used, with the bits that their values
// would give as a dense weight.
#pragma once
#include "cpu/kernel_expand.h"
#include "cpu/kernel_linear_bytes.h"
#include "cpu/kernel_linear_e4m3.h"
#include "cpu/kernel_linear_floats.h"
#include "cpu/kernel_linear_nibbles.h"
#include "cpu/kernel_linear_pairs.h"
#include "cpu/kernel_turned_rows.h"

namespace zi::ZI_ISA {

/// Weights in any format but the dense ones. Wide: how their values lie in a tile.
template <class Wide>
struct StoredRows {
  using Inputs = Wide;
  static constexpr int64_t kLeastRows = kWidth > 2 * kRowTile ? kWidth : 2 * kRowTile;
  const Weight& weight;

  int64_t outputs() const { return weight.outputs; }
  int64_t lanes() const { return weight.inputs / Wide::kInputs; }
  /// Squares of columns are turned whole.
  bool takes_small_tasks() const { return !CanBeTurned(weight); }
  int64_t order_block() const {
#ifdef ZI_PAIR_PRODUCTS
    if constexpr (Wide::kInputs > 1) return PairOrderBlock(weight);
#endif
    return OrderBlock(weight);
  }

  /// Products of the panel with tokens of `x` as [tokens][kPanelRows], in scratch of the calling thread.
  const float* Sums(const PackedInputs& x, const Panel& task) const {
    const int64_t own = RoundUp(Floats(x, task), kWidth);
    if (!CanBeTurned(weight)) return SumsIn(static_cast<float*>(TileScratch(own * 4)), x, task);
    const int64_t rows = Smaller(task.rows, outputs() - task.row);
    float* scratch = static_cast<float*>(TileScratch(own * 4 + TurnedBytes(weight, rows).all()));
    const Weight turned = TurnedRows(weight, task.row, rows, reinterpret_cast<uint8_t*>(scratch + own));
    return StoredRows{turned}.SumsIn(scratch, x, {0, task.rows, task.token, task.tokens});
  }

 private:
  static void* TileScratch(int64_t bytes) { return Scratch(ScratchUse::kTile, static_cast<size_t>(bytes)); }
  int64_t PanelFloats(const PackedInputs& x) const {
    if (x.tokens > kDirectTokens) return kPanelRows * kPitch;
    int64_t floats = kLeastRows * kPitch;
#ifdef ZI_BYTE_LOOKUPS
    if (x.tokens <= kMostByteTokens) floats = Larger(floats, ByteProducts::Floats(weight, x.tokens));
#endif
    return floats;
  }
  int64_t Floats(const PackedInputs& x, const Panel& task) const {
    return PanelFloats(x) + task.tokens * kPanelRows + Expander<Wide>::Floats(weight);
  }

  const float* SumsIn(float* panel, const PackedInputs& x, const Panel& task) const {
    const bool few = x.tokens <= kDirectTokens;
    const size_t sum_count = static_cast<size_t>(task.tokens * kPanelRows);
    float* sums = panel + PanelFloats(x);
    std::memset(sums, 0, sum_count * sizeof(float));
    const Expander<Wide> expander(weight, sums + sum_count);
    if (few) {
#ifdef ZI_PAIR_PRODUCTS
      if constexpr (Wide::kInputs > 1) {
        if (x.tokens == 1 && HasPairs(weight) && AsPairs(expander, x, task, sums, panel)) return sums;
      }
#endif
      const int64_t done = InRegisters(x, task, sums, panel);
      FewTokens(expander, x, {task.row + done, task.rows - done, 0, x.tokens}, sums + done, panel);
    } else {
      WidenedPanel(Widened{*this, expander}, x, task, sums, panel);
    }
    return sums;
  }

  struct Widened {
    using Inputs = Wide;
    const StoredRows& rows;
    const Expander<Wide>& expander;
    int64_t outputs() const { return rows.outputs(); }
    int64_t lanes() const { return rows.lanes(); }
    void Widen(int64_t row, int64_t count, int64_t k, float* to) const {
      Ahead none{nullptr, 0, 0, 0};
      expander.Expand(row, count, k, to, none);
    }
    Ahead From(int64_t row, int64_t count, int64_t k) const { return expander.From(row, count, k); }
  };

  /// How many rows of the panel have their sums with the one token, or with few, from kernels that expand nothing.
  int64_t InRegisters(const PackedInputs& x, const Panel& task, float* sums, [[maybe_unused]] float* scratch) const {
    if constexpr (Wide::kInputs == 1) {
      int64_t done = 0;
#ifdef ZI_BYTE_LOOKUPS
      if (x.tokens <= kMostByteTokens && ByteProducts::Takes(weight)) done = ByteProducts(weight).Sums(x, task, scratch, sums);
#endif
      if (x.tokens > 1) return done;
#ifdef ZI_NIBBLE_BLOCKS
      if (HasE4M3Words(weight)) return OneTokenE4M3(weight, x, task, sums);
      if (order_block() > 0) return OneTokenNibbles(weight).Sums(x, task, sums);
#endif
      return done + OneTokenFloats(weight, x, {task.row + done, task.rows - done, task.token, task.tokens}, sums + done);
    }
    return 0;
  }

#ifdef ZI_PAIR_PRODUCTS
  /// One token. False where the weight has no decoder.
  bool AsPairs(const Expander<Wide>& expander, const PackedInputs& x, const Panel& task, float* sums, float* tile) const {
    const auto expanded = [&](int64_t row, int64_t k, int64_t block) {
      Ahead none{nullptr, 0, 0, 0};
      expander.Expand(row, kPairRows, k / Wide::kInputs, tile, none);
      const int64_t padded = RoundUp(Smaller(kDepth, lanes() - k / Wide::kInputs), kWidth);
      Tile(x, block, tile, padded, sums + (row - task.row));
    };
    return WithPairs(weight, [&](const auto& decoder) { OneTokenPairs(weight, decoder, x, task, sums, expanded); });
  }
#endif

  /// A few rows at a time, so that a block of them stays in the nearest cache until all tokens have met it.
  void FewTokens(const Expander<Wide>& expander, const PackedInputs& x, const Panel& task, float* sums, float* tile) const {
    const int64_t step = ByColumns(weight) ? kLeastRows : 2 * kRowTile;
    const int64_t end = Smaller(task.row + task.rows, outputs());
    for (int64_t row = task.row; row < end; row += step) {
      for (int64_t k = 0, block = 0; k < lanes(); k += kDepth, ++block) {
        const int64_t padded = RoundUp(Smaller(kDepth, lanes() - k), kWidth);
        const bool below = k + kDepth >= lanes();
        Ahead next = expander.From(below ? row + step : row, step, below ? 0 : k + kDepth);
        expander.Expand(row, step, k, tile, next);
        for (int64_t r = 0; r < step; r += 2 * kRowTile) {
          Tile(x, block, tile + r * kPitch, padded, sums + (row - task.row + r));
        }
      }
    }
  }

  /// All tokens and 2 · kRowTile rows of one block.
  static void Tile(const PackedInputs& x, int64_t block, const float* tile, int64_t padded, float* sums) {
    const uint8_t* rows[2 * kRowTile];
    for (int i = 0; i < 2 * kRowTile; ++i) rows[i] = reinterpret_cast<const uint8_t*>(tile + i * kPitch);
    if (x.tokens == 1) return DotTile<Wide, 2, 1, 0>(rows, rows, x.At(block, 0), padded, sums, kPanelRows);
    for (int half = 0; half < 2 * kRowTile; half += kRowTile) {
      for (int64_t t = 0, count; t < x.tokens; t += count) {
        count = TileTokens(x.tokens - t);
        DotTokens<Wide, 0>(count, rows + half, rows + half, x.At(block, t), padded, sums + t * kPanelRows + half, kPanelRows);
      }
    }
  }
};

/// Calls f with the tag of how expanded values lie in tiles: as a dense weight of them would.
template <class F>
inline void WithExpandedType(const Weight& weight, F f) {
#ifdef ZI_PAIR_PRODUCTS
  if (weight.type == DType::kBF16 && weight.inputs % BF16Pairs::kInputs == 0) return f(BF16Pairs{});
#endif
  f(F32{});
}

inline void LinearStored(const LinearOp& op, Run& run) {
  CheckGroups(op.weight);
  const DenseLinearOp ending{op.out, op.x, View{}, op.bias, false, op.activation, op.accumulate};
  WithExpandedType(op.weight, [&]<class W>(W) { LinearOf(ending, StoredRows<W>{op.weight}, run); });
}

}  // namespace zi::ZI_ISA
