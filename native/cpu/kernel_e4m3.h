// Codes of e4m3 as words of bf16, 32 of a row to a register, whatever the codes are but NaN.
//
// The lower five bits of a code find one of 32 values, the exponent's upper two add powers of 16 to it, and the sign is added too.
// What has no exponent of its own is found among eight other values, with no branch: how many there are changes no time.
#pragma once
#include "cpu/kernel_expand_groups.h"

#ifdef ZI_NIBBLE_BLOCKS
namespace zi::ZI_ISA {

/// Codes of a register of words.
constexpr int64_t kWordCodes = 2 * kWidth;

/// Exponents far enough from both ends that products with e4m3 are normal numbers.
inline bool AreUsual(const float* scales, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Ints exponents = And(_mm512_srli_epi32(LoadInts(reinterpret_cast<const uint8_t*>(scales + i), n - i), 23), SetInts(0xff));
    const __mmask16 usual = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(exponents, SetInts(40)), SetInts(200));
    const uint32_t wanted = n - i >= kWidth ? 0xffffu : (1u << (n - i)) - 1;
    if ((usual & wanted) != wanted) return false;
  }
  return true;
}

/// Values of codes with exponents 0 to 3, as if 0 were an exponent like others; and of those with exponent 0 as they are.
struct E4M3Words {
  Ints normal, low;

  /// Times the scale, rounded to bf16, which keeps powers of two.
  static E4M3Words Of(float scale) {
    constexpr float kFractions[16] = {0x1p-7f, 0x1.2p-7f, 0x1.4p-7f, 0x1.6p-7f, 0x1.8p-7f, 0x1.ap-7f, 0x1.cp-7f, 0x1.ep-7f,
                                      0,       0x1p-9f,   0x2p-9f,   0x3p-9f,   0x4p-9f,   0x5p-9f,   0x6p-9f,   0x7p-9f};
    // The upper word of each of eight floats, four times.
    constexpr auto pair = [](int i) { return (2 * i + 1) | (2 * i + 3) << 16; };
    const Ints eight = _mm512_broadcast_i32x4(_mm_setr_epi32(pair(0), pair(2), pair(4), pair(6)));
    constexpr auto power = [](int i) { return i * 0x00800080; };
    const Ints powers = _mm512_setr_epi32(power(0), power(0), power(0), power(0), power(1), power(1), power(1), power(1), power(2),
                                          power(2), power(2), power(2), power(3), power(3), power(3), power(3));
    const Ints products = _mm512_castps_si512(RoundToBF16(Mul(Load(kFractions), Set(scale))));
    return {_mm512_add_epi16(_mm512_permutexvar_epi16(eight, products), powers),
            _mm512_permutexvar_epi16(_mm512_add_epi16(eight, _mm512_set1_epi16(16)), products)};
  }
  Ints At(const uint8_t* codes) const {
    const Ints words = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const __mmask32 is_low = _mm512_testn_epi16_mask(words, _mm512_set1_epi16(0x78));
    Ints value = _mm512_permutexvar_epi16(words, normal);
    value = _mm512_mask_permutexvar_epi16(value, is_low, words, low);
    const Ints more = And(_mm512_slli_epi16(words, 4), _mm512_set1_epi16(static_cast<int16_t>(0x8600)));
    return _mm512_add_epi16(value, more);
  }
};

inline Vec EvenFloats(Ints words) { return FloatsOf(_mm512_slli_epi32(words, 16)); }
inline Vec OddFloats(Ints words) { return FloatsOf(And(words, SetInts(static_cast<int>(0xffff0000u)))); }

/// The largest of 64 codes and those before without their signs: 0x7f where one is NaN.
inline Ints LargestE4M3(Ints largest, Ints codes) { return _mm512_max_epu8(largest, And(codes, _mm512_set1_epi8(0x7f))); }
inline bool IsNanE4M3(Ints largest) { return _mm512_cmpeq_epu8_mask(largest, _mm512_set1_epi8(0x7f)) != 0; }
/// `length` is a multiple of kWordCodes.
inline bool HasNanE4M3(const uint8_t* codes, int64_t length) {
  Ints largest = SetInts(0);
  for (int64_t i = 0; i < length; i += 64) {
    largest = LargestE4M3(largest, _mm512_maskz_loadu_epi64(length - i >= 64 ? 0xff : 0x0f, codes + i));
  }
  return IsNanE4M3(largest);
}

