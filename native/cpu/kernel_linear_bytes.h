// A few tokens times weights of 4 bits whose values are bf16: both bytes of a value are looked up in registers, and it is never
// stored.
//
// Sixteen bytes of codes are looked up at once: even inputs in the lower half of a register, odd ones in the upper. So every vector
// of inputs has its even ones first, and sums of lanes are added as those of inputs in their order are.
#pragma once
#include "cpu/kernel_byte_tables.h"
#include "cpu/kernel_linear_rows.h"

#ifdef ZI_BYTE_LOOKUPS
namespace zi::ZI_ISA {

/// Bytes of codes that are looked up at once.
constexpr int64_t kByteCodes = kByteInputs / 2;
/// Tokens whose sums one tile makes at most, and how many there may be: with more, values that are stored once are as fast.
constexpr int64_t kByteTokens = 3, kMostByteTokens = 8;

struct ByteRows {
  /// The first row's; the others follow `distance` bytes after each other.
  const uint8_t* codes;
  int64_t distance;
  /// What is asked for meanwhile, a line with each step: one behind the other, or those of one row after those of another.
  const uint8_t* next;
  bool in_order;
  /// By how many bits the lower and the upper half are shifted.
  Ints shifts;
};

/// The tree of Sums4 where even lanes come before odd ones.
inline __m128 SplitSums4(Vec a, Vec b, Vec c, Vec d) {
  const auto pairs = [](Vec v) { return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); };
  const __m128 first = _mm_hadd_ps(pairs(a), pairs(b)), second = _mm_hadd_ps(pairs(c), pairs(d));
  return _mm_hadd_ps(first, second);
}

/// sums[t · kPanelRows + r] += the dot product of a row's codes and a token over one block of inputs.
template <int T, class Tables>
__attribute__((noinline)) void ByteTile(const ByteRows& rows, const Tables& from, const RowGroups& groups, const float* x,
                                        int64_t length, float* sums) {
  const Tables tables = from;
  const Ints shifts = rows.shifts, zero = _mm256_setzero_si256();
  // Sizes of a second group stand behind those of the first.
  constexpr long long kEights = 0x0808080808080808;
  const Ints later = _mm256_setr_epi64x(0, kEights, 0, kEights);
  Vec acc[kByteRows][T];
#pragma GCC unroll 8
  for (int r = 0; r < kByteRows; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[r][t] = Zero();
  }
  const uint8_t* codes = rows.codes;
  const int64_t step = rows.distance;
  const int64_t each = groups.each / kByteInputs, last = length / kByteInputs;
  int64_t end = Smaller(groups.first_end / kByteInputs, last);
  for (int64_t i = 0, g = 0; i < last; ++g) {
    for (; i < end; ++i, codes += kByteCodes, x += kByteInputs) {
      const uint8_t* next = rows.in_order ? rows.next + i * 64 : rows.next + i * kByteCodes + i % kByteRows * step;
      _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T0);
#pragma GCC unroll 8
      for (int r = 0; r < kByteRows; ++r) {
        const ByteTable table = tables.At(r, g);
        const Ints shifted = _mm256_srlv_epi32(LoadTwice(codes + r * step), shifts);
        const Ints places = Tables::kTwoGroups ? Or(And(shifted, _mm256_set1_epi8(7)), later) : And(shifted, _mm256_set1_epi8(15));
        const Ints low = _mm256_shuffle_epi8(table.low, places);
        Ints high = _mm256_shuffle_epi8(table.high, places);
        if (Tables::kTwoGroups) high = _mm256_xor_si256(high, And(_mm256_slli_epi16(shifted, 4), _mm256_set1_epi8(-128)));
        const Ints first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
        const Ints values[4] = {_mm256_unpacklo_epi16(zero, first), _mm256_unpackhi_epi16(zero, first),
                                _mm256_unpacklo_epi16(zero, second), _mm256_unpackhi_epi16(zero, second)};
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) acc[r][t] = Fma(FloatsOf(values[j]), Load(x + t * kPitch + j * kWidth), acc[r][t]);
        }
      }
    }
    end = each < last - i ? i + each : last;
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    float* sum = sums + t * kPanelRows;
    _mm_storeu_ps(sum, _mm_add_ps(_mm_loadu_ps(sum), SplitSums4(acc[0][t], acc[1][t], acc[2][t], acc[3][t])));
  }
}

/// A few tokens times a weight that it takes.
class ByteProducts {
 public:
  static bool Takes(const Weight& w) {
    if (!HasFloats(w)) return false;
    if (w.format == WeightFormat::kFp4) return w.input_group == 16 ? HasSixteens(w) : HasPowers(w) || AreShort(w);
    return (w.format == WeightFormat::kPacked4 || w.format == WeightFormat::kTable4) && AreShort(w);
  }
  /// Floats of scratch that it takes.
  static int64_t Floats(const Weight& w, int64_t tokens) { return (w.inputs + kDepth - 1) / kDepth * tokens * kPitch; }

