// AVX-512 with products of pairs of bf16: two multiply-adds per lane, sums in f32.
#pragma once
#ifndef ZI_ISA
#define ZI_ISA avx512bf16
/// Products with codes of 4 bits may take their inputs in another order; on tiles they do not.
#define ZI_PAIR_BLOCKS
#endif
/// Products with bf16 weights round their inputs to bf16.
#define ZI_PAIR_PRODUCTS
#include "cpu/simd_avx512.h"

namespace zi::ZI_ISA {

/// The first n of 2 · kWidth floats, rounded to nearest even, as kWidth pairs; zeros after.
inline Vec RoundPairs(const float* p, int64_t n) {
  const auto half = [&](int64_t from) {
    const int64_t left = n - from;
    return left >= kWidth ? Load(p + from) : left > 0 ? LoadPartial(p + from, static_cast<int>(left)) : Zero();
  };
  return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(half(kWidth), half(0)));
}

/// sum[i] + a[2i] · b[2i] + a[2i + 1] · b[2i + 1] of pairs
inline Vec DotPairs(Vec a, Vec b, Vec sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}

/// 2 · kWidth floats that bf16 holds exactly, as kWidth pairs.
inline Vec PairsOf(const float* p) {
  // The high halves of floats 2i and 2i + 1: words 4i + 1 and 4i + 3 of the 64.
  constexpr auto at = [](int i) { return 0x00030001 + i * 0x00040004; };
  const __m512i places = _mm512_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11),
                                           at(12), at(13), at(14), at(15));
  return _mm512_castsi512_ps(
      _mm512_permutex2var_epi16(_mm512_castps_si512(Load(p)), places, _mm512_castps_si512(Load(p + kWidth))));
}

}  // namespace zi::ZI_ISA
