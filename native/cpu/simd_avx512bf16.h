// AVX-512 with products of pairs of bf16: two multiply-adds per lane, sums in f32.
#pragma once
#define ZI_ISA avx512bf16
/// Products with bf16 weights round their inputs to bf16.
#define ZI_PAIR_PRODUCTS
#include "cpu/simd_avx512.h"

namespace zi::avx512bf16 {

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

}  // namespace zi::avx512bf16
