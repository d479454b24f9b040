// The small vector vocabulary that all kernels are written in, in AVX2 + FMA + F16C: 8 floats.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define ZI_ISA avx2

namespace zi::avx2 {

constexpr int kWidth = 8;
/// Accumulators of a product tile are 4 × kTokenTile; with the operands they fill the 16 registers.
constexpr int kTokenTile = 3;

using Vec = __m256;

inline Vec Zero() { return _mm256_setzero_ps(); }
inline Vec Set(float x) { return _mm256_set1_ps(x); }
inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
/// a · b + c
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
/// c − a · b
inline Vec Fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
// Min and Max return `b` when either is NaN.
inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec Abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline Vec CopySign(Vec magnitude, Vec sign) {
  const Vec bit = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
inline Vec RoundNearest(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// 2^n for whole n in [−126, 127].
inline Vec PowerOfTwo(Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
/// a < b ? yes : no
inline Vec SelectLess(Vec a, Vec b, Vec yes, Vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
/// 0, 1, 2, …
inline Vec Iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }

/// What lies at even places of 2 · kWidth floats, and at odd ones.
inline void SplitPairs(const float* p, Vec& even, Vec& odd) {
  const auto ordered = [](Vec halves) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(halves), 0xD8)); };
  const Vec low = Load(p), high = Load(p + kWidth);
  even = ordered(_mm256_shuffle_ps(low, high, 0x88));
  odd = ordered(_mm256_shuffle_ps(low, high, 0xDD));
}

inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/// The first n < kWidth values, zeros after; touches no byte beyond them.
inline Vec LoadPartial(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline void StorePartial(float* p, Vec v, int n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }

inline Vec WidenF16(__m128i halves) { return _mm256_cvtph_ps(halves); }
inline Vec WidenBF16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline __m128i LoadHalves(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m128i LoadHalvesPartial(const uint8_t* p, int n) {
  alignas(16) uint8_t bytes[16] = {};
  std::memcpy(bytes, p, static_cast<size_t>(n) * 2);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}

/// The first n (kWidth or fewer) bytes, zeros after; touches no byte beyond them.
inline __m128i LoadBytes(const uint8_t* p, int64_t n) {
  if (n == 8) return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  if (n == 4) return _mm_loadu_si32(p);
  alignas(16) uint8_t bytes[16] = {};
  std::memcpy(bytes, p, static_cast<size_t>(n));
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}
inline Vec WidenI8(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }
/// Any code but NaN's. As f16 its value is 2^-8 of what it stands for, which widens without denormal floats.
inline Vec WidenE4M3(__m128i bytes) {
  const __m128i wide = _mm_cvtepi8_epi16(bytes);
  const __m128i size = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(0x3f80));
  const __m128i sign = _mm_and_si128(wide, _mm_set1_epi16(static_cast<int16_t>(0x8000)));
  return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(size, sign)), _mm256_set1_ps(256));
}
/// Two values of 4 bits in a byte, the low one first.
inline Vec WidenNibbles(__m128i bytes) {
  const __m128i wide = _mm_cvtepu8_epi16(bytes);
  const __m128i nibbles = _mm_and_si128(_mm_or_si128(wide, _mm_slli_epi16(wide, 4)), _mm_set1_epi8(15));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(nibbles));
}

/// Every NaN as one whose rounding stays one.
inline Vec PlainNan(Vec a) {
  return _mm256_blendv_ps(a, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
// To the nearest value of a shorter type, ties to even; a NaN is a plain one.
inline Vec RoundToBF16(Vec a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  return _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Vec RoundToF16(Vec a) { return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }

using Ints = __m256i;
inline Ints SetInts(int x) { return _mm256_set1_epi32(x); }
/// The first n (kWidth or fewer) of 32 bits, zeros after; touches no byte beyond them.
inline Ints LoadInts(const uint8_t* p, int64_t n) {
  return n >= kWidth ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                     : _mm256_maskload_epi32(reinterpret_cast<const int*>(p), FirstLanes(static_cast<int>(n)));
}
inline Ints And(Ints a, Ints b) { return _mm256_and_si256(a, b); }
inline Ints Or(Ints a, Ints b) { return _mm256_or_si256(a, b); }
inline Ints ShiftRight(Ints a, int count) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(count)); }
inline Ints ShiftLeft(Ints a, int count) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(count)); }
inline Vec ToFloats(Ints a) { return _mm256_cvtepi32_ps(a); }
/// The bits of a float.
inline Vec FloatsOf(Ints bits) { return _mm256_castsi256_ps(bits); }
inline Ints WidenBytes(__m128i bytes) { return _mm256_cvtepu8_epi32(bytes); }
/// yes where a = b.
inline Vec SelectEqual(Ints a, Ints b, Vec yes, Vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)));
}

/// Where each of eight values lies in a word of 32 bits.
struct NibbleOrder {
  Ints shifts;
  NibbleOrder(int a, int b, int c, int d, int e, int f, int g, int h) : shifts(_mm256_setr_epi32(a, b, c, d, e, f, g, h)) {}
};
/// kWidth values of 4 bits from kWidth / 2 bytes on: each in the low bits of a lane, with others above.
inline Ints LoadNibbles(const uint8_t* p, const NibbleOrder& order) {
  int word;
  std::memcpy(&word, p, sizeof word);
  return _mm256_srlv_epi32(_mm256_set1_epi32(word), order.shifts);
}
/// Products with codes of 4 bits look up both bytes of values in bf16: a register of floats has room for half a table only.
#define ZI_BYTE_LOOKUPS

/// Sixteen floats that are looked up by the low 4 bits of each lane.
struct Table16 {
  Vec low, high;
};
inline Table16 LoadTable16(const float* p) { return {Load(p), Load(p + 8)}; }
template <class F>
inline Table16 MapTable16(const Table16& table, F f) {
  return {f(table.low), f(table.high)};
}
template <class F>
inline Table16 MapTables16(const Table16& a, const Table16& b, F f) {
  return {f(a.low, b.low), f(a.high, b.high)};
}
inline Vec Lookup(const Table16& table, Ints nibbles) {
  // Bit 3 of a lane, as its sign, chooses the half.
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, nibbles), _mm256_permutevar8x32_ps(table.high, nibbles),
                          _mm256_castsi256_ps(_mm256_slli_epi32(nibbles, 28)));
}

// Sums and Sums4 add the lanes of a vector in one and the same tree.
inline __m128 Sums4(Vec a, Vec b, Vec c, Vec d) {
  const Vec pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}
inline float Sum(Vec a) { return _mm_cvtss_f32(Sums4(a, a, a, a)); }
inline float MaxLane(Vec a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

/// rows[i][j] → to[j · stride + i]: a kWidth × kWidth block of floats, transposed.
inline void Transpose(const float* const* rows, float* to, int64_t stride) {
  Vec r[8], s[8];
  for (int i = 0; i < 8; ++i) r[i] = Load(rows[i]);
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xEE);
    r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    Store(to + i * stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    Store(to + (i + 4) * stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

}  // namespace zi::avx2