// What makes weights of words: a group's products stand in its table, or every value is multiplied and rounded.
struct TabledE4M3 {
  using Group = E4M3Words;
  bool Takes(const float* scales, int64_t n) const { return AreUsual(scales, n); }
  Group At(float scale) const { return E4M3Words::Of(scale); }
  Vec Even(const Group& group, Ints words) const { return EvenFloats(words); }
  Vec Odd(const Group& group, Ints words) const { return OddFloats(words); }
  static const E4M3Words& Words(const TabledE4M3&, const Group& group) { return group; }
};
template <class R>
struct MultipliedE4M3 {
  using Group = float;
  R rounded;
  /// Products are exact where scales are usual: for those that are rounded no further.
  bool usual = false;
  E4M3Words words = E4M3Words::Of(1);
  bool Takes(const float* scales, int64_t n) const { return !usual || AreUsual(scales, n); }
  Group At(float scale) const { return scale; }
  Vec Even(const Group& scale, Ints of) const { return rounded(Mul(EvenFloats(of), Set(scale))); }
  Vec Odd(const Group& scale, Ints of) const { return rounded(Mul(OddFloats(of), Set(scale))); }
  static const E4M3Words& Words(const MultipliedE4M3& self, const Group&) { return self.words; }
};

/// Whether each register of words takes codes of one group.
inline bool HasE4M3Words(const Weight& w) {
  return w.format == WeightFormat::kE4M3 && w.inputs % kWordCodes == 0 &&
         (w.input_group % kWordCodes == 0 || w.input_group >= w.inputs);
}

/// Calls f with what makes weights of words, until it is taken (true): that of fewest instructions first.
template <class F>
inline void WithE4M3(const Weight& w, F f) {
  WithRounding(w, [&]<class R>(const R& rounded) {
    if constexpr (std::is_same_v<R, ToBF16>) {
      // Four bits times a power of two are exact.
      const bool exact = w.Part(WeightPart::kScales).dtype == DType::kE8M0 && !w.Part(WeightPart::kGlobal).data;
      if (exact ? f(MultipliedE4M3<Exact>{Exact(w), true}) : f(TabledE4M3{})) return;
    }
    if constexpr (std::is_same_v<R, Exact>) {
      f(MultipliedE4M3<R>{rounded});
    } else {
      f(MultipliedE4M3<AnyRounding>{AnyRounding(w)});
    }
  });
}

/// Values of a multiple of kWordCodes codes, in their order or in that of Reorder. False where a code is NaN, or scales are not
/// to be taken.
template <class D>
inline bool ExpandWords(const D& from, const uint8_t* codes, const RowGroups& groups, int64_t length, const GroupBuffers& buffers,
                        bool in_order, float* to) {
  const D decoder = from;
  if (!decoder.Takes(buffers.scales, groups.count) || HasNanE4M3(codes, length)) return false;
  const Ints first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const Ints second = _mm512_add_epi32(first, SetInts(8));
  int64_t end = Smaller(groups.first_end, length);
  for (int64_t i = 0, g = 0; i < length; ++g) {
    const auto group = decoder.At(buffers.scales[g]);
    for (; i < end; i += kWordCodes) {
      const Ints words = D::Words(decoder, group).At(codes + i);
      const Vec even = decoder.Even(group, words), odd = decoder.Odd(group, words);
      Store(to + i, in_order ? _mm512_permutex2var_ps(even, first, odd) : even);
      Store(to + i + kWidth, in_order ? _mm512_permutex2var_ps(even, second, odd) : odd);
    }
    end = groups.each < length - i ? i + groups.each : length;
  }
  return true;
}

}  // namespace zi::ZI_ISA
#endif
