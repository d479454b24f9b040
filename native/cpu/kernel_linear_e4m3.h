// One token times weights of e4m3: values are looked up in registers and never stored.
#pragma once
#include "cpu/kernel_expand.h"

#ifdef ZI_NIBBLE_BLOCKS
namespace zi::ZI_ISA {

/// Rows whose sums one tile makes, and room for the groups of a block of inputs, of which none is shorter than 32.
constexpr int kE4M3Rows = 2 * kRowTile;
constexpr int64_t kE4M3Groups = kDepth / 32 + kWidth;

struct E4M3Rows {
  /// The first row's; the others follow `distance` bytes after each other, and `next` is what is needed after this block.
  const uint8_t* codes;
  const uint8_t* next;
  int64_t distance;
  float scales[kE4M3Rows][kE4M3Groups];
};

/// acc + the products of n (kWidth or fewer) codes of any kind.
template <class R>
__attribute__((noinline)) Vec AddAnyE4M3(const uint8_t* codes, int64_t n, float scale, const R& rounded, const float* x, Vec acc) {
  for (int64_t j = 0; j < n; j += kWidth) {
    acc = Fma(rounded(Mul(E4M3CodesOrNan::Load(codes + j, Smaller(kWidth, n - j)), Set(scale))), Load(x + j), acc);
  }
  return acc;
}

/// sums[r] += the dot product of a row's codes and one token over one block of inputs, kStep of them at a time.
template <int kStep, class R>
__attribute__((noinline)) void E4M3Tile(const E4M3Rows& rows, const RowGroups& groups, const R& rounded, const float* x,
                                        int64_t length, float* sums) {
  Vec acc[kE4M3Rows];
#pragma GCC unroll 8
  for (int r = 0; r < kE4M3Rows; ++r) acc[r] = Zero();
  const Table16 high = LoadTable16(kHighE4M3);
  const int64_t step = rows.distance;
  const uint8_t* const halves[2] = {rows.codes, rows.codes + kRowTile * step};
  const uint8_t* const next[2] = {rows.next, rows.next + kRowTile * step};
  int64_t end = Smaller(groups.first_end, length);
  for (int64_t i = 0, g = 0; i < length; ++g) {
    Table16 low[kE4M3Rows];
#pragma GCC unroll 8
    for (int r = 0; r < kE4M3Rows; ++r) low[r] = {rounded(Mul(Load(kLowE4M3), Set(rows.scales[r][g])))};
    for (; i + kStep <= end; i += kStep) {
      Vec in[kStep / kWidth];
#pragma GCC unroll 4
      for (int j = 0; j < kStep / kWidth; ++j) in[j] = Load(x + i + j * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kE4M3Rows; ++r) {
        // A line lasts for 64 inputs: with shorter steps half of the rows are asked for in each half of it.
        if (kStep == 64 || (i & 32) / 32 == r / kRowTile) {
          _mm_prefetch(reinterpret_cast<const char*>(next[r / kRowTile] + i + r % kRowTile * step), _MM_HINT_T0);
        }
        const uint8_t* codes = halves[r / kRowTile] + i + r % kRowTile * step;
        if (__builtin_expect(HasUnusualE4M3<kStep>(codes), false)) {
          acc[r] = AddAnyE4M3(codes, kStep, rows.scales[r][g], rounded, x + i, acc[r]);
          continue;
        }
#pragma GCC unroll 4
        for (int j = 0; j < kStep / kWidth; ++j) {
          const Ints code = WidenBytes(LoadBytes(codes + j * kWidth, kWidth));
          acc[r] = Fma(Mul(Lookup(low[r], code), Lookup(high, _mm512_srli_epi32(code, 4))), in[j], acc[r]);
        }
      }
    }
    for (int r = 0; i < end && r < kE4M3Rows; ++r) {
      acc[r] = AddAnyE4M3(halves[r / kRowTile] + i + r % kRowTile * step, end - i, rows.scales[r][g], rounded, x + i, acc[r]);
    }
    i = end;
    end = groups.each < length - i ? i + groups.each : length;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kE4M3Rows; r += kRowTile) {
    const __m128 add = Sums4(acc[r], acc[r + 1], acc[r + 2], acc[r + 3]);
    _mm_storeu_ps(sums + r, _mm_add_ps(_mm_loadu_ps(sums + r), add));
  }
}

/// Sums of rows from the task's first on over one token, and how many of them: those that make whole tiles and have usual scales.
template <class R>
inline int64_t OneTokenE4M3(const Weight& w, const R& rounded, const PackedInputs& x, const Panel& task, float* sums) {
  const int64_t end = Smaller(task.row + task.rows, w.outputs);
  E4M3Rows rows;
  int64_t row = task.row;
  for (; row + kE4M3Rows <= end; row += kE4M3Rows) {
    alignas(64) float row_sums[kE4M3Rows] = {};
    for (int64_t k = 0, block = 0; k < w.inputs; k += kDepth, ++block) {
      const int64_t length = Smaller(kDepth, w.inputs - k);
      const RowGroups groups = FindRowGroups(w, k, length);
      for (int r = 0; r < kE4M3Rows; ++r) {
        LoadRowGroups(w, row + r, groups, rows.scales[r], nullptr);
        if (!AreUsual(rows.scales[r], groups.count)) return row - task.row;
      }
      rows.codes = RowCodes(w, row, k);
      rows.next = k + kDepth < w.inputs ? RowCodes(w, row, k + kDepth) : RowCodes(w, row + kE4M3Rows, 0);
      rows.distance = RowCodes(w, row + 1, k) - rows.codes;
      if (w.input_group % 64 == 0 || w.input_group >= w.inputs) {
        E4M3Tile<64>(rows, groups, rounded, x.At(block, 0), length, row_sums);
      } else {
        E4M3Tile<32>(rows, groups, rounded, x.At(block, 0), length, row_sums);
      }
    }
    std::memcpy(sums + (row - task.row), row_sums, sizeof row_sums);
  }
  return row - task.row;
}

/// 0 where groups are short or a rounding depends on exponents.
inline int64_t OneTokenE4M3(const Weight& w, const PackedInputs& x, const Panel& task, float* sums) {
  if (w.format != WeightFormat::kE4M3 || !(w.input_group % 32 == 0 || w.input_group >= w.inputs)) return 0;
  int64_t done = 0;
  WithRounding(w, [&]<class R>(const R& rounded) {
    if constexpr (R::kKeepsPowers) done = OneTokenE4M3(w, rounded, x, task, sums);
  });
  return done;
}

}  // namespace zi::ZI_ISA
#endif
