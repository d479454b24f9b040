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
  Vec Of(Vec x, Vec inverse) const { return Min(Max(RoundNearest(Mul(x, inverse)), Set(low)), Set(high)); }
};

inline float SquaresLost(const float* x, int64_t n, float scale, const WholeCodes& codes) {
  const Vec inverse = Set(1 / scale), step = Set(scale);
  Vec sum = Zero();
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec value = LoadUpTo(x + i, n - i);
    const Vec lost = Fnma(codes.Of(value, inverse), step, value);
    sum = Fma(lost, lost, sum);
  }
  return Sum(sum);
}

/// What the largest magnitude is divided by. At 7 nothing is cut off; with more, few large values lose a little and all
/// others gain. Of a normal distribution in groups of 64, the best is mostly between 8 and 9.
constexpr float kInt4Divisors[] = {7, 7.5f, 8, 8.5f, 9, 9.5f, 10, 11};

inline float ChooseScale(const QuantiseJob& job, const float* x, int64_t n, float largest) {
  if (job.to == QuantiseTo::kE4M3) return StoredScale(job.scale_dtype, largest / kE4M3Largest);
  if (job.to != QuantiseTo::kInt4) return StoredScale(job.scale_dtype, largest / 127);
  float best = 0, least = INFINITY;
  for (const float divisor : kInt4Divisors) {
    const float scale = StoredScale(job.scale_dtype, largest / divisor);
    const float lost = SquaresLost(x, n, scale, {-8, 7});
    if (lost < least) {
      least = lost;
      best = scale;
    }
  }
  // Squares of huge values may overflow.
  return best > 0 ? best : StoredScale(job.scale_dtype, largest / 7);
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

inline void StoreCodes(const QuantiseJob& job, const float* codes, uint8_t* bytes, uint8_t* to) {
  switch (job.to) {
    case QuantiseTo::kInt4: {
      const int64_t pairs = job.code_stride;
      std::memset(bytes + job.inputs, 0, static_cast<size_t>(2 * pairs - job.inputs));
      StoreWhole(codes, job.inputs, 8, bytes);
      return StoreNibbles(bytes, pairs, to);
    }
    case QuantiseTo::kInt8:
      std::memset(to + job.inputs, 0, static_cast<size_t>(job.code_stride - job.inputs));
      return StoreWhole(codes, job.inputs, 128, to);
    case QuantiseTo::kBytes:
      return StoreWhole(codes, job.inputs, 0, to);
    case QuantiseTo::kE4M3:
      return StoreE4M3(codes, job.inputs, to);
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

inline void QuantiseRowKernel(const QuantiseJob& job, int64_t row, QuantiseLoss& loss) {
  const int64_t K = job.inputs, padded = RoundUp(K, 64);
  auto* x = static_cast<float*>(Scratch(ScratchUse::kTile, static_cast<size_t>(padded) * (3 * sizeof(float) + 1)));
  float* codes = x + padded;
  float* made = codes + padded;
  auto* bytes = reinterpret_cast<uint8_t*>(made + padded);
  WithType(job.dtype, [&](auto type) {
    using W = decltype(type);
    Widen<W>(job.values + row * K * W::kBytes, K, x);
  });
  constexpr uint32_t kInfinity = 0x7f800000u;
  if (LargestBits(x, K) >= kInfinity) {
    loss.not_finite = row * K + FirstNotFinite(x, K);
    return;
  }
  const int64_t groups = (K + job.group - 1) / job.group;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = g * job.group, n = Smaller(job.group, K - first);
    const float largest = FromBits(LargestBits(x + first, n));
    const float scale = largest == 0 ? 1 : ChooseScale(job, x + first, n, largest);
    StoreScale(job, row * groups + g, scale);
    if (job.to == QuantiseTo::kE4M3) {
      ToE4M3(x + first, n, scale, codes + first);
    } else {
      ToWhole(x + first, n, scale, job.to == QuantiseTo::kInt4 ? WholeCodes{-8, 7} : WholeCodes{-128, 127}, codes + first);
    }
    for (int64_t i = first; i < first + n; ++i) made[i] = codes[i] * scale;
  }
  RoundAllTo(job.dtype, made, K);
  AddLoss(x, made, K, loss);
  StoreCodes(job, codes, bytes, job.codes + row * job.code_stride);
}

}  // namespace zi::ZI_ISA
