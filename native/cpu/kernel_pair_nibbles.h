// Codes of 4 bits as pairs of bf16, 32 of a row to a register, and what all decoders to pairs share.
//
// A decoder takes a row's scales over a block of inputs and looks at its codes (`Load` and `Takes`, false where another way must
// be taken), makes of a group what looking up takes (`At`), and 32 codes to pairs with it (`Pairs`).
#pragma once
#include <type_traits>

#include "cpu/kernel_expand_rows.h"
#include "cpu/kernel_linear_nibbles.h"

#ifdef ZI_PAIR_PRODUCTS
namespace zi::ZI_ISA {

/// Inputs of a register of pairs, and of a block whose scales are loaded at once.
constexpr int64_t kPairInputs = 2 * kWidth;
constexpr int64_t kPairDepth = 64 * kPairInputs;
/// Room for the groups of a block of inputs, of which none is shorter than 16, and two vectors more.
constexpr int64_t kPairGroups = kPairDepth / 16 + 2 * kWidth;

/// What a decoder keeps of the groups of one row over a block of inputs.
struct PairScales {
  float scales[kPairGroups];
  float zeros[kPairGroups];
};

inline Ints PairsFrom(Vec low, Vec high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
/// `to` follows what the format says of rounding; what rounds to bf16 at once is left to the instruction that packs.
template <class R>
inline Ints RoundedPairs(const R& rounded, Vec low, Vec high) {
  if constexpr (R::kKeepsPowers) return PairsFrom(low, high);
  return PairsFrom(rounded(low), rounded(high));
}

/// Loads scales and zeros as floats. False where a product with them might be no normal number, which packing takes for zero.
inline bool LoadPairScales(const Weight& w, int64_t row, const RowGroups& groups, PairScales& to) {
  LoadRowGroups(w, row, groups, to.scales, to.zeros);
  if (!w.Part(WeightPart::kZeros).data) std::memset(to.zeros, 0, static_cast<size_t>(groups.count) * sizeof(float));
  return AreUsual(to.scales, groups.count);
}

/// 32 codes of 4 bits, each in the low bits of a word, with others above.
struct NibbleWords {
  static constexpr int64_t kBytes = 16;
  Ints spread, shifts;
  explicit NibbleWords(bool high_first) : shifts(SetInts(high_first ? 4 : 4 << 16)) {
    // Byte i to words 2i and 2i + 1.
    constexpr auto twice = [](int i) { return static_cast<int>(0x80008000u) | i | i << 16; };
    spread = _mm512_setr_epi32(twice(0), twice(1), twice(2), twice(3), twice(4), twice(5), twice(6), twice(7), twice(8), twice(9),
                               twice(10), twice(11), twice(12), twice(13), twice(14), twice(15));
  }
  Ints At(const uint8_t* codes) const {
    const Ints bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    return _mm512_srlv_epi16(_mm512_shuffle_epi8(bytes, spread), shifts);
  }
};

/// The products of RoundedProducts as bf16.
struct RoundedPairProducts {
  uint16_t of[128][32];
  constexpr RoundedPairProducts() : of() {
    for (int m = 0; m < 128; ++m) {
      for (int i = 0; i < 32; ++i) of[m][i] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, kRoundedProducts.of[m][i]) >> 16);
    }
  }
};
alignas(64) inline constexpr RoundedPairProducts kRoundedPairProducts;

/// packed4 with scales in bf16: the rounded products of a scale's fraction stand in a table, and its exponent is added.
template <bool kZeros>
struct ShortScaleNibbles {
  using Group = Ints;
  static constexpr int64_t kBytes = NibbleWords::kBytes;
  NibbleWords words{false};

