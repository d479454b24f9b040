// A few tokens times weights of 4 bits whose values are bf16: both bytes of a value are looked up in registers, and it is never
// stored.
//
// Sixteen bytes of codes are looked up at once: even inputs in the lower half of a register, odd ones in the upper. So every vector
// of inputs has its even ones first, and sums of lanes are added as those of inputs in their order are.
#pragma once
#include "cpu/kernel_linear_floats.h"
#include "cpu/kernel_linear_nibbles.h"

#ifdef ZI_BYTE_LOOKUPS
namespace zi::ZI_ISA {

/// Inputs whose codes are looked up at once, and the bytes of these.
constexpr int64_t kByteInputs = 32, kByteCodes = 16;
/// Rows whose sums one tile makes.
constexpr int kByteRows = kRowTile;
/// The sixteen values of a group: their low bytes, then their high ones.
constexpr int64_t kByteTable = 32;
/// Room for the groups of a block of inputs, of which none is shorter than kByteInputs, and a vector more.
constexpr int64_t kByteGroups = kDepth / kByteInputs + kWidth;

/// Those of PowerProducts.
struct PowerBytes {
  uint8_t of[256][kByteTable];
  constexpr PowerBytes() : of() {
    for (int e = 0; e < 256; ++e) {
      for (int i = 0; i < 16; ++i) {
        const uint32_t bits = __builtin_bit_cast(uint32_t, kPowerProducts.of[e][i]);
        of[e][i] = static_cast<uint8_t>(bits >> 16);
        of[e][16 + i] = static_cast<uint8_t>(bits >> 24);
      }
    }
  }
};
alignas(64) inline constexpr PowerBytes kPowerBytes;

/// Tables of groups whose scales are powers of two: all there are stand in one.
struct PowerTables {
  const uint8_t* scales;
  int64_t distance;
  const uint8_t* At(int r, int64_t g) const { return kPowerBytes.of[scales[r * distance + g]]; }
};
/// Tables that were made for a block of inputs of a few rows.
struct MadeTables {
  const uint8_t (*of)[kByteGroups][kByteTable];
  const uint8_t* At(int r, int64_t g) const { return of[r][g]; }
};

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

inline Ints LoadTwice(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

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
  const Ints shifts = rows.shifts, nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
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
        const uint8_t* table = tables.At(r, g);
        const Ints places = And(_mm256_srlv_epi32(LoadTwice(codes + r * step), shifts), nibble);
        const Ints low = _mm256_shuffle_epi8(LoadTwice(table), places), high = _mm256_shuffle_epi8(LoadTwice(table + 16), places);
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
    switch (w.format) {
      case WeightFormat::kFp4:
        return w.input_group != 16 && (HasPowers(w) || AreShort(w));
      case WeightFormat::kPacked4:
      case WeightFormat::kTable4:
        return AreShort(w);
      case WeightFormat::kInt8:
      case WeightFormat::kPacked8:
      case WeightFormat::kE4M3:
      case WeightFormat::kDense:
      case WeightFormat::kDenseIn:
      case WeightFormat::kAwq:
      case WeightFormat::kGptq:
      case WeightFormat::kE4M3In:
        return false;
    }
    return false;
  }
  /// Floats of scratch that it takes.
  static int64_t Floats(const Weight& w, int64_t tokens) { return (w.inputs + kDepth - 1) / kDepth * tokens * kPitch; }

  explicit ByteProducts(const Weight& w) : weight_(w), powers_(HasPowers(w)) {
    const bool high_first = w.format == WeightFormat::kTable4;
    const int low = high_first ? 4 : 0, high = 4 - low;
    rows_.shifts = _mm256_setr_epi32(low, low, low, low, high, high, high, high);
    const Table16 meanings = MeaningsOf(w);
    // Packing twice, half by half, leaves bytes in their order.
    meanings_ = {_mm256_permute2f128_ps(meanings.low, meanings.high, 0x20),
                 _mm256_permute2f128_ps(meanings.low, meanings.high, 0x31)};
    rows_.distance = RowCodes(w, 1, 0) - RowCodes(w, 0, 0);
    // Two tiles stay in the nearest cache.
    rows_.in_order = rows_.distance * 2 == w.inputs && kByteRows * rows_.distance <= 12 << 10;
  }

