// How weights that are stored in parts come to where tiles are multiplied from: their codes by copies of their own, as far ahead
// as inputs, and their scales through registers. Each thread expands the codes that it copied, so nobody waits for them but
// itself; what it makes of them has the rounding of the definition, as Cursor has.
#pragma once
#include <type_traits>

#include "cuda/expert_tiles.h"

namespace zi::cuda {

/// Starts copying 8 or 4 bytes into shared memory, or zeros when not `valid`; both sides lie at multiples of them.
template <int kBytes>
__device__ inline void CopyCodes(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(SharedAddress(to)), "l"(from), "n"(kBytes),
               "r"(valid ? kBytes : 0)
               : "memory");
}

/// A scale as it is stored, so that what it is worth may be made when it is there.
__device__ inline uint32_t ScaleBits(const uint8_t* at, DType type, int64_t i) {
  switch (type) {
    case DType::kF32:
      return __ldg(reinterpret_cast<const uint32_t*>(at) + i);
    case DType::kF16:
    case DType::kBF16:
      return __ldg(reinterpret_cast<const uint16_t*>(at) + i);
    case DType::kE4M3:
    case DType::kE8M0:
      return __ldg(at + i);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
      break;
  }
  __trap();
}
__device__ inline float ScaleFrom(DType type, uint32_t bits) {
  switch (type) {
    case DType::kF32:
      return __uint_as_float(bits);
    case DType::kF16:
      return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
    case DType::kBF16:
      return __uint_as_float(bits << 16);
    case DType::kE4M3:
      return FromE4M3(static_cast<uint8_t>(bits));
    case DType::kE8M0:
      return FromE8M0(static_cast<uint8_t>(bits));
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
      break;
  }
  __trap();
}

template <class T>
__device__ inline uint32_t NarrowPair(float low, float high);
template <>
__device__ inline uint32_t NarrowPair<__half>(float low, float high) {
  const __half2 two = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(two);
}
template <>
__device__ inline uint32_t NarrowPair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(two);
}

/// What eight codes are worth before their scale. Codes of whole numbers hold q + zero: 2^23 + code is a float whose last bits are
/// the code, and taking away 2^23 + zero gives q without a conversion.
template <WeightFormat kFormat>
__device__ inline void UnpackEight(uint2 codes, int zero, float (&to)[8]) {
  if constexpr (kFormat == WeightFormat::kE4M3) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = __half22float2(FromE4M3Pair((i < 2 ? codes.x : codes.y) >> i % 2 * 16 & 0xffff));
      to[2 * i] = two.x, to[2 * i + 1] = two.y;
    }
  } else if constexpr (kFormat == WeightFormat::kFp4) {
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = FromE2M1(codes.x >> i * 4 & 15);
  } else {
    constexpr uint32_t kWhole = 0x4b000000;  // the bits of 2^23
    // Signed bytes are counted from -128 on.
    constexpr uint32_t kTurned = kFormat == WeightFormat::kInt8 ? 0x80808080u : 0;
    const float all = __uint_as_float(kWhole) + static_cast<float>(zero);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      uint32_t code;
      if constexpr (kFormat == WeightFormat::kPacked4) {
        code = codes.x >> i * 4 & 15;
      } else {
        code = ((i < 4 ? codes.x : codes.y) ^ kTurned) >> i % 4 * 8 & 255;
      }
      to[i] = __uint_as_float(kWhole | code) - all;
    }
  }
}

/// Codes of FP4 times a power of two, rounded once as Expand does it, two at a time. The three bits behind a code's sign are the last of
/// an exponent and the first of what follows it: as a bf16 they are worth 2^-126 times the code, those without an exponent as well.
__device__ inline uint4 Fp4TimesPower(uint32_t codes, uint8_t exponent) {
  constexpr uint16_t kTo126 = 253 << 7;
  const __nv_bfloat162 unit = __bfloat162bfloat162(__ushort_as_bfloat16(kTo126));
  const __nv_bfloat162 scale = __float2bfloat162_rn(FromE8M0(exponent));
  // The upper halves of bytes hold codes 0, 2, 4, 6 of this, and 1, 3, 5, 7 of that.
  const uint32_t even = codes << 4;
  uint4 values;
  uint32_t* const to = &values.x;
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const uint32_t above = __byte_perm(even, codes, (4 + pair) << 12 | pair << 8 | pair << 4 | pair);
    const uint32_t bits = (above & 0x80008000u) | (above & 0x70007000u) >> 6;
    const __nv_bfloat162 two = __hmul2(__hmul2(reinterpret_cast<const __nv_bfloat162&>(bits), unit), scale);
    to[pair] = reinterpret_cast<const uint32_t&>(two);
  }
  return values;
}

