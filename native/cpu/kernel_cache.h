// Keys and values in the types of a cache: a head's floats to what is stored, and back. BlockCache of offload/port/ops.ts says
// what each type holds.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

/// The bits of a NaN in bf16 and in f16: what the type cannot hold must not become a number, or an infinity that a score
/// can lose.
constexpr uint16_t kCacheNanBF16 = 0x7fc0, kCacheNanF16 = 0x7e00;
constexpr uint32_t kCacheInfinity = 0x7f800000u;
constexpr float kCacheMostE4M3 = 448, kCacheMostI8 = 127, kCacheMostNibble = 7;

inline uint32_t CacheBits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float CacheFloat(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Ties to even; NaN for what is no finite number, also after rounding.
inline uint16_t CacheBF16(float x) {
  const uint32_t bits = CacheBits(x);
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  return (bits & kCacheInfinity) == kCacheInfinity || (rounded & kCacheInfinity) == kCacheInfinity
             ? kCacheNanBF16
             : static_cast<uint16_t>(rounded >> 16);
}
inline uint16_t CacheF16(float x) {
  const uint16_t half = static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
  return (half & 0x7c00) == 0x7c00 ? kCacheNanF16 : half;
}
/// `x` is no further from zero than the largest.
inline uint8_t CacheE4M3(float x) {
  const uint32_t bits = CacheBits(x), size = bits & 0x7fffffffu;
  const uint32_t normal = ((size + 0x7ffff + (size >> 20 & 1)) >> 20) - (120u << 3);
  // Adding 2^14 leaves a mantissa whose last bit is 2^-9, the step below 2^-6.
  const uint32_t small = CacheBits(CacheFloat(size) + 0x1p14f) - CacheBits(0x1p14f);
  return static_cast<uint8_t>((size < CacheBits(0x1p-6f) ? small : normal) | (bits >> 24 & 0x80));
}

/// The scale of a group as it is stored: NaN where a value is no finite number.
inline uint16_t CacheScale(const float* x, int64_t n, float most) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = CacheBits(x[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest >= kCacheInfinity ? kCacheNanBF16 : CacheBF16(CacheFloat(largest) / most);
}
inline float CacheScaleValue(const uint8_t* scales, int64_t group) {
  uint16_t half;
  std::memcpy(&half, scales + group * 2, sizeof half);
  return CacheFloat(static_cast<uint32_t>(half) << 16);
}

/// Up to kWidth values as shares of their scale, within [−most, most]; zeros where the scale is 0 or NaN.
inline void CacheShares(const float* x, int64_t n, float scale, float most, float (&shares)[kWidth]) {
  const Vec share = scale > 0 ? Div(LoadUpTo(x, n), Set(scale)) : Zero();
  Store(shares, Max(Min(share, Set(most)), Set(-most)));
}
inline void CacheWholeShares(const float* x, int64_t n, float scale, float most, int32_t (&codes)[kWidth]) {
  float shares[kWidth];
  CacheShares(x, n, scale, most, shares);
  Store(shares, RoundNearest(Load(shares)));
  for (int i = 0; i < kWidth; ++i) codes[i] = static_cast<int32_t>(shares[i]);
}

// Each type of a cache: `Put` stores the n (kWidth or fewer) values from the d-th of a head on, `Get` brings them back, both
// with the scale of their group where there are scales. kGroup: values that share one, where the head's size is a multiple.
struct CacheAsF32 {
  static constexpr float kMost = 0;
  static constexpr int64_t kGroup = 0;
  static void Put(const float* x, int64_t n, int64_t d, float, uint8_t* row) {
    std::memcpy(row + d * 4, x, static_cast<size_t>(n) * 4);
  }
  static Vec Get(const uint8_t* row, int64_t d, int64_t n, Vec) { return LoadUpTo<F32>(row + d * 4, n); }
};
struct CacheAsF16 {
  static constexpr float kMost = 0;
  static constexpr int64_t kGroup = 0;
  static void Put(const float* x, int64_t n, int64_t d, float, uint8_t* row) {
    uint16_t halves[kWidth];
    for (int64_t i = 0; i < n; ++i) halves[i] = CacheF16(x[i]);
    std::memcpy(row + d * 2, halves, static_cast<size_t>(n) * 2);
  }
  static Vec Get(const uint8_t* row, int64_t d, int64_t n, Vec) { return LoadUpTo<F16>(row + d * 2, n); }
};
struct CacheAsBF16 {
  static constexpr float kMost = 0;
  static constexpr int64_t kGroup = 0;
  static void Put(const float* x, int64_t n, int64_t d, float, uint8_t* row) {
    uint16_t halves[kWidth];
    for (int64_t i = 0; i < n; ++i) halves[i] = CacheBF16(x[i]);
    std::memcpy(row + d * 2, halves, static_cast<size_t>(n) * 2);
  }
  static Vec Get(const uint8_t* row, int64_t d, int64_t n, Vec) { return LoadUpTo<BF16>(row + d * 2, n); }
};
struct CacheAsE4M3 {
  static constexpr float kMost = kCacheMostE4M3;
  static constexpr int64_t kGroup = 0;
  static void Put(const float* x, int64_t n, int64_t d, float scale, uint8_t* row) {
    float shares[kWidth];
    CacheShares(x, n, scale, kMost, shares);
    for (int64_t i = 0; i < n; ++i) row[d + i] = CacheE4M3(shares[i]);
  }
  static Vec Get(const uint8_t* row, int64_t d, int64_t n, Vec scale) {
    return Mul(WidenE4M3(LoadBytes(row + d, n)), scale);
  }
};
struct CacheAsI8 {
  static constexpr float kMost = kCacheMostI8;
  static constexpr int64_t kGroup = 0;
  static void Put(const float* x, int64_t n, int64_t d, float scale, uint8_t* row) {
    int32_t codes[kWidth];
    CacheWholeShares(x, n, scale, kMost, codes);
    for (int64_t i = 0; i < n; ++i) row[d + i] = static_cast<uint8_t>(codes[i]);
  }
  static Vec Get(const uint8_t* row, int64_t d, int64_t n, Vec scale) {
    return Mul(WidenI8(LoadBytes(row + d, n)), scale);
  }
};
struct CacheAsNibbles {
  static constexpr float kMost = kCacheMostNibble;
  static constexpr int64_t kGroup = kNibbleGroup;
  static void Put(const float* x, int64_t n, int64_t d, float scale, uint8_t* row) {
    int32_t codes[kWidth];
    CacheWholeShares(x, n, scale, kMost, codes);
    for (int64_t i = 0; i < n; i += 2) {
      row[(d + i) / 2] = static_cast<uint8_t>((codes[i] + 8) | (codes[i + 1] + 8) << 4);
    }
  }
  static Vec Get(const uint8_t* row, int64_t d, int64_t n, Vec scale) {
    return Mul(Sub(WidenNibbles(LoadBytes(row + d / 2, n / 2)), Set(8)), scale);
  }
};

template <class C>
int64_t CacheGroupSize(int64_t depth) {
  return C::kGroup > 0 && depth % C::kGroup == 0 ? C::kGroup : depth;
}

/// A head of one token to where it lies.
template <class C>
void CachePut(const float* x, int64_t depth, uint8_t* row, uint8_t* scales) {
  const int64_t group = CacheGroupSize<C>(depth);
  for (int64_t first = 0; first < depth; first += group) {
    float scale = 0;
    if constexpr (C::kMost > 0) {
      const uint16_t stored = CacheScale(x + first, group, C::kMost);
      std::memcpy(scales + first / group * 2, &stored, sizeof stored);
      scale = CacheScaleValue(scales, first / group);
    }
    for (int64_t d = 0; d < group; d += kWidth) {
      C::Put(x + first + d, Smaller(kWidth, group - d), first + d, scale, row);
    }
  }
}

/// And back, to `to` with room for whole vectors.
template <class C>
void CacheGet(const uint8_t* row, const uint8_t* scales, int64_t depth, float* to) {
  const int64_t group = CacheGroupSize<C>(depth);
  for (int64_t first = 0; first < depth; first += group) {
    Vec scale = Zero();
    if constexpr (C::kMost > 0) scale = Set(CacheScaleValue(scales, first / group));
    for (int64_t d = 0; d < group; d += kWidth) {
      Store(to + first + d, C::Get(row, first + d, Smaller(kWidth, group - d), scale));
    }
  }
}

/// How a cache of one type is written and read, looked up once per operation.
struct CacheAccess {
  int64_t element_bytes;
  void (*put)(const float* x, int64_t depth, uint8_t* row, uint8_t* scales);
  /// Null where rows are floats already.
  void (*get)(const uint8_t* row, const uint8_t* scales, int64_t depth, float* to);

  uint8_t* Row(const View& cache, int64_t page, int64_t head, int64_t offset) const {
    return cache.data + At(cache, page, head, offset) * element_bytes;
  }
  /// Null where there are none.
  static uint8_t* Scales(const View& scales, int64_t page, int64_t head, int64_t offset) {
    return scales.data ? scales.data + At(scales, page, head, offset) * 2 : nullptr;
  }

 private:
  static int64_t At(const View& view, int64_t page, int64_t head, int64_t offset) {
    return page * view.strides[0] + head * view.strides[1] + offset * view.strides[2];
  }
};

inline CacheAccess CacheAccessOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {4, CachePut<CacheAsF32>, nullptr};
    case DType::kF16:
      return {2, CachePut<CacheAsF16>, CacheGet<CacheAsF16>};
    case DType::kBF16:
      return {2, CachePut<CacheAsBF16>, CacheGet<CacheAsBF16>};
    case DType::kE4M3:
      return {1, CachePut<CacheAsE4M3>, CacheGet<CacheAsE4M3>};
    case DType::kI8:
      return {1, CachePut<CacheAsI8>, CacheGet<CacheAsI8>};
    case DType::kU8:
      return {1, CachePut<CacheAsNibbles>, CacheGet<CacheAsNibbles>};
    case DType::kI32:
    case DType::kE8M0:
      break;
  }
  FailOp("type %d is no type of a cache", static_cast<int>(dtype));
}

