// What codes of 4 bits stand for where values are those of bf16: tables of low and of high bytes, for lookups of many at once.
#pragma once
#include "cpu/kernel_linear_floats.h"
#include "cpu/kernel_nibble_products.h"

#ifdef ZI_BYTE_LOOKUPS
namespace zi::ZI_ISA {

/// Inputs whose codes are looked up at once.
constexpr int64_t kByteInputs = 32;
/// Rows whose sums one tile makes.
constexpr int kByteRows = kRowTile;
/// Room for the groups of a block of inputs, of which none is shorter than kByteInputs, and a vector more.
constexpr int64_t kByteGroups = kDepth / kByteInputs + kWidth;

/// The sixteen values of a group, in both halves of registers.
struct ByteTable {
  Ints low, high;
};
inline Ints LoadTwice(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

/// The products of PowerProducts: low bytes, then high ones.
struct PowerBytes {
  uint8_t of[256][32];
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

/// Whether scales are powers of two: what codes stand for with them needs no rounding.
inline bool HasPowers(const Weight& w) {
  const bool as_stored = w.factor == 1 && !w.Part(WeightPart::kGlobal).data && w.row_group == 1;
  return w.format == WeightFormat::kFp4 && w.Part(WeightPart::kScales).dtype == DType::kE8M0 && as_stored &&
         w.product != DType::kF16 && w.type != DType::kF16;
}
/// Tables of groups with such scales.
struct PowerTables {
  static constexpr bool kTwoGroups = false;
  const uint8_t* scales;
  int64_t distance;
  ByteTable At(int r, int64_t g) const {
    const uint8_t* table = kPowerBytes.of[scales[r * distance + g]];
    return {LoadTwice(table), LoadTwice(table + 16)};
  }
};

/// The products of RoundedProducts with signs, with both values of an exponent's last bit, and as large as they may be: W of them,
/// from -W / 2 on. Low bytes, then high ones.
template <int W>
struct FractionBytes {
  /// The larger exponent of a scale.
  static constexpr int kLargest = 249;
  uint8_t of[512][2 * W];
  constexpr FractionBytes() : of() {
    for (int i = 0; i < 512; ++i) {
      const uint32_t exponent = kLargest - 1 + i / 128 % 2;
      const float power = __builtin_bit_cast(float, exponent << 23 | (i < 256 ? 0 : 0x80000000u));
      for (int d = -W / 2; d < W / 2; ++d) {
        // Nothing stays nothing, with no sign that subtracting would take for a part of a number.
        const float product = d == 0 ? 0 : kRoundedProducts.of[i % 128][d + 16] * power;
        const uint32_t bits = __builtin_bit_cast(uint32_t, product);
        of[i][d + W / 2] = static_cast<uint8_t>(bits >> 16);
        of[i][W + d + W / 2] = static_cast<uint8_t>(bits >> 24);
      }
    }
  }
};
template <int W>
alignas(64) inline constexpr FractionBytes<W> kFractionBytes{};

/// Whether products with scales are rounded to bf16 at once.
inline bool RoundsToBF16(const Weight& w) {
  const bool at_once = w.product == DType::kBF16 || (w.product == DType::kF32 && w.type == DType::kBF16);
  return at_once && w.factor == 1 && w.type != DType::kF16;
}
/// Whether they are, and scales have the few bits of bf16.
inline bool HasFractions(const Weight& w) {
  return w.format == WeightFormat::kPacked4 && w.Part(WeightPart::kScales).dtype == DType::kBF16 && RoundsToBF16(w);
}

/// Such scales of a block of inputs of a few rows.
struct FractionScales {
  /// Where tables begin among FractionBytes.
  int32_t places[kByteRows][kByteGroups];
  /// By how much high bytes are too large, four times.
  int32_t above[kByteRows][kByteGroups];

  /// False where a scale or a zero is out of what tables have.
  bool Load(const Weight& w, int64_t row, const RowGroups& groups) {
    const View& scales = w.Part(WeightPart::kScales);
    const bool has_zeros = w.Part(WeightPart::kZeros).data != nullptr;
    const int shift = has_zeros ? 6 : 5;
    const Ints first = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    Ints odd = SetInts(0);
    for (int r = 0; r < kByteRows; ++r) {
      const int64_t m = row + r + w.first_row, from = w.row_group == 1 ? m : m / w.row_group;
      const uint8_t* p = scales.data + (from * scales.strides[0] + groups.first) * 2;
      for (int64_t g = 0; g < groups.count; g += kWidth) {
        const int64_t n = groups.count - g;
        const __m128i halves = n >= kWidth ? LoadHalves(p + g * 2) : LoadHalvesPartial(p + g * 2, static_cast<int>(n));
        const Ints bits = _mm256_cvtepu16_epi32(halves), exponent = And(_mm256_srli_epi32(bits, 7), SetInts(255));
        const Ints index = Or(And(bits, SetInts(255)), And(_mm256_srli_epi32(bits, 7), SetInts(256)));
        Ints place = _mm256_slli_epi32(index, shift);
        Ints out = Or(_mm256_cmpgt_epi32(SetInts(1), exponent), _mm256_cmpgt_epi32(exponent, SetInts(kMost)));
        if (has_zeros) {
          const Ints zero = _mm256_cvtps_epi32(ZerosAt(w, from, groups.first + g, n));
          place = _mm256_add_epi32(place, _mm256_sub_epi32(SetInts(8), zero));
          out = Or(out, _mm256_cmpgt_epi32(_mm256_abs_epi32(zero), SetInts(8)));
        }
        odd = Or(odd, n >= kWidth ? out : And(out, FirstLanes(static_cast<int>(n))));
        const Ints half = _mm256_sub_epi32(SetInts(kMost / 2), _mm256_srli_epi32(exponent, 1));
        _mm256_storeu_si256(reinterpret_cast<Ints*>(places[r] + g), place);
        _mm256_storeu_si256(reinterpret_cast<Ints*>(above[r] + g), _mm256_shuffle_epi8(half, first));
      }
    }
    return _mm256_testz_si256(odd, odd);
  }

 private:
  static constexpr int kMost = FractionBytes<16>::kLargest;
};
/// Their tables: exponents are made less by whole twos, so that low bytes stay, and nothing stays nothing.
template <int W>
struct FractionTables {
  static constexpr bool kTwoGroups = false;
  const FractionScales& scales;
  explicit FractionTables(const FractionScales& from) : scales(from) {}
  ByteTable At(int r, int64_t g) const {
    const uint8_t* table = kFractionBytes<W>.of[0] + scales.places[r][g];
    return {LoadTwice(table), _mm256_subs_epu8(LoadTwice(table + W), SetInts(scales.above[r][g]))};
  }
};

/// Whether groups of fp4 have 16 inputs, and products with their scales are rounded to bf16 at once.
inline bool HasSixteens(const Weight& w) {
  return w.format == WeightFormat::kFp4 && w.input_group == 16 && w.inputs % kByteInputs == 0 && RoundsToBF16(w);
}
/// Such scales of a block of inputs of a few rows, and one and a half of each in the upper half of its word, both rounded: all values
/// of a group are these times powers of two.
struct SixteenScales {
  static constexpr int64_t kGroups = kDepth / 16 + kWidth;
  uint32_t words[kByteRows][kGroups];

  /// False where an exponent is near its ends, or a scale is nothing.
  bool Load(const Weight& w, int64_t row, const RowGroups& groups) {
    alignas(32) float scales[kGroups], zeros[kGroups];
    Ints odd = SetInts(0);
    for (int r = 0; r < kByteRows; ++r) {
      LoadRowGroups(w, row + r, groups, scales, zeros);
      for (int64_t g = 0; g < groups.count; g += kWidth) {
        const int64_t n = groups.count - g;
        const Vec scale = zi::ZI_ISA::Load(scales + g);
        const Ints size = And(_mm256_castps_si256(scale), SetInts(0x7fffffff));
        const Ints out = Or(_mm256_cmpgt_epi32(SetInts(7 << 23), size), _mm256_cmpgt_epi32(size, SetInts(247 << 23)));
        odd = Or(odd, n >= kWidth ? out : And(out, FirstLanes(static_cast<int>(n))));
        const Ints one = _mm256_srli_epi32(_mm256_castps_si256(RoundToBF16(scale)), 16);
        const Ints both = Or(one, _mm256_castps_si256(RoundToBF16(Mul(scale, Set(1.5f)))));
        _mm256_storeu_si256(reinterpret_cast<Ints*>(words[r] + g), both);
      }
    }
    return _mm256_testz_si256(odd, odd);
  }
};
/// The eight sizes of two groups behind each other; signs are those of codes.
struct SixteenTables {
  static constexpr bool kTwoGroups = true;
  const SixteenScales& scales;
  Ints choose, powers;

  explicit SixteenTables(const SixteenScales& from) : scales(from) {
    alignas(32) uint8_t bytes[32];
    alignas(32) int16_t power[16];
    constexpr int kHalf[8] = {-1, 0, 0, 1, 0, 1, 0, 1}, kPower[8] = {0, -1, 0, 0, 1, 1, 2, 2};
    for (int i = 0; i < 16; ++i) {
      const int half = kHalf[i % 8], at = (i < 8 ? 0 : 4) + 2 * half;
      bytes[2 * i] = static_cast<uint8_t>(half < 0 ? 0x80 : at);
      bytes[2 * i + 1] = static_cast<uint8_t>(half < 0 ? 0x80 : at + 1);
      power[i] = static_cast<int16_t>(kPower[i % 8] * 128);
    }
    choose = _mm256_load_si256(reinterpret_cast<const Ints*>(bytes));
    powers = _mm256_load_si256(reinterpret_cast<const Ints*>(power));
  }
  ByteTable At(int r, int64_t two) const {
    long long both;
    std::memcpy(&both, scales.words[r] + 2 * two, sizeof both);
    const Ints words = _mm256_add_epi16(_mm256_shuffle_epi8(_mm256_set1_epi64x(both), choose), powers);
    const Ints bytes = _mm256_packus_epi16(And(words, _mm256_set1_epi16(255)), _mm256_srli_epi16(words, 8));
    return {_mm256_permute4x64_epi64(bytes, 0x88), _mm256_permute4x64_epi64(bytes, 0xdd)};
  }
};

/// Whether values are those of bf16, from whatever scales.
inline bool AreShort(const Weight& w) {
  return w.type == DType::kBF16 || (w.factor == 1 && w.product == DType::kBF16 && w.type == DType::kF32);
}

/// Tables that are made for a block of inputs of a few rows: low bytes, then high ones.
class TableMaker {
 public:
  alignas(32) uint8_t of[kByteRows][kByteGroups][32];

  explicit TableMaker(const Weight& w) {
    const Table16 meanings = MeaningsOf(w);
    // Packing twice, half by half, leaves bytes in their order.
    meanings_ = {_mm256_permute2f128_ps(meanings.low, meanings.high, 0x20),
                 _mm256_permute2f128_ps(meanings.low, meanings.high, 0x31)};
  }
  void Make(const Weight& w, int64_t row, const RowGroups& groups, int r) {
    WithRounding(w, [&](const auto& rounded) { Make(w, row, groups, rounded, of[r]); });
  }

 private:
  template <class R>
  void Make(const Weight& w, int64_t row, const RowGroups& groups, const R& rounded, uint8_t (*to)[32]) const {
    alignas(32) float scales[kByteGroups], zeros[kByteGroups] = {};
    LoadRowGroups(w, row, groups, scales, zeros);
    for (int64_t g = 0; g < groups.count; ++g) {
      const Vec scale = Set(scales[g]), zero = Set(zeros[g]);
      const auto bits = [&](Vec code) { return _mm256_srli_epi32(_mm256_castps_si256(rounded(Mul(Sub(code, zero), scale))), 16); };
      const Ints words = _mm256_packus_epi32(bits(meanings_.low), bits(meanings_.high));
      const Ints bytes = _mm256_packus_epi16(And(words, _mm256_set1_epi16(255)), _mm256_srli_epi16(words, 8));
      _mm256_store_si256(reinterpret_cast<Ints*>(to[g]), _mm256_permute4x64_epi64(bytes, 0xd8));
    }
  }

  /// The first and the third quarter, then the others.
  Table16 meanings_;
};
struct MadeTables {
  static constexpr bool kTwoGroups = false;
  const uint8_t (*of)[kByteGroups][32];
  ByteTable At(int r, int64_t g) const { return {LoadTwice(of[r][g]), LoadTwice(of[r][g] + 16)}; }
};

}  // namespace zi::ZI_ISA
#endif