  /// Sums of rows from the task's first on, and how many of them: those that make whole tiles.
  int64_t Sums(const PackedInputs& x, const Panel& task, float* scratch, float* sums) {
    const PackedInputs split{scratch, x.tokens};
    SplitInputs(x, split);
    const int64_t end = Smaller(task.row + task.rows, weight_.outputs);
    int64_t row = task.row;
    for (; row + kByteRows <= end; row += kByteRows) {
      for (int64_t k = 0, block = 0; k < weight_.inputs; k += kDepth, ++block) {
        Block(row, k, split.At(block, 0), sums + (row - task.row));
      }
    }
    return row - task.row;
  }

 private:
  static bool HasPowers(const Weight& w) {
    const bool as_stored = w.factor == 1 && !w.Part(WeightPart::kGlobal).data && w.row_group == 1;
    return w.format == WeightFormat::kFp4 && w.Part(WeightPart::kScales).dtype == DType::kE8M0 && as_stored &&
           w.product != DType::kF16 && w.type != DType::kF16;
  }
  /// Values are those of bf16.
  static bool AreShort(const Weight& w) {
    return w.type == DType::kBF16 || (w.factor == 1 && w.product == DType::kBF16 && w.type == DType::kF32);
  }

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

  void Block(int64_t row, int64_t k, const float* x, float* sums) {
    const Weight& w = weight_;
    const int64_t length = Smaller(kDepth, w.inputs - k);
    const auto groups_of = [&](int64_t r) {
      return FindRowGroups(w, w.format == WeightFormat::kTable4 ? (r + w.first_row) * w.inputs + k : k, length);
    };
    const RowGroups groups = groups_of(row);
    rows_.codes = RowCodes(w, row, k);
    if (rows_.in_order) {
      rows_.next = RowCodes(w, row + kByteRows, 0) + k / 2 * kByteRows;
    } else {
      rows_.next = k + kDepth < w.inputs ? RowCodes(w, row, k + kDepth) : RowCodes(w, row + kByteRows, 0);
    }
    if (powers_) {
      const View& scales = w.Part(WeightPart::kScales);
      const int64_t distance = scales.strides[0];
      const PowerTables tables{scales.data + (row + w.first_row) * distance + groups.first, distance};
      return ByteTile<1>(rows_, tables, groups, x, length, sums);
    }
    WithRounding(w, [&](const auto& rounded) {
      for (int r = 0; r < kByteRows; ++r) MakeTables(row + r, groups_of(row + r), rounded, tables_[r]);
    });
    ByteTile<1>(rows_, MadeTables{tables_}, groups, x, length, sums);
  }

  template <class R>
  void MakeTables(int64_t row, const RowGroups& groups, const R& rounded, uint8_t (*to)[kByteTable]) const {
    alignas(32) float scales[kByteGroups], zeros[kByteGroups] = {};
    LoadRowGroups(weight_, row, groups, scales, zeros);
    for (int64_t g = 0; g < groups.count; ++g) {
      const Vec scale = Set(scales[g]), zero = Set(zeros[g]);
      const auto bits = [&](Vec code) { return _mm256_srli_epi32(_mm256_castps_si256(rounded(Mul(Sub(code, zero), scale))), 16); };
      const Ints words = _mm256_packus_epi32(bits(meanings_.low), bits(meanings_.high));
      const Ints bytes = _mm256_packus_epi16(And(words, _mm256_set1_epi16(255)), _mm256_srli_epi16(words, 8));
      _mm256_store_si256(reinterpret_cast<Ints*>(to[g]), _mm256_permute4x64_epi64(bytes, 0xd8));
    }
  }

  const Weight& weight_;
  const bool powers_;
  ByteRows rows_;
  /// The first and third quarter, then the others.
  Table16 meanings_;
  alignas(32) uint8_t tables_[kByteRows][kByteGroups][kByteTable];
};

}  // namespace zi::ZI_ISA
#endif