  bool Load(const Weight& w, int64_t row, const RowGroups& groups, PairScales& to) const {
    const View& scales = w.Part(WeightPart::kScales);
    const int64_t m = row + w.first_row, from = w.row_group == 1 ? m : m / w.row_group;
    const uint8_t* p = scales.data + (from * scales.strides[0] + groups.first) * 2;
    bool usual = true;
    for (int64_t g = 0; g < groups.count; g += kWidth) {
      const int64_t n = groups.count - g;
      const __m256i halves = n >= kWidth ? LoadHalves(p + g * 2) : LoadHalvesPartial(p + g * 2, static_cast<int>(n));
      const Ints bits = WidenShorts(halves);
      // A place in the table counted in values, and what is added to both words of a lane.
      Ints place = _mm512_add_epi32(_mm512_slli_epi32(And(bits, SetInts(127)), 5), SetInts(8));
      if (kZeros) place = _mm512_sub_epi32(place, _mm512_cvtps_epi32(ZerosAt(w, from, groups.first + g, n)));
      const Ints power = And(_mm512_sub_epi32(bits, SetInts(127 << 7)), SetInts(0xff80));
      _mm512_storeu_si512(to.scales + g, Or(power, _mm512_slli_epi32(power, 16)));
      _mm512_storeu_si512(to.zeros + g, place);
      const Ints exponents = And(_mm512_srli_epi32(bits, 7), SetInts(0xff));
      const __mmask16 is_usual = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(exponents, SetInts(2)), SetInts(248));
      const uint32_t wanted = n >= kWidth ? 0xffffu : (1u << n) - 1;
      usual = usual && (is_usual & wanted) == wanted;
    }
    return usual;
  }
  bool Takes(const uint8_t*, int64_t) const { return true; }
  Group At(const PairScales& from, int64_t g) const {
    int32_t place, power;
    std::memcpy(&place, from.zeros + g, sizeof place);
    std::memcpy(&power, from.scales + g, sizeof power);
    const uint16_t* products = kRoundedPairProducts.of[0] + place;
    const Ints table = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(products)));
    const __mmask32 some = kZeros ? _mm512_test_epi16_mask(table, table) : ~__mmask32{0x01000100};
    return _mm512_mask_add_epi16(table, some, table, SetInts(power));
  }
  Vec Pairs(const Group& table, const uint8_t* codes) const {
    return FloatsOf(_mm512_permutexvar_epi16(words.At(codes), table));
  }
};

/// Codes of 4 bits with any meanings, scales and roundings.
template <class R>
struct AnyNibbles {
  using Group = Ints;
  static constexpr int64_t kBytes = NibbleWords::kBytes;
  R rounded;
  NibbleWords words;
  Vec meanings;
  bool usual_meanings = true;

  AnyNibbles(const Weight& w, const R& rounds)
      : rounded(rounds), words(w.format == WeightFormat::kTable4), meanings(Load16(w)) {
    for (int i = 0; w.format == WeightFormat::kTable4 && i < 16; ++i) {
      const float size = __builtin_fabsf(FloatAt(w.Part(WeightPart::kTable), i));
      usual_meanings = usual_meanings && (size == 0 || (size > 0x1p-30f && size < 0x1p15f));
    }
  }
  bool Load(const Weight& w, int64_t row, const RowGroups& groups, PairScales& to) const {
    return LoadPairScales(w, row, groups, to) && usual_meanings;
  }
  bool Takes(const uint8_t*, int64_t) const { return true; }
  Group At(const PairScales& from, int64_t g) const {
    const Vec values = Mul(Sub(meanings, Set(from.zeros[g])), Set(from.scales[g]));
    if constexpr (R::kKeepsPowers) return PairsFrom(values, values);
    const Vec round = rounded(values);
    return PairsFrom(round, round);
  }
  Vec Pairs(const Group& table, const uint8_t* codes) const {
    return FloatsOf(_mm512_permutexvar_epi16(words.At(codes), table));
  }

 private:
  static Vec Load16(const Weight& w) {
    if (w.format != WeightFormat::kTable4) return zi::ZI_ISA::Load(kFourBits);
    return LoadUpTo<F32>(w.Part(WeightPart::kTable).data, kWidth);
  }
};

/// fp4: all values of a group are its scale and one and a half of it, both rounded, times powers of two.
template <bool kTwoGroups>
struct E2M1Pairs {
  using Group = Ints;
  static constexpr int64_t kBytes = NibbleWords::kBytes;
  NibbleWords words{false};
  Ints choose, powers;

