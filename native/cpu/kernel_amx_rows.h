// Rows of weights as tiles of AMX: 16 rows of 16 pairs of bf16, in place or expanded from what is stored.
#pragma once
#include "cpu/kernel_amx_columns.h"
#include "cpu/kernel_turned_rows.h"

namespace zi::amx {

/// Rows that are expanded together, at most.
constexpr int64_t kAmxRows = 4 * kTileRows;

/// Tiles of rows: the first's bytes, and how far the next row, tile and step are.
struct RowTiles {
  const uint8_t* data;
  int64_t row_bytes, tile_bytes, step_bytes;
};

/// Asks for whole rows in the order in which they lie, with few instructions for each line.
class RowsAhead {
 public:
  explicit RowsAhead(const Ahead& ahead)
      : at_(ahead.data), row_bytes_(ahead.row_bytes), distance_(ahead.row_distance), rows_(ahead.rows) {
    if (distance_ == row_bytes_ && rows_ > 1) {
      row_bytes_ *= rows_;
      rows_ = 1;
    }
    end_ = rows_ > 0 ? at_ + row_bytes_ : at_;
    lines_ = rows_ > 0 ? rows_ * ((row_bytes_ + 63) / 64) : 0;
  }
  int64_t lines() const { return lines_; }
  __attribute__((always_inline)) void Request(int64_t lines) {
    for (; lines > 0 && at_ < end_; --lines, at_ += 64) _mm_prefetch(reinterpret_cast<const char*>(at_), _MM_HINT_T1);
    if (at_ < end_ || --rows_ <= 0) return;
    end_ += distance_;
    at_ = end_ - row_bytes_;
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
  int64_t row_bytes_, distance_, rows_, lines_;
};

/// Weights whose values are stored. A source of tiles calls the argument of `With` with what expands `count` rows over a block of
/// kDepth lanes; `more` is scratch of `Floats()`. `in_rows`: blocks of a row follow each
/// other.
struct DenseTiles {
  DenseRows<BF16Pairs> rows;
  int64_t outputs() const { return rows.outputs(); }
  int64_t lanes() const { return rows.lanes(); }
  int64_t Floats() const { return 0; }
  /// Where they lie whole tiles can be read in place, which pays when they are read once.
  bool InPlace(int64_t row, int64_t k, RowTiles& tiles) const {
    if (row + kTileRows > outputs() || lanes() % kWidth != 0) return false;
    const int64_t distance = rows.weight.strides[0] * 2;
    tiles = {WeightsAt<BF16Pairs>(rows.weight, row, k), distance, distance * kTileRows, kStepInputs * 2};
    return true;
  }
  Ahead From(int64_t row, int64_t count, int64_t k, int64_t depth) const {
    const View& w = rows.weight;
    return {WeightsAt<BF16Pairs>(w, row, k), Smaller(count, outputs() - row), Smaller(depth, lanes() - k) * BF16Pairs::kBytes,
            w.strides[0] * 2};
  }
  template <class F>
  void With(float*, bool, F f) const {
    f([this](int64_t row, int64_t count, int64_t k, float* to) { rows.Widen(row, count, k, to); });
  }
};

/// N registers of each of `rows` rows behind each other, all of one group.
template <int N, class D>
__attribute__((noinline)) void ExpandBlock(const D& from, const PairScales* scales, int64_t g, const uint8_t* codes, int64_t distance,
                                           int64_t rows, float* to) {
  const D decoder = from;
  for (int64_t r = 0; r < rows; ++r, codes += distance, to += N * kWidth) {
    const auto group = decoder.At(scales[r], g);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) Store(to + i * kWidth, decoder.Pairs(group, codes + i * D::kBytes));
  }
}

/// Rows of tiles from a decoder: scales are loaded for several blocks at once.
template <class D>
class DecodedTiles {
 public:
  DecodedTiles(const Weight& w, const D& decoder, float* scales, const Expander<BF16Pairs>& other, int64_t depth)
      : weight_(w), decoder_(decoder), scales_(reinterpret_cast<PairScales*>(scales)), other_(other), depth_(depth) {}

  void operator()(int64_t row, int64_t count, int64_t k, float* to) {
    const int64_t input = k * BF16Pairs::kInputs, length = Smaller(2 * kDepth, weight_.inputs - input);
    const int64_t there = Smaller(count, weight_.outputs - row), place = row % kAmxRows;
    if (input % depth_ == 0) Load(row, there, input);
    const RowGroups groups = FindPairGroups(weight_, row, input, length);
    // Those of registers with two groups are counted by register.
    const int64_t first = groups.first - first_group_[place], skipped = groups.each < weight_.input_group ? first / 2 : first;
    const uint8_t* codes = RowCodes(weight_, row, input);
    const int64_t distance = RowCodes(weight_, row + 1, input) - codes;
    for (int64_t r = 0; r < there; ++r, to += kPitch, codes += distance) {
      if (takes_[place + r]) {
        ExpandPairs(decoder_, scales_[place + r], skipped, groups, codes, length, to);
      } else {
        Ahead none{nullptr, 0, 0, 0};
        other_.Expand(row + r, 1, k, to, none);
      }
    }
  }

