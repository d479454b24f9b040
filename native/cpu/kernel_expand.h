// Weights that are no values yet: blocks of them expanded to floats, or to pairs of bf16, for the tiles of linear.
#pragma once
#include "cpu/kernel_expand_columns.h"
#include "cpu/kernel_linear_rows.h"
#include "cpu/kernel_pairs.h"

namespace zi::ZI_ISA {

/// Stored input by input, and not turned into rows of other formats.
inline bool ByColumns(const Weight& w) {
  switch (w.format) {
    case WeightFormat::kDenseIn:
    case WeightFormat::kE4M3In:
      return true;
    case WeightFormat::kGptq:
      return w.bits != 4 && w.bits != 8;
    case WeightFormat::kDense:
    case WeightFormat::kE4M3:
    case WeightFormat::kInt8:
    case WeightFormat::kPacked8:
    case WeightFormat::kPacked4:
    case WeightFormat::kFp4:
    case WeightFormat::kTable4:
    case WeightFormat::kAwq:
      return false;
  }
  return false;
}

/// Expands blocks of one weight. Wide: how a value lies in a tile.
template <class Wide>
class Expander {
 public:
  /// Floats of scratch that it takes.
  static int64_t Floats(const Weight& w) {
    if (!ByColumns(w)) return GroupBuffers::Count(w, kInputs);
    return ColumnGroupFloats(w, kInputs) + (kPaired ? kWidth * kRowFloats : 0);
  }
  Expander(const Weight& w, float* scratch) : weight_(w), scratch_(scratch) {}

  /// Lanes [k, k + kDepth) of `count` rows from `row` on, to rows of kPitch floats, zero-padded to whole vectors. Rows beyond the
  /// last are anything. With columns kWidth rows are written at once, and `row` is a multiple of 8.
  /// @param ahead what is asked for meanwhile
  void Expand(int64_t row, int64_t count, int64_t k, float* to, Ahead& ahead) const {
    const int64_t input = k * Wide::kInputs, length = Smaller(kInputs, weight_.inputs - input);
    if (ByColumns(weight_)) return Columns(row, count, input, length, to, ahead);
#ifdef ZI_PAIR_PRODUCTS
    if constexpr (kPaired) {
      if (HasPairs(weight_) && InRegisters(row, count, input, length, to, ahead)) return;
    }
#endif
    const GroupBuffers buffers(weight_, kInputs, scratch_);
    const int64_t lines = ahead.Lines() / count + 1, order = kPaired ? 0 : OrderBlock(weight_);
    for (int64_t r = 0; r < count && row + r < weight_.outputs; ++r, to += kPitch) {
      ahead.Request(lines);
      Row(row + r, input, length, order, buffers, to);
    }
  }

  /// Where lanes [k, k + depth) of `count` rows from `row` on are stored.
  Ahead From(int64_t row, int64_t count, int64_t k, int64_t depth = kDepth) const {
    const int64_t input = k * Wide::kInputs, length = Smaller(depth * Wide::kInputs, weight_.inputs - input);
    const int64_t rows = Smaller(count, weight_.outputs - row);
    if (rows <= 0) return {nullptr, 0, 0, 0};
    const View& codes = weight_.Part(WeightPart::kCodes);
    if (weight_.format == WeightFormat::kGptq) {
      const int64_t first = input * weight_.bits / 32, end = ((input + length) * weight_.bits + 31) / 32;
      return {codes.data + (first * codes.strides[0] + row) * 4, end - first, rows * 4, codes.strides[0] * 4};
    }
    if (ByColumns(weight_)) {
      const int64_t bytes = ElementBytes(codes.dtype);
      return {codes.data + (input * codes.strides[0] + row) * bytes, length, rows * bytes, codes.strides[0] * bytes};
    }
    const uint8_t* from = RowCodes(weight_, row, input);
    return {from, rows, RowCodes(weight_, row, input + length) - from, RowCodes(weight_, row + 1, input) - from};
  }

 private:
  static constexpr bool kPaired = Wide::kInputs > 1;
  static constexpr int64_t kInputs = kDepth * Wide::kInputs;
  static constexpr int64_t kRowFloats = kInputs + kWidth;

  void Row(int64_t row, int64_t input, int64_t length, int64_t order, const GroupBuffers& buffers, float* to) const {
    const bool flat = weight_.format == WeightFormat::kTable4;
    const RowGroups groups = FindRowGroups(weight_, flat ? (row + weight_.first_row) * weight_.inputs + input : input, length);
    ExpandRow(weight_, row, input, length, order, groups, buffers, kPaired ? buffers.row : to);
    if constexpr (kPaired) Pack(buffers.row, length, to);
  }

#ifdef ZI_PAIR_PRODUCTS
  /// Pairs from decoders, and the other way for rows that they do not take. False where the weight has none.
  bool InRegisters(int64_t row, int64_t count, int64_t input, int64_t length, float* to, Ahead& ahead) const {
    const int64_t lines = ahead.Lines() / count + 1;
    return WithPairs(weight_, [&](const auto& decoder) {
      PairScales scales;
      for (int64_t r = row; r < row + count && r < weight_.outputs; ++r, to += kPitch) {
        ahead.Request(lines);
        const uint8_t* codes = RowCodes(weight_, r, input);
        const RowGroups groups = FindPairGroups(weight_, r, input, length);
        if (decoder.Load(weight_, r, groups, scales) && decoder.Takes(codes, length)) {
          ExpandPairs(decoder, scales, 0, groups, codes, length, to);
        } else {
          Row(r, input, length, 0, GroupBuffers(weight_, kInputs, scratch_), to);
        }
      }
    });
  }
#endif

  void Columns(int64_t row, int64_t count, int64_t input, int64_t length, float* to, Ahead& ahead) const {
    const int64_t squares = (count + kWidth - 1) / kWidth * ((length + kWidth - 1) / kWidth);
    const int64_t lines = ahead.Lines() / squares + 1;
    const auto before_square = [&] { ahead.Request(lines); };
    float* floats = scratch_ + ColumnGroupFloats(weight_, kInputs);
    for (int64_t r = 0; r < count && row + r < weight_.outputs; r += kWidth, to += kWidth * kPitch) {
      if constexpr (kPaired) {
        ExpandColumns(weight_, row + r, input, length, scratch_, floats, kRowFloats, before_square);
        for (int64_t i = 0; i < kWidth; ++i) Pack(floats + i * kRowFloats, length, to + i * kPitch);
      } else {
        ExpandColumns(weight_, row + r, input, length, scratch_, to, kPitch, before_square);
      }
    }
  }

  /// A row of floats as pairs; there is room for a vector behind it.
  static void Pack(float* row, int64_t length, float* to) {
#ifdef ZI_PAIR_PRODUCTS
    for (int64_t i = RoundUp(length, kWidth); i < RoundUp(length, 2 * kWidth); ++i) row[i] = 0;
    for (int64_t i = 0; i < length; i += 2 * kWidth) Store(to + i / 2, PairsOf(row + i));
#endif
  }

  const Weight& weight_;
  float* scratch_;
};

}  // namespace zi::ZI_ISA
