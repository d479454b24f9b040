// The small vector vocabulary that all kernels are written in, in AVX-512 (F, BW, VL, DQ): 16 floats.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#ifndef ZI_ISA
#define ZI_ISA avx512
#endif

namespace zi::ZI_ISA {

constexpr int kWidth = 16;
/// Accumulators of a product tile are 4 × kTokenTile; with the operands they fit the 32 registers.
constexpr int kTokenTile = 6;

using Vec = __m512;

inline Vec Zero() { return _mm512_setzero_ps(); }
inline Vec Set(float x) { return _mm512_set1_ps(x); }
inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
/// a · b + c
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
/// c − a · b
inline Vec Fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
// Min and Max return `b` when either is NaN.
inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec Abs(Vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  const Vec bit = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
}
inline Vec RoundNearest(Vec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// 2^n for whole n in [−126, 127].
inline Vec PowerOfTwo(Vec n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
/// a < b ? yes : no
inline Vec SelectLess(Vec a, Vec b, Vec yes, Vec no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
/// 0, 1, 2, …
inline Vec Iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

/// What lies at even places of 2 · kWidth floats, and at odd ones.
inline void SplitPairs(const float* p, Vec& even, Vec& odd) {
  const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Vec low = Load(p), high = Load(p + kWidth);
  even = _mm512_permutex2var_ps(low, places, high);
  odd = _mm512_permutex2var_ps(low, _mm512_or_si512(places, _mm512_set1_epi32(1)), high);
}

inline __mmask16 FirstLanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
/// The first n < kWidth values, zeros after; touches no byte beyond them.
inline Vec LoadPartial(const float* p, int n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void StorePartial(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }

inline Vec WidenF16(__m256i halves) { return _mm512_cvtph_ps(halves); }
inline Vec WidenBF16(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m256i LoadHalves(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256i LoadHalvesPartial(const uint8_t* p, int n) { return _mm256_maskz_loadu_epi16(FirstLanes(n), p); }

/// The first n (kWidth or fewer) bytes, zeros after; touches no byte beyond them.
inline __m128i LoadBytes(const uint8_t* p, int64_t n) {
  if (n == 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm_maskz_loadu_epi8(FirstLanes(static_cast<int>(n)), p);
}
inline Vec WidenI8(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }
/// Any code but NaN's. As f16 its value is 2^-8 of what it stands for, which widens without denormal floats.
inline Vec WidenE4M3(__m128i bytes) {
  const __m256i wide = _mm256_cvtepi8_epi16(bytes);
  const __m256i size = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3f80));
  const __m256i sign = _mm256_and_si256(wide, _mm256_set1_epi16(static_cast<int16_t>(0x8000)));
  return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(size, sign)), _mm512_set1_ps(256));
}
/// Two values of 4 bits in a byte, the low one first.
inline Vec WidenNibbles(__m128i bytes) {
  const __m128i wide = _mm_cvtepu8_epi16(bytes);
  const __m128i nibbles = _mm_and_si128(_mm_or_si128(wide, _mm_slli_epi16(wide, 4)), _mm_set1_epi8(15));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(nibbles));
}

/// Every NaN as one whose rounding stays one.
inline Vec PlainNan(Vec a) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a, _mm512_set1_ps(__builtin_nanf("")));
}
// To the nearest value of a shorter type, ties to even; a NaN is a plain one.
inline Vec RoundToBF16(Vec a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Vec RoundToF16(Vec a) { return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }

using Ints = __m512i;
inline Ints SetInts(int x) { return _mm512_set1_epi32(x); }
/// The first n (kWidth or fewer) of 32 bits, zeros after; touches no byte beyond them.
inline Ints LoadInts(const uint8_t* p, int64_t n) {
  return n >= kWidth ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi32(FirstLanes(static_cast<int>(n)), p);
}
inline Ints And(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Ints Or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
inline Ints ShiftRight(Ints a, int count) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(count)); }
inline Ints ShiftLeft(Ints a, int count) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(count)); }
inline Vec ToFloats(Ints a) { return _mm512_cvtepi32_ps(a); }
/// The bits of a float.
inline Vec FloatsOf(Ints bits) { return _mm512_castsi512_ps(bits); }
inline Ints WidenBytes(__m128i bytes) { return _mm512_cvtepu8_epi32(bytes); }
/// yes where a = b.
inline Vec SelectEqual(Ints a, Ints b, Vec yes, Vec no) {
  return _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(a, b), no, yes);
}