  explicit ByteProducts(const Weight& w)
      : weight_(w), powers_(HasPowers(w)), fractions_(HasFractions(w)), sixteens_(HasSixteens(w)), made_(w) {
    const bool high_first = w.format == WeightFormat::kTable4;
    const int low = high_first ? 4 : 0, high = 4 - low;
    rows_.shifts = _mm256_setr_epi32(low, low, low, low, high, high, high, high);
    rows_.distance = RowCodes(w, 1, 0) - RowCodes(w, 0, 0);
    // Two tiles stay in the nearest cache.
    rows_.in_order = rows_.distance * 2 == w.inputs && kByteRows * rows_.distance <= 12 << 10;
  }

  /// Sums of rows from the task's first on, and how many of them: those that make whole tiles, up to scales that it does not take.
  int64_t Sums(const PackedInputs& x, const Panel& task, float* scratch, float* sums) {
    const PackedInputs split{scratch, x.tokens};
    SplitInputs(x, split);
    const int64_t end = Smaller(task.row + task.rows, weight_.outputs);
    int64_t row = task.row;
    for (; row + kByteRows <= end; row += kByteRows, sums += kByteRows) {
      for (int64_t k = 0, block = 0; k < weight_.inputs; k += kDepth, ++block) {
        if (Block(row, k, split, block, sums)) continue;
        for (int64_t t = 0; t < x.tokens; ++t) std::memset(sums + t * kPanelRows, 0, kByteRows * sizeof(float));
        return row - task.row;
      }
    }
    return row - task.row;
  }

 private:
  /// Even inputs of each vector before odd ones.
  void SplitInputs(const PackedInputs& x, const PackedInputs& to) const {
    const Ints places = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    for (int64_t k = 0, block = 0; k < weight_.inputs; k += kDepth, ++block) {
      const int64_t length = Smaller(kDepth, weight_.inputs - k);
      for (int64_t t = 0; t < x.tokens; ++t) {
        const float* from = x.At(block, t);
        float* split = const_cast<float*>(to.At(block, t));
        for (int64_t i = 0; i < length; i += kWidth) Store(split + i, _mm256_permutevar8x32_ps(Load(from + i), places));
      }
    }
  }

  /// False where scales are none that it takes.
  bool Block(int64_t row, int64_t k, const PackedInputs& x, int64_t block, float* sums) {
    const Weight& w = weight_;
    const int64_t length = Smaller(kDepth, w.inputs - k);
    const auto groups_of = [&](int64_t r) {
      return FindRowGroups(w, w.format == WeightFormat::kTable4 ? (r + w.first_row) * w.inputs + k : k, length);
    };
    RowGroups groups = groups_of(row);
    rows_.codes = RowCodes(w, row, k);
    if (rows_.in_order) {
      rows_.next = RowCodes(w, row + kByteRows, 0) + k / 2 * kByteRows;
    } else {
      rows_.next = k + kDepth < w.inputs ? RowCodes(w, row, k + kDepth) : RowCodes(w, row + kByteRows, 0);
    }
    const auto tiles = [&](const auto& tables) {
      Tiles(tables, groups, x, block, length, sums);
      return true;
    };
    if (powers_) {
      const View& scales = w.Part(WeightPart::kScales);
      const int64_t distance = scales.strides[0];
      return tiles(PowerTables{scales.data + (row + w.first_row) * distance + groups.first, distance});
    }
    if (sixteens_) {
      if (!sixteen_scales_.Load(w, row, groups)) return false;
      groups.first_end = groups.each = kByteInputs;
      return tiles(SixteenTables(sixteen_scales_));
    }
    if (fractions_ && fraction_scales_.Load(w, row, groups)) {
      const bool zeros = w.Part(WeightPart::kZeros).data != nullptr;
      return zeros ? tiles(FractionTables<32>(fraction_scales_)) : tiles(FractionTables<16>(fraction_scales_));
    }
    for (int r = 0; r < kByteRows; ++r) made_.Make(w, row + r, groups_of(row + r), r);
    return tiles(MadeTables{made_.of});
  }

  template <class Tables>
  void Tiles(const Tables& tables, const RowGroups& groups, const PackedInputs& x, int64_t block, int64_t length,
             float* sums) const {
    for (int64_t t = 0, count; t < x.tokens; t += count) {
      count = TileTokens(x.tokens - t, kByteTokens);
      const auto tile = count == 1 ? ByteTile<1, Tables> : count == 2 ? ByteTile<2, Tables> : ByteTile<3, Tables>;
      tile(rows_, tables, groups, x.At(block, t), length, sums + t * kPanelRows);
    }
  }

  const Weight& weight_;
  const bool powers_, fractions_, sixteens_;
  ByteRows rows_;
  FractionScales fraction_scales_;
  SixteenScales sixteen_scales_;
  TableMaker made_;
};

}  // namespace zi::ZI_ISA
#endif
