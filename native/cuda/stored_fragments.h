// Operands of tensor cores made of stored weights: eight neighbouring codes of a row become four pairs of 16-bit values.
//
// Values are those of stored_weights.h, bit for bit. Which two make a pair depends on the format; inputs are paired alike.
#pragma once
#include "cuda/stored_weights.h"
#include "cuda/tensor_cores.h"
#include "cuda/ways.h"

namespace zi::cuda {

template <class T>
struct PairOf;
template <>
struct PairOf<__half> {
  using Type = __half2;
  /// An f16 of 1024 and more counts in ones.
  static constexpr uint32_t kOffset = 0x64006400;
  static __device__ __half2 Rounded(float low, float high) { return __floats2half2_rn(low, high); }
  static __device__ __half2 Twice(float value) { return __float2half2_rn(value); }
};
template <>
struct PairOf<__nv_bfloat16> {
  using Type = __nv_bfloat162;
  /// A bf16 of 128 to 255 does.
  static constexpr uint32_t kOffset = 0x43004300;
  static __device__ __nv_bfloat162 Rounded(float low, float high) { return __floats2bfloat162_rn(low, high); }
  static __device__ __nv_bfloat162 Twice(float value) { return __float2bfloat162_rn(value); }
};

template <class Pair>
__device__ inline uint32_t Bits(const Pair& pair) {
  return reinterpret_cast<const uint32_t&>(pair);
}
template <class Pair>
__device__ inline Pair FromBits(uint32_t bits) {
  return reinterpret_cast<const Pair&>(bits);
}

template <FragmentKind kKind>
struct FragmentSizes {
  static constexpr bool kNibbles =
      kKind == FragmentKind::kPacked4 || kKind == FragmentKind::kPacked4Exact || kKind == FragmentKind::kFp4;
  /// Inputs of 16 bytes of codes, and scales that they may have.
  static constexpr int kInputs = kKind == FragmentKind::kValues ? 8 : kNibbles ? 32 : 16;
  static constexpr int kScales = kKind == FragmentKind::kFp4 ? 2 : 1;
};

/// A scale as it lies, in the lowest bits.
__device__ inline uint32_t RawScale(const uint8_t* scales, DType type, int64_t i) {
  switch (type) {
    case DType::kF32:
      return reinterpret_cast<const uint32_t*>(scales)[i];
    case DType::kF16:
    case DType::kBF16:
      return reinterpret_cast<const uint16_t*>(scales)[i];
    case DType::kE8M0:
    case DType::kE4M3:
      return scales[i];
    case DType::kU8:
    case DType::kI32:
    case DType::kI8:
      break;
  }
  __trap();
}
__device__ inline float FromRawScale(DType type, uint32_t raw) {
  switch (type) {
    case DType::kF32:
      return __uint_as_float(raw);
    case DType::kF16:
      return __half2float(__ushort_as_half(static_cast<uint16_t>(raw)));
    case DType::kBF16:
      return __uint_as_float(raw << 16);
    case DType::kE8M0:
      return FromE8M0(static_cast<uint8_t>(raw));
    case DType::kE4M3:
      return FromE4M3(static_cast<uint8_t>(raw));
    case DType::kU8:
    case DType::kI32:
    case DType::kI8:
      break;
  }
  __trap();
}

template <FragmentKind kKind>
constexpr bool kHasZeros = kKind == FragmentKind::kInt8 || kKind == FragmentKind::kPacked8 ||
                           kKind == FragmentKind::kPacked4 || kKind == FragmentKind::kPacked4Exact;

/// The code that stands for nothing where no zeros are stored.
template <FragmentKind kKind>
constexpr uint32_t kNoZero = kKind == FragmentKind::kInt8 || kKind == FragmentKind::kPacked8 ? 0x80 : 8;

/// The same of a row of scales and a group, from the zeros that are stored.
template <FragmentKind kKind>
__device__ inline uint32_t ZeroCode(const uint8_t* zeros, int64_t stride, int64_t scale_row, int group) {
  if constexpr (kKind == FragmentKind::kInt8) return zeros[scale_row * stride + group] ^ 0x80;
  constexpr int kPerWord = kKind == FragmentKind::kPacked8 ? 4 : 8, kBits = 32 / kPerWord;
  const uint32_t word = reinterpret_cast<const uint32_t*>(zeros)[scale_row / kPerWord * stride + group];
  return word >> (scale_row % kPerWord * kBits) & ((1u << kBits) - 1);
}

/// What makes values of the codes of one group, as the bits of what Fragments compute with.
template <bool kZeros>
struct ScaleBits {
  uint32_t scale, zero;
};
template <>
struct ScaleBits<false> {
  uint32_t scale;
};
template <FragmentKind kKind>
using GroupScale = ScaleBits<kHasZeros<kKind>>;

/// A float of 2^23 and more counts in ones.
constexpr float kCounts = 8388608.0f;

/// `raw` is the scale as it is stored, `zero` the code that stands for nothing.
template <FragmentKind kKind, class T>
__device__ inline GroupScale<kKind> MakeScale(const StoredWeight& w, uint32_t raw, uint32_t zero) {
  if constexpr (kKind == FragmentKind::kPacked4Exact) {
    return {raw | raw << 16, PairOf<T>::kOffset | zero | zero << 16};
  } else {
    float scale = FromRawScale(w.scale_type, raw);
    if constexpr (kKind == FragmentKind::kFp4) {
      if (const auto* global = reinterpret_cast<const float*>(w.Part(WeightPart::kGlobal))) {
        scale = w.global_divides ? __fdiv_rn(scale, *global) : __fmul_rn(scale, *global);
      }
    }
    if constexpr (!kHasZeros<kKind>) return {__float_as_uint(scale)};
    else return {__float_as_uint(scale), __float_as_uint(kCounts + static_cast<float>(zero))};
  }
}

/// Expands the codes of a row's 16 bytes, whose halves may have different scales.
template <FragmentKind kKind, class T>
class Fragments {
 public:
  using Sizes = FragmentSizes<kKind>;
  using Pair = typename PairOf<T>::Type;

