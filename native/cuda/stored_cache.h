// Keys and values that are stored as another type than attention computes with: what kernels need to know of them, and what
// their codes mean.
#pragma once
#include <cuda_fp8.h>

#include <type_traits>

#include "cuda/attention.h"

namespace zi::cuda {

/// Four codes of a word as floats, the lowest byte first.
struct I8Codes {
  static constexpr int kPerWord = 4;
  static constexpr float kLargest = 127;
  __device__ static void Widen(uint32_t word, float* to) {
    // A float of 2²³ and more counts in ones: u joins its lowest byte, and what was added is taken off again, exactly.
    constexpr float kOffset = 8388608.0f + 128.0f;
    word ^= 0x80808080u;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + i)) - kOffset;
  }
};

struct E4M3Codes {
  static constexpr int kPerWord = 4;
  static constexpr float kLargest = 448;
  /// Two codes as two values of 16 bits, which hold them exactly.
  __device__ static __half2 Pair(uint32_t low_half) {
    uint32_t pair;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<uint16_t>(low_half)));
    return reinterpret_cast<const __half2&>(pair);
#else
    // Sign, exponent and mantissa lie as in an f16 whose exponent has one bit more and counts from 15 instead of 7.
    const uint32_t high = __byte_perm(low_half, 0, 0x1404);
    pair = (high & 0x80008000u) | (high & 0x7f007f00u) >> 1;
    const __half2 value = __hmul2(reinterpret_cast<const __half2&>(pair), __float2half2_rn(256.0f));
    // The one pattern that is no number.
    pair = reinterpret_cast<const uint32_t&>(value) | (__vcmpeq2(high & 0x7f007f00u, 0x7f007f00u) & 0x7e007e00u);
    return reinterpret_cast<const __half2&>(pair);
#endif
  }
  __device__ static void Widen(uint32_t word, float* to) {
    const float2 low = __half22float2(Pair(word)), high = __half22float2(Pair(word >> 16));
    to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
  }
};

/// Eight codes of a word, the lowest nibble first, each 8 more than what it stands for.
struct NibbleCodes {
  static constexpr int kPerWord = 8;
  static constexpr float kLargest = 7;
  __device__ static void Widen(uint32_t word, float* to) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      // As above: nibble j of half a word counts in ones in a float of 2^(23 - 4j).
      const int j = i % 4;
      const uint32_t base = static_cast<uint32_t>(150 - 4 * j) << 23, half = i < 4 ? word : word >> 16;
      to[i] = __uint_as_float((half & 15u << 4 * j) | base) - (__uint_as_float(base) + 8.0f);
    }
  }
};

/// Rounding up the scale of values of f16 may have brought the largest code just beyond what f16 holds: it stands for that.
template <class T, class Codes>
__device__ inline float WithinType(float scale) {
  if constexpr (std::is_same_v<T, __half>) {
    constexpr float kLargest = 65504.0f / Codes::kLargest, kRounded = kLargest * (1 + 0x1p-8f);
    if (scale > kLargest && scale <= kRounded) return kLargest;
  }
  return scale;
}
/// Eight values, to become some of type T, of codes that lie at a multiple of the bytes they take; `scale_bits`: bf16.
template <class T, class Codes>
__device__ inline void GetEightCodes(const void* codes, uint16_t scale_bits, float (&to)[8]) {
  constexpr int kWords = 8 / Codes::kPerWord;
  uint32_t words[kWords];
  if constexpr (kWords == 2) {
    const uint2 pair = *reinterpret_cast<const uint2*>(codes);
    words[0] = pair.x, words[1] = pair.y;
  } else {
    words[0] = *reinterpret_cast<const uint32_t*>(codes);
  }
  const float scale = WithinType<T, Codes>(__uint_as_float(static_cast<uint32_t>(scale_bits) << 16));
#pragma unroll
  for (int w = 0; w < kWords; ++w) Codes::Widen(words[w], to + w * Codes::kPerWord);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] *= scale;
}

/// A cache of codes and scales, or of floats that are not of the activations' type.
struct StoredArguments : AttentionArguments {
  DType activations, cache;
  /// Absent where it has floats; bf16.
  const uint8_t *key_scales, *value_scales;
  int64_t key_scale_page, key_scale_head, key_scale_token, value_scale_page, value_scale_head, value_scale_token;
  /// Neighbours of a head that share a scale.
  int group, value_group;
  /// Heads of codes lie at multiples of so many bytes, and are whole groups of so many: 16, 8, 4 or 1.
  int reach;

  explicit StoredArguments(const AttentionOp& op, Fault* faults);

  /// Elements of a head before its value d, where that begins one.
  __device__ int Elements(int d) const { return cache == DType::kU8 ? d / 2 : d; }
  __device__ int64_t KeyAt(int page, int kv_head, int offset) const {
    return page * key_page + kv_head * key_head + offset * key_token;
  }
  __device__ int64_t ValueAt(int page, int kv_head, int offset) const {
    return page * value_page + kv_head * value_head + offset * value_token;
  }
  __device__ int64_t KeyScaleAt(int page, int kv_head, int offset) const {
    return page * key_scale_page + kv_head * key_scale_head + offset * key_scale_token;
  }
  __device__ int64_t ValueScaleAt(int page, int kv_head, int offset) const {
    return page * value_scale_page + kv_head * value_scale_head + offset * value_scale_token;
  }
  __device__ static float ScaleAt(const uint8_t* scales, int64_t at) {
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(scales)[at]);
  }
  __device__ float KeyValue(int page, int kv_head, int offset, int d) const {
    return Get(keys, key_scales, KeyAt(page, kv_head, offset), KeyScaleAt(page, kv_head, offset) + d / group, d);
  }
  __device__ float ValueValue(int page, int kv_head, int offset, int d) const {
    return Get(values, value_scales, ValueAt(page, kv_head, offset), ValueScaleAt(page, kv_head, offset) + d / value_group, d);
  }
  /// Value d of the head that begins at element `at`, whose scale is the one at `scale_at`.
  __device__ float Get(const uint8_t* data, const uint8_t* scales, int64_t at, int64_t scale_at, int d) const {
    switch (cache) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16:
        return GetAs(data, cache, at + d);
      case DType::kI8:
        return static_cast<float>(static_cast<int8_t>(data[at + d])) * ScaleAt(scales, scale_at);
      case DType::kE4M3:
        return __low2float(E4M3Codes::Pair(data[at + d])) * ScaleAt(scales, scale_at);
      case DType::kU8:
        return static_cast<float>((data[at + d / 2] >> d % 2 * 4 & 15) - 8) * ScaleAt(scales, scale_at);
      case DType::kI32:
      case DType::kE8M0:
        break;
    }
    __trap();
  }
};

}  // namespace zi::cuda