  E2M1Pairs() {
    // 0 and -0 are no scale's; the first and then of 1.5 times the scale. The second group's stand behind the first's.
    alignas(64) uint8_t bytes[64];
    alignas(64) int16_t power[32];
    constexpr int kSecond[8] = {-1, 0, 0, 1, 0, 1, 0, 1}, kPower[8] = {0, -1, 0, 0, 1, 1, 2, 2};
    for (int i = 0; i < 32; ++i) {
      const int which = kSecond[i % 8], from = (kTwoGroups && i >= 16 ? 4 : 0) + 2 * which;
      bytes[2 * i] = static_cast<uint8_t>(which < 0 ? 0x80 : from);
      bytes[2 * i + 1] = static_cast<uint8_t>(which < 0 ? 0x80 : from + 1);
      power[i] = static_cast<int16_t>(kPower[i % 8] * 128 + (i % 16 < 8 ? 0 : -0x8000));
    }
    choose = _mm512_load_si512(bytes);
    powers = _mm512_load_si512(power);
  }
  bool Load(const Weight& w, int64_t row, const RowGroups& groups, PairScales& to) const {
    LoadRowGroups(w, row, groups, to.scales, to.zeros);
    if (!AreUsual(to.scales, groups.count)) return false;
    for (int64_t g = 0; g < groups.count; g += kWidth) {
      const Vec scale = zi::ZI_ISA::Load(to.scales + g);
      const Ints one = _mm512_srli_epi32(_mm512_castps_si512(RoundToBF16(scale)), 16);
      Store(to.scales + g, FloatsOf(Or(one, _mm512_castps_si512(RoundToBF16(Mul(scale, Set(1.5f)))))));
    }
    return true;
  }
  bool Takes(const uint8_t*, int64_t) const { return true; }
  Group At(const PairScales& from, int64_t g) const {
    Ints scales;
    if constexpr (kTwoGroups) {
      long long two;
      std::memcpy(&two, from.scales + 2 * g, sizeof two);
      scales = _mm512_set1_epi64(two);
    } else {
      int32_t one;
      std::memcpy(&one, from.scales + g, sizeof one);
      scales = SetInts(one);
    }
    return _mm512_add_epi16(_mm512_shuffle_epi8(scales, choose), powers);
  }
  Vec Pairs(const Group& table, const uint8_t* codes) const {
    Ints places = words.At(codes);
    // Those of the second group are 16 places further.
    const Ints group = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    if (kTwoGroups) places = _mm512_ternarylogic_epi32(places, _mm512_set1_epi16(15), group, 0xea);
    return FloatsOf(_mm512_permutexvar_epi16(places, table));
  }
};

#ifdef ZI_PAIR_BLOCKS
constexpr bool kPairsReordered = true;
#else
constexpr bool kPairsReordered = false;
#endif

/// The products of PowerProducts as bf16, twice after each other: what stands above a code's four bits does not matter.
struct PowerPairProducts {
  uint16_t of[256][32];
  constexpr PowerPairProducts() : of() {
    for (int e = 0; e < 256; ++e) {
      for (int i = 0; i < 32; ++i) of[e][i] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, kPowerProducts.of[e][i % 16]) >> 16);
    }
  }
};
alignas(64) inline constexpr PowerPairProducts kPowerPairProducts;

/// fp4 with scales in e8m0: all values there are stand in a table, so a row of any scales is taken.
struct PowerPairs {
  using Group = const uint16_t*;
  static constexpr int64_t kBytes = NibbleWords::kBytes;
  NibbleWords words{false};
  Ints shifts;

  PowerPairs() {
    alignas(64) uint16_t bits[32];
    for (int i = 0; i < 32; ++i) bits[i] = static_cast<uint16_t>(4 * (i / 8));
    shifts = _mm512_load_si512(bits);
  }
  bool Load(const Weight& w, int64_t row, const RowGroups& groups, PairScales& to) const {
    const View& scales = w.Part(WeightPart::kScales);
    const int64_t m = row + w.first_row, from = w.row_group == 1 ? m : m / w.row_group;
    const uint8_t* p = scales.data + from * scales.strides[0] + groups.first;
    // Those of the rows that a tile has next.
    _mm_prefetch(reinterpret_cast<const char*>(p + 8 * scales.strides[0]), _MM_HINT_T0);
    auto* bytes = reinterpret_cast<uint8_t*>(to.scales);
    for (int64_t g = 0; g < groups.count; g += 64) {
      const int64_t n = groups.count - g;
      _mm512_storeu_si512(bytes + g, _mm512_maskz_loadu_epi8(n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1, p + g));
    }
    return true;
  }
  bool Takes(const uint8_t*, int64_t) const { return true; }
  Group At(const PairScales& from, int64_t g) const { return kPowerPairProducts.of[reinterpret_cast<const uint8_t*>(from.scales)[g]]; }
  /// Where inputs lie in the order of ReorderPairs, each code is looked up where its byte was loaded.
  Vec Pairs(Group values, const uint8_t* codes) const {
    const Ints table = _mm512_load_si512(values);
    if constexpr (!kPairsReordered) return FloatsOf(_mm512_permutexvar_epi16(words.At(codes), table));
    const Ints four = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    return FloatsOf(_mm512_permutexvar_epi16(_mm512_srlv_epi16(four, shifts), table));
  }
};

}  // namespace zi::ZI_ISA
#endif