/// Where each of eight values lies in a word of 32 bits; both words of a vector have the same order.
struct NibbleOrder {
  Ints shifts;
  NibbleOrder(int a, int b, int c, int d, int e, int f, int g, int h)
      : shifts(_mm512_setr_epi32(a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h)) {}
};
/// kWidth values of 4 bits from kWidth / 2 bytes on: each in the low bits of a lane, with others above.
inline Ints LoadNibbles(const uint8_t* p, const NibbleOrder& order) {
  const __m512i low = _mm512_broadcastd_epi32(_mm_loadu_si32(p));
  return _mm512_srlv_epi32(_mm512_mask_broadcastd_epi32(low, 0xff00, _mm_loadu_si32(p + 4)), order.shifts);
}
/// Products with codes of 4 bits and of e4m3 take their inputs in another order, in which a lane meets several values of one load.
#define ZI_NIBBLE_BLOCKS
inline Ints WidenShorts(__m256i shorts) { return _mm512_cvtepu16_epi32(shorts); }

/// Sixteen floats that are looked up by the low 4 bits of each lane.
struct Table16 {
  Vec values;
};
inline Table16 LoadTable16(const float* p) { return {Load(p)}; }
template <class F>
inline Table16 MapTable16(const Table16& table, F f) {
  return {f(table.values)};
}
template <class F>
inline Table16 MapTables16(const Table16& a, const Table16& b, F f) {
  return {f(a.values, b.values)};
}
inline Vec Lookup(const Table16& table, Ints nibbles) { return _mm512_permutexvar_ps(nibbles, table.values); }

// Sums and Sums4 add the lanes of a vector in one and the same tree.
inline __m256 FoldHalves(Vec a) { return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)); }
inline __m128 Sums4(Vec a, Vec b, Vec c, Vec d) {
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(FoldHalves(a), FoldHalves(b)),
                                      _mm256_hadd_ps(FoldHalves(c), FoldHalves(d)));
  return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}
inline float Sum(Vec a) { return _mm_cvtss_f32(Sums4(a, a, a, a)); }
inline float MaxLane(Vec a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

/// rows[i][j] → to[j · stride + i]: a kWidth × kWidth block of floats, transposed.
inline void Transpose(const float* const* rows, float* to, int64_t stride) {
  Vec r[16], s[16];
  for (int i = 0; i < 16; ++i) r[i] = Load(rows[i]);
  // Within each 128-bit part: 4 × 4 blocks.
  for (int i = 0; i < 16; i += 2) {
    s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(s[i], s[i + 2], 0xEE);
    r[i + 2] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0xEE);
  }
  // r[4b + c], part p: column 4p + c of rows 4b … 4b + 3. Gather the four b of each column.
  for (int c = 0; c < 4; ++c) {
    const Vec low01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x44);         // parts 0, 1 of b = 0, then of b = 1
    const Vec low23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x44);    // the same of b = 2, 3
    const Vec high01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xEE);        // parts 2, 3
    const Vec high23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xEE);
    Store(to + c * stride, _mm512_shuffle_f32x4(low01, low23, 0x88));
    Store(to + (4 + c) * stride, _mm512_shuffle_f32x4(low01, low23, 0xDD));
    Store(to + (8 + c) * stride, _mm512_shuffle_f32x4(high01, high23, 0x88));
    Store(to + (12 + c) * stride, _mm512_shuffle_f32x4(high01, high23, 0xDD));
  }
}

}  // namespace zi::ZI_ISA
