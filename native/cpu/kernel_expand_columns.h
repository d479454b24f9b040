// Rows of weights that are stored input by input and are not turned into rows of words, expanded to floats. Lanes are rows until
// a square is transposed.
#pragma once
#include "cpu/kernel_expand_rows.h"

namespace zi::ZI_ISA {

/// Scales and zeros of kWidth rows from `row` on, of groups [first, first + count), each kWidth floats.
struct ColumnGroups {
  int64_t first;
  const float* scales;
  const float* zeros;
};

inline float ColumnZero(const Weight& w, int64_t group, int64_t m) {
  const View& zeros = w.Part(WeightPart::kZeros);
  const int64_t row = group * zeros.strides[0];
  if (w.format == WeightFormat::kE4M3In) return 0;
  const int bits = w.bits;
  const uint32_t mask = (1u << bits) - 1;
  const int64_t bit = m * bits;
  const int shift = static_cast<int>(bit % 32);
  // Where fields fill words, one was taken from each by a subtraction from the whole word, borrows included.
  const uint32_t ones = w.zero_plus_one && 32 % bits == 0 ? 0xffffffffu / mask : 0;
  uint64_t words = static_cast<uint32_t>(WordAt(zeros, row + bit / 32)) + ones;
  if (shift + bits > 32) words |= static_cast<uint64_t>(static_cast<uint32_t>(WordAt(zeros, row + bit / 32 + 1))) << 32;
  const uint32_t zero = static_cast<uint32_t>(words >> shift) & mask;
  return static_cast<float>(w.zero_plus_one && ones == 0 ? (zero + 1) & mask : zero);
}

/// `to` has room for 2 · kWidth floats of each group.
inline ColumnGroups LoadColumnGroups(const Weight& w, int64_t row, int64_t k, int64_t length, float* to) {
  const bool scattered = w.Part(WeightPart::kGroups).data != nullptr;
  const int64_t first = scattered ? 0 : k / w.input_group;
  const int64_t count = scattered ? GroupCount(w) : (k + length - 1) / w.input_group - first + 1;
  const View& scales = w.Part(WeightPart::kScales);
  const int64_t rows = Smaller(kWidth, w.outputs - row), m = row + w.first_row;
  float* zeros = to + count * kWidth;
  for (int64_t g = 0; g < count; ++g) {
    Store(to + g * kWidth, ScalesAt(scales, (first + g) * scales.strides[0] + m, rows));
    for (int64_t j = 0; j < kWidth; ++j) zeros[g * kWidth + j] = j < rows ? ColumnZero(w, first + g, m + j) : 0;
  }
  return {first, to, zeros};
}
inline int64_t ColumnGroupFloats(const Weight& w, int64_t depth) {
  return 2 * kWidth * (w.Part(WeightPart::kGroups).data ? GroupCount(w) : Smaller(GroupCount(w), depth / w.input_group + 2));
}

/// The codes of input k for kWidth rows from `row` on, a multiple of 8.
inline Ints ColumnCodes(const Weight& w, int64_t row, int64_t rows, int64_t k) {
  const View& codes = w.Part(WeightPart::kCodes);
  const int64_t bit = k * w.bits;
  const int shift = static_cast<int>(bit % 32);
  const uint8_t* p = codes.data + (bit / 32 * codes.strides[0] + row) * 4;
  Ints field = ShiftRight(LoadInts(p, rows), shift);
  if (shift + w.bits > 32) field = Or(field, ShiftLeft(LoadInts(p + codes.strides[0] * 4, rows), 32 - shift));
  return And(field, SetInts((1 << w.bits) - 1));
}

/// What `ColumnCodes` gives as numbers.
inline Vec ColumnNumbers(const Weight& w, int64_t row, int64_t rows, int64_t k) {
  if (w.format != WeightFormat::kE4M3In) return ToFloats(ColumnCodes(w, row, rows, k));
  const View& codes = w.Part(WeightPart::kCodes);
  return FloatsOfE4M3(LoadBytes(codes.data + k * codes.strides[0] + row, rows));
}

/// ExpandColumns of values that are stored as they are.
template <class F>
inline void TurnColumns(const Weight& w, int64_t row, int64_t k, int64_t length, float* to, int64_t pitch, F before_square) {
  const View& values = w.Part(WeightPart::kCodes);
  const int64_t rows = w.outputs - row;
  WithType(values.dtype, [&]<class W>(W) {
    float square[kWidth * kWidth];
    const float* lanes[kWidth];
    for (int j = 0; j < kWidth; ++j) lanes[j] = square + j * kWidth;
    for (int64_t i = 0; i < length; i += kWidth) {
      before_square();
      for (int64_t j = 0; j < kWidth; ++j) {
        const uint8_t* from = values.data + ((k + i + j) * values.strides[0] + row) * W::kBytes;
        Store(square + j * kWidth, i + j < length ? LoadUpTo<W>(from, rows) : Zero());
      }
      Transpose(lanes, to + i, pitch);
    }
  });
}

/// kWidth rows from `row` on (a multiple of 8) over inputs [k, k + length), to rows of `to` that are `pitch` apart, zero-padded
/// to whole vectors. `before_square` is called before each kWidth inputs.
template <class F>
inline void ExpandColumns(const Weight& w, int64_t row, int64_t k, int64_t length, float* group_floats, float* to, int64_t pitch,
                          F before_square) {
  if (w.format == WeightFormat::kDenseIn) return TurnColumns(w, row, k, length, to, pitch, before_square);
  const ColumnGroups groups = LoadColumnGroups(w, row, k, length, group_floats);
  const int64_t rows = Smaller(kWidth, w.outputs - row);
  const View& index = w.Part(WeightPart::kGroups);
  WithRounding(w, [&](const auto& rounded) {
    float square[kWidth * kWidth];
    const float* lanes[kWidth];
    for (int j = 0; j < kWidth; ++j) lanes[j] = square + j * kWidth;
    for (int64_t i = 0; i < length; i += kWidth) {
      before_square();
      for (int64_t j = 0; j < kWidth; ++j) {
        Vec value = Zero();
        if (i + j < length) {
          const int64_t input = k + i + j;
          const int64_t g = (index.data ? WordAt(index, input) : input / w.input_group) - groups.first;
          const Vec code = Sub(ColumnNumbers(w, row, rows, input), Load(groups.zeros + g * kWidth));
          value = rounded(Mul(code, Load(groups.scales + g * kWidth)));
        }
        Store(square + j * kWidth, value);
      }
      Transpose(lanes, to + i, pitch);
    }
  });
}

}  // namespace zi::ZI_ISA
