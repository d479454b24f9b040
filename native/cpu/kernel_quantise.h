// One row of values to codes and scales. Scales are chosen so that little is lost, and codes fit the scale as it is stored.
#pragma once
#include <cmath>

#include "cpu/kernel_common.h"
#include "cpu/quantise.h"

namespace zi::ZI_ISA {

constexpr float kE4M3Largest = 448;
/// Keeps reciprocals finite; a group of smaller values is all zeros.
constexpr float kSmallestScale = 0x1p-100f;

// Plain loops below have no branches and no float sums, so compilers make vectors of them.

inline uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float FromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// The largest magnitude, as bits: those of numbers that are not finite are the largest of all.
inline uint32_t LargestBits(const float* x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = Bits(x[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

inline float RoundBF16(float x) {
  const uint32_t bits = Bits(x);
  return FromBits((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}
inline float RoundF16(float x) { return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }

inline float RoundTo(DType dtype, float x) {
  if (dtype == DType::kBF16) return RoundBF16(x);
  return dtype == DType::kF16 ? RoundF16(x) : x;
}
/// In place; n may be any number.
inline void RoundAllTo(DType dtype, float* x, int64_t n) {
  if (dtype == DType::kBF16) {
    for (int64_t i = 0; i < n; ++i) x[i] = RoundBF16(x[i]);
  } else if (dtype == DType::kF16) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
      _mm256_storeu_ps(x + i, _mm256_cvtph_ps(halves));
    }
    for (; i < n; ++i) x[i] = RoundF16(x[i]);
  }
}

inline void StoreScale(const QuantiseJob& job, int64_t index, float scale) {
  uint8_t* at = job.scales + index * ElementBytes(job.scale_dtype);
  if (job.scale_dtype == DType::kF32) {
    std::memcpy(at, &scale, sizeof scale);
    return;
  }
  const uint16_t half = job.scale_dtype == DType::kBF16
                            ? static_cast<uint16_t>(Bits(scale) >> 16)
                            : static_cast<uint16_t>(_cvtss_sh(scale, _MM_FROUND_TO_NEAREST_INT));
  std::memcpy(at, &half, sizeof half);
}

/// Never zero, which readers take for damage, and so large that its reciprocal is finite.
inline float StoredScale(DType dtype, float scale) {
  const float rounded = RoundTo(dtype, scale);
  const float smallest = dtype == DType::kF16 ? 0x1p-24f : kSmallestScale;
  return rounded < smallest ? smallest : rounded;
}

/// Whole codes from `low` to `high`.
struct WholeCodes {
  float low, high;
  /// Adding 1.5 · 2^23 leaves no bits behind the point; quotients are far smaller, as scales fit their values.
  Vec Of(Vec x, Vec inverse) const {
    const Vec shift = Set(0x1.8p23f);
    return Min(Max(Sub(Fma(x, inverse, shift), shift), Set(low)), Set(high));
  }
};

/// What the largest magnitude is divided by. At 7 nothing is cut off; with more, few large values lose a little and all
/// others gain. Of a normal distribution in groups of 64, the best is mostly between 8 and 9.
constexpr float kInt4Divisors[] = {7, 7.5f, 8, 8.5f, 9, 9.5f, 10, 11};
constexpr int kTried = 8;

/// The scale of four-bit codes whose squares lose least. All are tried in one pass over the values.
inline float ChooseInt4Scale(DType scale_dtype, const float* x, int64_t n, float largest) {
  float scales[kTried], inverses[kTried], lost[kTried];
  for (int c = 0; c < kTried; ++c) {
    scales[c] = StoredScale(scale_dtype, largest / kInt4Divisors[c]);
    inverses[c] = 1 / scales[c];
  }
  constexpr WholeCodes kCodes{-8, 7};
  Vec sums[kTried];
  for (Vec& sum : sums) sum = Zero();
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec value = LoadUpTo(x + i, n - i);
#pragma GCC unroll 8
    for (int c = 0; c < kTried; ++c) {
      const Vec difference = Fnma(kCodes.Of(value, Set(inverses[c])), Set(scales[c]), value);
      sums[c] = Fma(difference, difference, sums[c]);
    }
  }
  _mm_storeu_ps(lost, Sums4(sums[0], sums[1], sums[2], sums[3]));
  _mm_storeu_ps(lost + 4, Sums4(sums[4], sums[5], sums[6], sums[7]));
  // Squares of huge values may overflow; then nothing is cut off.
  int best = 0;
  for (int c = 1; c < kTried; ++c) best = lost[c] < lost[best] ? c : best;
  return scales[best];
}

inline float ChooseScale(const QuantiseJob& job, const float* x, int64_t n, float largest) {
  switch (job.to) {
    case QuantiseTo::kInt4:
      return ChooseInt4Scale(job.scale_dtype, x, n, largest);
    case QuantiseTo::kInt8:
      return StoredScale(job.scale_dtype, largest / 127);
    case QuantiseTo::kE4M3:
      return StoredScale(job.scale_dtype, largest / kE4M3Largest);
  }
  FailOp("there are no codes of kind %d", static_cast<int>(job.to));
}

/// x → the nearest values of e4m3 times 1/scale, ties to even, never beyond the largest.
inline void ToE4M3(const float* x, int64_t n, float scale, float* codes) {
  const float inverse = 1 / scale;
  for (int64_t i = 0; i < n; ++i) {
    const float scaled = x[i] * inverse;
    const float size = std::fabs(scaled);
    const float bounded = size < kE4M3Largest ? size : kE4M3Largest;
    const uint32_t bits = Bits(bounded);
    const float normal = FromBits((bits + 0x7ffffu + ((bits >> 20) & 1u)) & 0xfff00000u);
    // Adding 2^14 leaves a mantissa whose last bit is 2^-9: the steps below 2^-6.
    const float small = (bounded + 0x1p14f) - 0x1p14f;
    const float rounded = bounded < 0x1p-6f ? small : normal;
    codes[i] = FromBits(Bits(rounded) | (Bits(scaled) & 0x80000000u));
  }
}
inline void StoreE4M3(const float* codes, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = Bits(codes[i]), size = bits & 0x7fffffffu;
    const uint32_t normal = (size >> 20) - (120u << 3);
    const uint32_t small = static_cast<uint32_t>(static_cast<int32_t>(FromBits(size) * 512));
    to[i] = static_cast<uint8_t>((size < 0x3c800000u ? small : normal) | (bits >> 24 & 0x80u));
  }
}

inline void ToWhole(const float* x, int64_t n, float scale, const WholeCodes& kind, float* codes) {
  const Vec inverse = Set(1 / scale);
  for (int64_t i = 0; i < n; i += kWidth) {
    StoreUpTo(codes + i, kind.Of(LoadUpTo(x + i, n - i), inverse), n - i);
  }
}

inline void StoreWhole(const float* codes, int64_t n, int offset, uint8_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<uint8_t>(static_cast<int32_t>(codes[i]) + offset);
}
/// `bytes` holds an even number of them: what no value fills is zero.
inline void StoreNibbles(const uint8_t* bytes, int64_t pairs, uint8_t* to) {
  for (int64_t i = 0; i < pairs; ++i) to[i] = static_cast<uint8_t>(bytes[2 * i] | bytes[2 * i + 1] << 4);
}

/// Bits of a code.
inline int64_t CodeBits(QuantiseTo to) { return to == QuantiseTo::kInt4 ? 4 : 8; }

/// n codes; what is left of a last word is zero. `bytes` has room for as many and seven more.
inline void StoreCodes(QuantiseTo to, const float* codes, int64_t n, uint8_t* bytes, uint8_t* stored) {
  const int64_t stride = CodeStride(to, n);
  switch (to) {
    case QuantiseTo::kInt4:
      std::memset(bytes + n, 0, static_cast<size_t>(2 * stride - n));
      StoreWhole(codes, n, 8, bytes);
      return StoreNibbles(bytes, stride, stored);
    case QuantiseTo::kInt8:
      std::memset(stored + n, 0, static_cast<size_t>(stride - n));
      return StoreWhole(codes, n, 128, stored);
    case QuantiseTo::kE4M3:
      return StoreE4M3(codes, n, stored);
  }
}

inline void AddLoss(const float* x, const float* made, int64_t n, QuantiseLoss& loss) {
  Vec squares = Zero(), lost_squares = Zero(), largest = Zero();
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec value = LoadUpTo(x + i, n - i);
    const Vec lost = Sub(value, LoadUpTo(made + i, n - i));
    squares = Fma(value, value, squares);
    lost_squares = Fma(lost, lost, lost_squares);
    largest = Max(largest, Abs(lost));
  }
  loss.squares += static_cast<double>(Sum(squares));
  loss.lost_squares += static_cast<double>(Sum(lost_squares));
  loss.largest = std::fmax(loss.largest, MaxLane(largest));
}

template <class W>
void Widen(const uint8_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kWidth) StoreUpTo(to + i, LoadUpTo<W>(from + i * W::kBytes, n - i), n - i);
}