inline void KvStoreKernel(const KvStoreOp& op, Run& run) {
  const int64_t tokens = op.k.shape[0], heads = op.k.shape[1], length = op.k.shape[2];
  const int64_t value_length = op.v.data ? op.v.shape[2] : 0;
  const int64_t page_tokens = op.keys.shape[2], slots = op.keys.shape[0] * page_tokens;
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t slot = Int(op.slots, t);
    if (slot < 0 || slot >= slots) FailOp("slot %d of token %ld is outside the cache of %ld slots", slot, t, slots);
  }
  const CacheAccess cache = CacheAccessOf(op.keys.dtype);
  ForEach(run, tokens, heads * (length + value_length) / kWidth * (cache.get ? 8 : 1), [&](int64_t t) {
    const int64_t page = Int(op.slots, t) / page_tokens, offset = Int(op.slots, t) % page_tokens;
    for (int64_t h = 0; h < heads; ++h) {
      cache.put(Row(op.k, t, h), length, cache.Row(op.keys, page, h, offset),
                CacheAccess::Scales(op.key_scales, page, h, offset));
      if (!op.v.data) continue;
      cache.put(Row(op.v, t, h), value_length, cache.Row(op.values, page, h, offset),
                CacheAccess::Scales(op.value_scales, page, h, offset));
    }
  });
}

}  // namespace zi::ZI_ISA