template <class T, int kColumns, int kDepth, int kThreads>
class StoredTileWeights {
 public:
  using Arguments = StoredTileArguments;
  using Share = WeightShare<kColumns, kDepth, kThreads>;
  /// Codes, of a byte at most; and two buffers of values, of which one is multiplied while the other is filled.
  static constexpr int kStageBytes = kColumns * kDepth, kValues = kColumns * kDepth;
  static constexpr int kOwnBytes = 2 * kValues * static_cast<int>(sizeof(T));
  static constexpr bool kBranches = true;

  __device__ StoredTileWeights(const Arguments& a, const TilePlace<kColumns>& place)
      : w_(a.weights.first),
        codes_(a.weights.Part(place.tile.expert, WeightPart::kCodes)),
        scales_(a.weights.Part(place.tile.expert, WeightPart::kScales)),
        zeros_(a.weights.Part(place.tile.expert, WeightPart::kZeros)),
        format_(a.weights.format),
        first_row_(place.first_column),
        rows_left_(static_cast<int>(min(a.outputs - place.first_column, static_cast<int64_t>(kColumns)))) {
    const uint8_t* const global = a.weights.Part(place.tile.expert, WeightPart::kGlobal);
    has_global_ = global != nullptr;
    global_ = has_global_ ? *reinterpret_cast<const float*>(global) : 1;
  }

  __device__ void Start(int k, uint8_t* stage) const {
    if (IsBytes()) {
      StartCodes<8>(k, stage);
    } else {
      StartCodes<4>(k, stage);
    }
  }