inline int64_t FirstNotFinite(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return i;
  }
  return -1;
}

/// Inputs that are worked on at once, so that they stay in the nearest cache: whole groups, whose codes fill words.
inline int64_t SegmentInputs(const QuantiseJob& job) {
  constexpr int64_t kSegment = 2048;
  return job.group % 8 == 0 && job.group < kSegment ? kSegment / job.group * job.group : job.inputs;
}

/// Scratch for the values of a segment on their way.
struct Segment {
  float *x, *codes, *made;
  uint8_t* bytes;
};

/// False where a value is no finite number: `bad` is its place in the group then.
inline bool QuantiseGroup(const QuantiseJob& job, const Segment& at, int64_t first, int64_t n, int64_t scale_index,
                          int64_t& bad) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  const float* x = at.x + first;
  const uint32_t bits = LargestBits(x, n);
  if (bits >= kInfinity) {
    bad = FirstNotFinite(x, n);
    return false;
  }
  const float scale = bits == 0 ? 1 : ChooseScale(job, x, n, FromBits(bits));
  StoreScale(job, scale_index, scale);
  float* codes = at.codes + first;
  if (job.to == QuantiseTo::kE4M3) {
    ToE4M3(x, n, scale, codes);
  } else {
    ToWhole(x, n, scale, job.to == QuantiseTo::kInt4 ? WholeCodes{-8, 7} : WholeCodes{-128, 127}, codes);
  }
  float* made = at.made + first;
  for (int64_t i = 0; i < n; ++i) made[i] = codes[i] * scale;
  return true;
}