  /// One tile of rows over kPairDepth inputs in blocks of a few registers, so that they are multiplied before they have left the
  /// core: calls f(tile, row_bytes, step, steps) for each. False where a row is to be expanded otherwise.
  template <class F>
  bool Blocks(int64_t row, int64_t input, float* tile, F f) {
    const int64_t count = Smaller(kTileRows, weight_.outputs - row), place = row % kAmxRows;
    Load(row, count, input);
    for (int64_t r = 0; r < count; ++r) {
      if (!takes_[place + r]) return false;
    }
    const int64_t length = Smaller(kPairDepth, weight_.inputs - input), last = length / kPairInputs;
    const RowGroups groups = FindPairGroups(weight_, row, input, length);
    const uint8_t* codes = RowCodes(weight_, row, input);
    const int64_t distance = RowCodes(weight_, row + 1, input) - codes, each = groups.each / kPairInputs;
    int64_t end = Smaller(groups.first_end / kPairInputs, last);
    for (int64_t i = 0, g = 0; i < last; ++g) {
      while (i < end) {
        const int64_t left = end - i, n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const auto expand = [&]<int N>() { ExpandBlock<N>(decoder_, scales_ + place, g, codes + i * D::kBytes, distance, count, tile); };
        if (n == 4) expand.template operator()<4>();
        if (n == 2) expand.template operator()<2>();
        if (n == 1) expand.template operator()<1>();
        f(tile, n * kWidth * 4, input / kPairInputs + i, n);
        i += n;
      }
      end = each < last - i ? i + each : last;
    }
    return true;
  }

 private:
  void Load(int64_t row, int64_t count, int64_t input) {
    const int64_t length = Smaller(depth_, weight_.inputs - input);
    const auto scale_row = [&](int64_t r) { return (r + weight_.first_row) / weight_.row_group; };
    bool usual = false;
    for (int64_t r = row; r < row + count; ++r) {
      const RowGroups groups = FindPairGroups(weight_, r, input, length);
      const int64_t place = r % kAmxRows;
      first_group_[place] = groups.first;
      if (weight_.row_group > 1 && r > row && scale_row(r) == scale_row(r - 1)) {
        std::memcpy(scales_[place].scales, scales_[place - 1].scales, static_cast<size_t>(groups.count) * sizeof(float));
        std::memcpy(scales_[place].zeros, scales_[place - 1].zeros, static_cast<size_t>(groups.count) * sizeof(float));
      } else {
        usual = decoder_.Load(weight_, r, groups, scales_[place]);
      }
      takes_[place] = usual && decoder_.Takes(RowCodes(weight_, r, input), length);
    }
  }

  const Weight& weight_;
  const D decoder_;
  PairScales* scales_;
  const Expander<BF16Pairs>& other_;
  /// Inputs whose scales are loaded at once.
  const int64_t depth_;
  int64_t first_group_[kAmxRows];
  bool takes_[kAmxRows];
};

/// Weights in any other format that has rows.
struct StoredTiles {
  const Weight& weight;
  int64_t outputs() const { return weight.outputs; }
  int64_t lanes() const { return weight.inputs / BF16Pairs::kInputs; }
  int64_t Floats() const { return Expander<BF16Pairs>::Floats(weight) + kAmxRows * int64_t{sizeof(PairScales) / sizeof(float)}; }
  bool InPlace(int64_t, int64_t, RowTiles&) const { return false; }
  Ahead From(int64_t row, int64_t count, int64_t k, int64_t depth) const {
    return Expander<BF16Pairs>(weight, nullptr).From(row, count, k, depth);
  }
  template <class F>
  void With(float* more, bool in_rows, F f) const {
    const Expander<BF16Pairs> expander(weight, more);
    float* scales = more + Expander<BF16Pairs>::Floats(weight);
    const auto decode = [&](const auto& decoder) { f(DecodedTiles(weight, decoder, scales, expander, in_rows ? kPairDepth : 2 * kDepth)); };
    if (HasPairs(weight) && WithPairs(weight, decode)) return;
    f([&](int64_t row, int64_t count, int64_t k, float* to) {
      Ahead none{nullptr, 0, 0, 0};
      expander.Expand(row, count, k, to, none);
    });
  }
};

}  // namespace zi::amx