  __device__ void Ahead(int k) {
    const bool there = k + share_.group * 8 < w_.inputs;
    const int64_t group = Quotient(k + share_.group * 8, w_.input_group);
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      const int row = share_.Row(i);
      scale_bits_[i] = zero_bits_[i] = 0;
      if (!there || row >= rows_left_) continue;
      const int64_t scale_row = ScaleRow(row);
      scale_bits_[i] = ScaleBits(scales_, w_.scale_type, scale_row * w_.scale_stride + group);
      if (zeros_) zero_bits_[i] = ZeroBits(scale_row, group);
    }
  }

  __device__ const T* Arrive(const uint8_t* stage, uint8_t* own) {
    T* const to = reinterpret_cast<T*>(own) + filled_ * kValues;
    filled_ ^= 1;
    switch (format_) {
      case WeightFormat::kE4M3:
        Expand<WeightFormat::kE4M3>(stage, to);
        break;
      case WeightFormat::kInt8:
        Expand<WeightFormat::kInt8>(stage, to);
        break;
      case WeightFormat::kPacked8:
        Expand<WeightFormat::kPacked8>(stage, to);
        break;
      case WeightFormat::kPacked4:
        Expand<WeightFormat::kPacked4>(stage, to);
        break;
      case WeightFormat::kFp4:
        Expand<WeightFormat::kFp4>(stage, to);
        break;
      case WeightFormat::kDense:
      case WeightFormat::kDenseIn:
      case WeightFormat::kTable4:
      case WeightFormat::kAwq:
      case WeightFormat::kGptq:
      case WeightFormat::kE4M3In:
        __trap();
    }
    return to;
  }

 private:
  __device__ bool IsBytes() const { return format_ != WeightFormat::kPacked4 && format_ != WeightFormat::kFp4; }
  __device__ static int64_t Quotient(int64_t a, int64_t b) {
    if (b == 1) return a;
    if ((a | b) >> 31 == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
  }
  __device__ int64_t ScaleRow(int row) const { return Quotient(first_row_ + row + w_.first_row, w_.row_group); }

  template <int kBytes>
  __device__ void StartCodes(int k, uint8_t* stage) const {
    const bool words = format_ == WeightFormat::kPacked4 || format_ == WeightFormat::kPacked8;
    const int64_t stride = w_.code_stride * (words ? 4 : 1);
    const int64_t at = static_cast<int64_t>(k / 8 + share_.group) * kBytes;
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      const int row = share_.Row(i);
      const bool valid = k + share_.group * 8 < w_.inputs && row < rows_left_;
      const uint8_t* const from = valid ? codes_ + (first_row_ + row) * stride + at : codes_;
      CopyCodes<kBytes>(stage + (i * kThreads + static_cast<int>(threadIdx.x)) * kBytes, from, valid);
    }
  }

  __device__ uint32_t ZeroBits(int64_t scale_row, int64_t group) const {
    switch (format_) {
      case WeightFormat::kPacked8:
        return __ldg(reinterpret_cast<const uint32_t*>(zeros_) + scale_row / 4 * w_.zero_stride + group);
      case WeightFormat::kPacked4:
        return __ldg(reinterpret_cast<const uint32_t*>(zeros_) + scale_row / 8 * w_.zero_stride + group);
      default:
        return __ldg(zeros_ + scale_row * w_.zero_stride + group);
    }
  }
  /// What codes that count from 0 on are counted from.
  template <WeightFormat kFormat>
  __device__ int Zero(uint32_t bits, int row) const {
    if constexpr (kFormat == WeightFormat::kInt8) return 128 + static_cast<int8_t>(bits);
    if constexpr (kFormat == WeightFormat::kPacked8) return zeros_ ? bits >> ScaleRow(row) % 4 * 8 & 255 : 128;
    if constexpr (kFormat == WeightFormat::kPacked4) return zeros_ ? bits >> ScaleRow(row) % 8 * 4 & 15 : 8;
    return 0;
  }

  template <WeightFormat kFormat>
  __device__ void Expand(const uint8_t* stage, T* to) const {
    // Rounding once gives what rounding twice to the same type does.
    const bool once = w_.factor == 1.0f && (w_.product == DType::kF32 || w_.product == w_.type);
    if constexpr (kFormat == WeightFormat::kFp4 && std::is_same_v<T, __nv_bfloat16>) {
      if (once && w_.scale_type == DType::kE8M0 && !has_global_) return ExpandPowers(stage, to);
    }
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      uint2 codes{};
      const int slot = i * kThreads + static_cast<int>(threadIdx.x);
      if constexpr (kFormat == WeightFormat::kPacked4 || kFormat == WeightFormat::kFp4) {
        codes.x = reinterpret_cast<const uint32_t*>(stage)[slot];
      } else {
        codes = reinterpret_cast<const uint2*>(stage)[slot];
      }
      const int row = share_.Row(i);
      float scale = ScaleFrom(w_.scale_type, scale_bits_[i]);
      if (kFormat == WeightFormat::kFp4 && has_global_) {
        scale = w_.global_divides ? __fdiv_rn(scale, global_) : __fmul_rn(scale, global_);
      }
      float values[8];
      UnpackEight<kFormat>(codes, Zero<kFormat>(zero_bits_[i], row), values);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = __fmul_rn(values[j], scale);
      if (!once) {
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] = __fmul_rn(RoundTo(w_.product, values[j]), w_.factor);
      }
      uint4 packed;
      packed.x = NarrowPair<T>(values[0], values[1]);
      packed.y = NarrowPair<T>(values[2], values[3]);
      packed.z = NarrowPair<T>(values[4], values[5]);
      packed.w = NarrowPair<T>(values[6], values[7]);
      *reinterpret_cast<uint4*>(to + Swizzle<Share::kGroups>(row, share_.group)) = packed;
    }
  }

  __device__ void ExpandPowers(const uint8_t* stage, T* to) const {
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      const uint32_t codes = reinterpret_cast<const uint32_t*>(stage)[i * kThreads + static_cast<int>(threadIdx.x)];
      const uint4 values = Fp4TimesPower(codes, static_cast<uint8_t>(scale_bits_[i]));
      *reinterpret_cast<uint4*>(to + Swizzle<Share::kGroups>(share_.Row(i), share_.group)) = values;
    }
  }

  const Share share_;
  const StoredWeight& w_;
  const uint8_t* const codes_;
  const uint8_t* const scales_;
  const uint8_t* const zeros_;
  const WeightFormat format_;
  const int64_t first_row_;
  const int rows_left_;
  bool has_global_;
  float global_;
  int filled_ = 0;
  uint32_t scale_bits_[Share::kCopies], zero_bits_[Share::kCopies];
};

}  // namespace zi::cuda