inline void QuantiseRowKernel(const QuantiseJob& job, int64_t row, QuantiseLoss& loss) {
  const int64_t K = job.inputs, G = job.group, segment = Smaller(SegmentInputs(job), K);
  const int64_t padded = RoundUp(segment, 64), groups = (K + G - 1) / G;
  auto* scratch = static_cast<float*>(
      Scratch(ScratchUse::kTile, static_cast<size_t>(padded) * (3 * sizeof(float) + 1) + 64));
  const Segment at{scratch, scratch + padded, scratch + 2 * padded, reinterpret_cast<uint8_t*>(scratch + 3 * padded)};
  for (int64_t start = 0; start < K; start += segment) {
    const int64_t n = Smaller(segment, K - start);
    WithType(job.dtype, [&](auto type) {
      using W = decltype(type);
      Widen<W>(job.values + (row * K + start) * W::kBytes, n, at.x);
    });
    for (int64_t first = 0; first < n; first += G) {
      int64_t bad = 0;
      if (QuantiseGroup(job, at, first, Smaller(G, n - first), row * groups + (start + first) / G, bad)) continue;
      loss.not_finite = row * K + start + first + bad;
      return;
    }
    RoundAllTo(job.dtype, at.made, n);
    AddLoss(at.x, at.made, n, loss);
    uint8_t* stored = job.codes + row * job.code_stride + start * CodeBits(job.to) / 8;
    StoreCodes(job.to, at.codes, n, at.bytes, stored);
  }
}

}  // namespace zi::ZI_ISA