  __device__ Fragments(GroupScale<kKind> first, GroupScale<kKind> second, float factor) : factor_(factor) {
    if constexpr (kKind == FragmentKind::kPacked4Exact) {
      pair_scale_ = FromBits<Pair>(first.scale);
      pair_zero_ = FromBits<Pair>(first.zero);
    } else {
      scale_[0] = __uint_as_float(first.scale);
      scale_[1] = __uint_as_float(second.scale);
      if constexpr (kHasZeros<kKind>) zero_ = __uint_as_float(first.zero);
    }
  }

  /// Codes 8 · `eight` … of the 16 bytes.
  template <int kEight>
  __device__ void Expand(const uint4& codes, uint32_t (&to)[4]) const {
    if constexpr (Sizes::kNibbles) {
      ExpandNibbles<kEight>(kEight == 0 ? codes.x : kEight == 1 ? codes.y : kEight == 2 ? codes.z : codes.w, to);
    } else {
      ExpandBytes(kEight == 0 ? codes.x : codes.z, to[0], to[1]);
      ExpandBytes(kEight == 0 ? codes.y : codes.w, to[2], to[3]);
    }
  }
  /// Eight inputs in the pairs that Expand makes.
  static __device__ uint4 Paired(const uint4& x) {
    if constexpr (!Sizes::kNibbles) return x;
    return {__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632), __byte_perm(x.y, x.w, 0x5410),
            __byte_perm(x.y, x.w, 0x7632)};
  }
  /// Eight values in their order again.
  static __device__ uint4 InOrder(const uint32_t (&pairs)[4]) {
    if constexpr (!Sizes::kNibbles) return {pairs[0], pairs[1], pairs[2], pairs[3]};
    return {__byte_perm(pairs[0], pairs[1], 0x5410), __byte_perm(pairs[2], pairs[3], 0x5410),
            __byte_perm(pairs[0], pairs[1], 0x7632), __byte_perm(pairs[2], pairs[3], 0x7632)};
  }

 private:
  /// Nibbles i and i + 4 make a pair.
  template <int kEight>
  __device__ void ExpandNibbles(uint32_t word, uint32_t (&to)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t two = word >> (4 * i);
      if constexpr (kKind == FragmentKind::kPacked4Exact) {
        uint32_t counted_bits;  // (two & 0x000f000f) | kOffset, of which the compiler makes two instructions
        asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(counted_bits) : "r"(two), "n"(0x000f000f), "r"(PairOf<T>::kOffset));
        const auto counted = FromBits<Pair>(counted_bits);
        to[i] = Bits(__hmul2(__hsub2(counted, pair_zero_), pair_scale_));
      } else if constexpr (kKind == FragmentKind::kFp4) {
        // The exponent is fourteen too small until it is multiplied.
        const auto small = FromBits<__half2>((two & 0x00070007) << 9 | (two & 0x00080008) << 12);
        const float2 codes = __half22float2(__hmul2(small, __float2half2_rn(16384.0f)));
        const float scale = scale_[kEight / 2];
        to[i] = Bits(PairOf<T>::Rounded(__fmul_rn(codes.x, scale), __fmul_rn(codes.y, scale)));
      } else {
        const float low = __uint_as_float((two & 15) | 0x4b000000) - zero_;
        const float high = __uint_as_float((two >> 16 & 15) | 0x4b000000) - zero_;
        to[i] = Bits(PairOf<T>::Rounded(__fmul_rn(low, scale_[0]), __fmul_rn(high, scale_[0])));
      }
    }
  }
  __device__ void ExpandBytes(uint32_t word, uint32_t& first, uint32_t& second) const {
    float2 low, high;
    if constexpr (kKind == FragmentKind::kE4M3) {
      low = __half22float2(FromE4M3Pair(word & 0xffff));
      high = __half22float2(FromE4M3Pair(word >> 16));
    } else {
      // Signed codes become what packed ones are: 128 more.
      if constexpr (kKind == FragmentKind::kInt8) word ^= 0x80808080;
      low = {Counted<0>(word), Counted<1>(word)};
      high = {Counted<2>(word), Counted<3>(word)};
    }
    first = Bits(PairOf<T>::Rounded(Scaled(low.x), Scaled(low.y)));
    second = Bits(PairOf<T>::Rounded(Scaled(high.x), Scaled(high.y)));
  }
  template <int kByte>
  __device__ float Counted(uint32_t word) const {
    return __uint_as_float(__byte_perm(word, 0x4b000000, 0x7440 + kByte)) - zero_;
  }
  __device__ float Scaled(float code) const {
    const float value = __fmul_rn(code, scale_[0]);
    return kKind == FragmentKind::kInt8 ? __fmul_rn(value, factor_) : value;
  }

  float scale_[2], zero_, factor_;
  Pair pair_scale_, pair_zero_;
};

/// Values of 16 bits that are stored as they are.
template <class T>
class Fragments<FragmentKind::kValues, T> {
 public:
  template <int kEight>
  __device__ void Expand(const uint4& codes, uint32_t (&to)[4]) const {
    static_assert(kEight == 0);
    to[0] = codes.x, to[1] = codes.y, to[2] = codes.z, to[3] = codes.w;
  }
  static __device__ uint4 Paired(const uint4& x) { return x; }
};

}  // namespace zi::cuda
