// One token times weights of e4m3: values are made in registers and never stored.
#pragma once
#include "cpu/kernel_expand.h"

#ifdef ZI_NIBBLE_BLOCKS
namespace zi::ZI_ISA {

/// Rows whose sums one tile makes, and room for the groups of a block of inputs.
constexpr int kE4M3Rows = 2 * kRowTile;
constexpr int64_t kE4M3Groups = kDepth / kWordCodes + kWidth;

struct E4M3Rows {
  /// The first row's; the others follow `distance` bytes after each other.
  const uint8_t* codes;
  int64_t distance;
  AheadInRows ahead;
  float scales[kE4M3Rows][kE4M3Groups];
};

/// sums[r] += the dot product of a row's codes and one token over one block of inputs. False where a code is NaN.
/// @param kShared the first row's scales are those of all
template <bool kShared, class D>
__attribute__((noinline)) bool E4M3Tile(const D& from, const E4M3Rows& rows, const RowGroups& groups, const float* x,
                                        int64_t length, float* sums) {
  constexpr int kScales = kShared ? 1 : kE4M3Rows;
  const D decoder = from;
  Vec acc[kE4M3Rows];
#pragma GCC unroll 8
  for (int r = 0; r < kE4M3Rows; ++r) acc[r] = Zero();
  Ints largest = SetInts(0);
  const int64_t step = rows.distance;
  const uint8_t* const halves[2] = {rows.codes, rows.codes + kRowTile * step};
  const uint8_t* ahead = rows.ahead.here;
  int64_t end = Smaller(groups.first_end, length);
  for (int64_t i = 0, g = 0; i < length; ++g) {
    typename D::Group group[kScales];
#pragma GCC unroll 8
    for (int r = 0; r < kScales; ++r) group[r] = decoder.At(rows.scales[r][g]);
    for (; i < end; i += kWordCodes) {
      const Vec even = Load(x + i), odd = Load(x + i + kWidth);
      // A line lasts for 64 codes: half of the rows are asked for, and looked at, in each half of it.
      const int half = i / kWordCodes % 2;
      if (i >= rows.ahead.turn) ahead = rows.ahead.below;
      const uint8_t* next = ahead + i + half * kRowTile * step;
#pragma GCC unroll 4
      for (int r = 0; r < kRowTile; ++r) _mm_prefetch(reinterpret_cast<const char*>(next + r * step), _MM_HINT_T0);
#pragma GCC unroll 8
      for (int r = 0; r < kE4M3Rows; ++r) {
        const uint8_t* codes = halves[r / kRowTile] + i + r % kRowTile * step;
        const auto& of = group[kShared ? 0 : r];
        const Ints words = D::Words(decoder, of).At(codes);
        acc[r] = Fma(decoder.Even(of, words), even, acc[r]);
        acc[r] = Fma(decoder.Odd(of, words), odd, acc[r]);
      }
      if (half == 0 && i + 2 * kWordCodes <= length) {
#pragma GCC unroll 8
        for (int r = 0; r < kE4M3Rows; ++r) {
          largest = LargestE4M3(largest, _mm512_loadu_si512(halves[r / kRowTile] + i + r % kRowTile * step));
        }
      } else if (half == 0) {
        for (int r = 0; r < kE4M3Rows; ++r) {
          largest = LargestE4M3(largest, _mm512_maskz_loadu_epi64(0x0f, halves[r / kRowTile] + i + r % kRowTile * step));
        }
      }
    }
    end = groups.each < length - i ? i + groups.each : length;
  }
  if (IsNanE4M3(largest)) return false;
#pragma GCC unroll 8
  for (int r = 0; r < kE4M3Rows; r += kRowTile) {
    const __m128 add = Sums4(acc[r], acc[r + 1], acc[r + 2], acc[r + 3]);
    _mm_storeu_ps(sums + r, _mm_add_ps(_mm_loadu_ps(sums + r), add));
  }
  return true;
}

/// The sums of kE4M3Rows rows over one token. False where they are to be made otherwise.
template <class D>
inline bool E4M3Sums(const Weight& w, const D& decoder, const PackedInputs& x, int64_t row, float* sums) {
  const auto scale_row = [&](int64_t r) { return (r + w.first_row) / w.row_group; };
  const bool shared = w.row_group > 1 && scale_row(row) == scale_row(row + kE4M3Rows - 1);
  const View& part = w.Part(WeightPart::kCodes);
  const CodeRows codes{part.data, part.strides[0], 0};
  E4M3Rows rows;
  rows.distance = codes.distance;
  for (int64_t k = 0, block = 0; k < w.inputs; k += kDepth, ++block) {
    const int64_t length = Smaller(kDepth, w.inputs - k);
    const RowGroups groups = FindRowGroups(w, k, length);
    for (int r = 0; r < (shared ? 1 : kE4M3Rows); ++r) {
      LoadRowGroups(w, row + r, groups, rows.scales[r], nullptr);
      if (!decoder.Takes(rows.scales[r], groups.count)) return false;
    }
    rows.codes = codes.At(row, k);
    rows.ahead = AheadInRows(codes, w.inputs, row, kE4M3Rows, k);
    const auto tile = shared ? E4M3Tile<true, D> : E4M3Tile<false, D>;
    if (!tile(decoder, rows, groups, x.At(block, 0), length, sums)) return false;
  }
  return true;
}

/// Sums of rows from the task's first on over one token, and how many of them: those that make whole tiles and have no NaN.
/// The weight HasE4M3Words.
inline int64_t OneTokenE4M3(const Weight& w, const PackedInputs& x, const Panel& task, float* sums) {
  const int64_t end = Smaller(task.row + task.rows, w.outputs);
  int64_t row = task.row;
  WithE4M3(w, [&](const auto& decoder) {
    for (; row + kE4M3Rows <= end; row += kE4M3Rows) {
      alignas(64) float row_sums[kE4M3Rows] = {};
      if (!E4M3Sums(w, decoder, x, row, row_sums)) return false;
      std::memcpy(sums + (row - task.row), row_sums, sizeof row_sums);
    }
    return true;
  });
  return row - task.row;
}

}  // namespace zi::ZI_ISA
#endif
