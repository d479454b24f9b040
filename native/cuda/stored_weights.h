// Weights as kernels read them where they are stored: where their parts lie, and cursors that make values of a row's codes.
//
// Every rounding is that of offload/port/formats.ts, one after the other: nothing here may be fused into fewer.
#pragma once
#include <stdexcept>
#include <string>

#include "cuda/fault.h"
#include "cuda/shapes.h"
#include "cuda/values.h"
#include "ops/operand.h"

namespace zi::cuda {

/// Plain data, passed by value. An expert's is the first one's with parts of its own.
struct StoredWeight {
  const uint8_t* parts[kWeightParts];
  int64_t outputs, inputs, first_row;
  int64_t row_group, input_group, groups;  // of inputs, so many
  int64_t code_stride, scale_stride, zero_stride;  // in elements
  DType scale_type, product, type;
  int bits;
  bool zero_plus_one, global_divides;
  /// Eight neighbouring inputs share a scale, and their codes lie at a multiple of what they take.
  bool eights;
  float factor, nested_offset;
  Fault* fault;

  StoredWeight() = default;
  /// Throws std::invalid_argument where a part lies so that its elements cannot be read.
  StoredWeight(const Weight& weight, Fault* to);
  /// A dense weight, of which kernels ask for shape and values only.
  static StoredWeight OfValues(const Weight& dense) {
    StoredWeight weight{};
    weight.parts[static_cast<int>(WeightPart::kCodes)] = dense.Part(WeightPart::kCodes).data;
    weight.outputs = dense.outputs;
    weight.inputs = dense.inputs;
    weight.row_group = 1;
    return weight;
  }
  __host__ __device__ const uint8_t* Part(WeightPart part) const { return parts[static_cast<int>(part)]; }
};

inline StoredWeight::StoredWeight(const Weight& weight, Fault* to)
    : outputs(weight.outputs),
      inputs(weight.inputs),
      first_row(weight.first_row),
      row_group(weight.row_group),
      input_group(weight.input_group),
      groups((weight.inputs + weight.input_group - 1) / weight.input_group),
      code_stride(weight.Part(WeightPart::kCodes).strides[0]),
      scale_stride(weight.Part(WeightPart::kScales).strides[0]),
      zero_stride(weight.Part(WeightPart::kZeros).strides[0]),
      scale_type(weight.Part(WeightPart::kScales).dtype),
      product(weight.product),
      type(weight.type),
      bits(weight.bits),
      zero_plus_one(weight.zero_plus_one),
      global_divides(weight.global_divides),
      eights(EightsTogether(weight)),
      factor(weight.factor),
      nested_offset(weight.nested_offset),
      fault(to) {
  for (int p = 0; p < kWeightParts; ++p) {
    const View& part = weight.parts[p];
    parts[p] = part.data;
    if (reinterpret_cast<uintptr_t>(part.data) % ElementBytes(part.dtype) == 0) continue;
    throw std::invalid_argument(std::string("weight in ") + kWeightFormatNames[static_cast<int>(weight.format)] + ": " +
                                kWeightPartNames[p] + " must begin at a multiple of " +
                                std::to_string(ElementBytes(part.dtype)) + " bytes");
  }
}

/// 2^(bits - 127); 255 is none.
__device__ inline float FromE8M0(uint8_t bits) {
  if (bits == 255) return __int_as_float(0x7fffffff);
  return __int_as_float(bits == 0 ? 0x00400000 : bits << 23);
}
/// Two codes, the first in the lower byte.
__device__ inline __half2 FromE4M3Pair(uint32_t codes) {
#if __CUDA_ARCH__ >= 890
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(codes)));
#else
  const uint32_t apart = (codes & 0xff) | (codes & 0xff00) << 8;
  // The exponent is eight too small until it is multiplied.
  uint32_t halves = (apart & 0x00800080) << 8 | (apart & 0x007f007f) << 7;
  const __half2 scaled = __hmul2(reinterpret_cast<const __half2&>(halves), __float2half2_rn(256.0f));
  halves = reinterpret_cast<const uint32_t&>(scaled);
  if ((apart & 0x7f) == 0x7f) halves |= 0x7fff;
  if ((apart & 0x7f0000) == 0x7f0000) halves |= 0x7fff0000;
#endif
  return reinterpret_cast<const __half2&>(halves);
}
__device__ inline float FromE4M3(uint8_t code) { return __low2float(FromE4M3Pair(code)); }
/// A code of 0, 0.5, 1, 1.5, 2, 3, 4, 6 or their negatives.
__device__ inline float FromE2M1(uint32_t nibble) {
  return __int_as_float((nibble & 7) << 22 | (nibble & 8) << 28) * 0x1p126f;
}

/// Both roundings are made and one is chosen, which is less than a branch per value.
__device__ inline float RoundTo(DType type, float value) {
  const float half = __half2float(__float2half_rn(value)), bfloat = __bfloat162float(__float2bfloat16_rn(value));
  return type == DType::kF16 ? half : type == DType::kBF16 ? bfloat : value;
}

/// A scale, or a value, of any of the types that those have.
__device__ inline float ScaleAt(const uint8_t* scales, DType type, int64_t i) {
  switch (type) {
    case DType::kF32:
      return reinterpret_cast<const float*>(scales)[i];
    case DType::kF16:
      return __half2float(reinterpret_cast<const __half*>(scales)[i]);
    case DType::kBF16:
      return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(scales)[i]);
    case DType::kE8M0:
      return FromE8M0(scales[i]);
    case DType::kE4M3:
      return FromE4M3(scales[i]);
    case DType::kU8:
      return static_cast<float>(scales[i]);
    case DType::kI32:
    case DType::kI8:
      break;
  }
  __trap();
}

/// Values of one row (an output), in any order. LoadEight is fast where the weight's `eights` holds, and right everywhere.
template <WeightFormat kFormat>
class Cursor {
 public:
  /// Codes of neighbouring rows lie beside each other, not those of neighbouring inputs.
  static constexpr bool kInputMajor = kFormat == WeightFormat::kAwq || kFormat == WeightFormat::kGptq ||
                                      kFormat == WeightFormat::kDenseIn || kFormat == WeightFormat::kE4M3In;
  static constexpr bool kBytes =
      kFormat == WeightFormat::kE4M3 || kFormat == WeightFormat::kInt8 || kFormat == WeightFormat::kPacked8;

  /// Reads nothing yet. `weight` must outlive it.
  __device__ Cursor(const StoredWeight& weight, int64_t row)
      : w_(weight), row_(row), scale_row_(Quotient(row + weight.first_row, weight.row_group)) {}

  /// The value of input k. Called, not inlined: kernels of all formats would hold it many times.
  __noinline__ __device__ float At(int64_t k) const { return Value(CodeAt(k), ScaleOf(k)); }

  /// The values of inputs k … k + 7, all of which there are; k is a multiple of eight.
  __device__ void LoadEight(int64_t k, float (&to)[8]) const {
    if (!w_.eights) {
#pragma unroll 1
      for (int i = 0; i < 8; ++i) to[i] = At(k + i);
      return;
    }
    const Scale scale = ScaleOf(k);
    if constexpr (kBytes) {
      const uint2 codes = __ldcs(reinterpret_cast<const uint2*>(Bytes() + k));
#pragma unroll
      for (int i = 0; i < 8; ++i) to[i] = Value(FromByte((i < 4 ? codes.x : codes.y) >> (i % 4 * 8) & 0xff), scale);
    } else if constexpr (kFormat == WeightFormat::kPacked4 || kFormat == WeightFormat::kFp4 ||
                         kFormat == WeightFormat::kTable4) {
      uint32_t codes = __ldcs(reinterpret_cast<const uint32_t*>(Bytes() + k / 2));
      // The first value has the high nibble of its byte.
      if constexpr (kFormat == WeightFormat::kTable4) codes = (codes & 0x0f0f0f0f) << 4 | (codes >> 4 & 0x0f0f0f0f);
#pragma unroll
      for (int i = 0; i < 8; ++i) to[i] = Value(FromNibble(codes >> (4 * i) & 15), scale);
    } else if (kFormat == WeightFormat::kGptq && w_.bits == 4) {
      const uint32_t codes = __ldcs(Words(WeightPart::kCodes) + k / 8 * w_.code_stride + row_);
#pragma unroll
      for (int i = 0; i < 8; ++i) to[i] = Value(static_cast<float>(codes >> (4 * i) & 15), scale);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) to[i] = Value(CodeAt(k + i), scale);
    }
  }

 private:
  /// What makes values of the codes of one group.
  struct Scale {
    float scale, zero;
  };

  static __device__ int64_t Quotient(int64_t a, int64_t b) {
    if (b == 1) return a;
    if ((a | b) >> 31 == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
  }
  __device__ const uint8_t* Part(WeightPart part) const { return w_.Part(part); }
  __device__ const uint32_t* Words(WeightPart part) const { return reinterpret_cast<const uint32_t*>(Part(part)); }
  /// Where this row's codes begin; those of table4 are flat.
  __device__ const uint8_t* Bytes() const {
    constexpr bool kWords = kFormat == WeightFormat::kPacked4 || kFormat == WeightFormat::kPacked8;
    if constexpr (kFormat == WeightFormat::kTable4) return Part(WeightPart::kCodes) + row_ * w_.inputs / 2;
    return Part(WeightPart::kCodes) + row_ * w_.code_stride * (kWords ? 4 : 1);
  }

  static __device__ float FromByte(uint32_t code) {
    if constexpr (kFormat == WeightFormat::kE4M3) return FromE4M3(static_cast<uint8_t>(code));
    if constexpr (kFormat == WeightFormat::kInt8) return static_cast<float>(static_cast<int8_t>(code));
    return static_cast<float>(static_cast<int>(code) - 128);
  }
  __device__ float FromNibble(uint32_t code) const {
    if constexpr (kFormat == WeightFormat::kFp4) return FromE2M1(code);
    if constexpr (kFormat == WeightFormat::kTable4) return reinterpret_cast<const float*>(Part(WeightPart::kTable))[code];
    return static_cast<float>(static_cast<int>(code) - 8);
  }
  /// A value of `bits` bits that begins at bit `at` of a row of words, `stride` words apart.
  __device__ static uint32_t BitsAt(const uint32_t* words, int64_t at, int64_t stride, int bits) {
    const int64_t word = at / 32;
    const int shift = static_cast<int>(at % 32);
    uint64_t both = words[word * stride];
    if (shift + bits > 32) both |= static_cast<uint64_t>(words[(word + 1) * stride]) << 32;
    return static_cast<uint32_t>(both >> shift) & ((1u << bits) - 1);
  }

  __device__ float CodeAt(int64_t k) const {
    if constexpr (kBytes) {
      return FromByte(Bytes()[k]);
    } else if constexpr (kFormat == WeightFormat::kPacked4 || kFormat == WeightFormat::kFp4) {
      return FromNibble(Bytes()[k / 2] >> (k % 2 * 4) & 15);
    } else if constexpr (kFormat == WeightFormat::kTable4) {
      const int64_t flat = row_ * w_.inputs + k;
      return FromNibble(Part(WeightPart::kCodes)[flat / 2] >> (flat % 2 ? 0 : 4) & 15);
    } else if constexpr (kFormat == WeightFormat::kAwq) {
      return static_cast<float>(AwqNibble(Words(WeightPart::kCodes)[k * w_.code_stride + row_ / 8], row_ % 8));
    } else if constexpr (kFormat == WeightFormat::kE4M3In) {
      return FromE4M3(Part(WeightPart::kCodes)[k * w_.code_stride + row_]);
    } else if constexpr (kFormat == WeightFormat::kDenseIn) {
      return ScaleAt(Part(WeightPart::kCodes), w_.type, k * w_.code_stride + row_);
    } else {
      return static_cast<float>(BitsAt(Words(WeightPart::kCodes) + row_, k * w_.bits, w_.code_stride, w_.bits));
    }
  }
  /// Nibbles hold columns 0 2 4 6 1 3 5 7.
  static __device__ uint32_t AwqNibble(uint32_t word, int64_t column) {
    return word >> ((column % 2 * 4 + column / 2) * 4) & 15;
  }

  __device__ int64_t GroupOf(int64_t k) const {
    if constexpr (kFormat == WeightFormat::kPacked8 || kFormat == WeightFormat::kPacked4 || kFormat == WeightFormat::kGptq) {
      if (const auto* groups = reinterpret_cast<const int32_t*>(Part(WeightPart::kGroups))) {
        const int group = groups[k];
        if (group >= 0 && group < w_.groups) return group;
        Report(w_.fault, kGroupOutside, k, group, w_.groups);
        return 0;
      }
    }
    return Quotient(k, w_.input_group);
  }

  __device__ Scale ScaleOf(int64_t k) const {
    const uint8_t* scales = Part(WeightPart::kScales);
    if constexpr (kFormat == WeightFormat::kDenseIn) {
      return {1, 0};
    } else if constexpr (kFormat == WeightFormat::kTable4) {
      const int64_t block = Quotient((row_ + w_.first_row) * w_.inputs + k, w_.input_group);
      if (w_.scale_type != DType::kU8) return {reinterpret_cast<const float*>(scales)[block], 0};
      const float stored = reinterpret_cast<const float*>(Part(WeightPart::kNestedTable))[scales[block]];
      const float scale = reinterpret_cast<const float*>(Part(WeightPart::kNestedScales))[block / 256];
      return {__fadd_rn(__fmul_rn(stored, scale), w_.nested_offset), 0};
    } else if constexpr (kInputMajor) {
      const int64_t group = GroupOf(k);
      return {ScaleAt(scales, w_.scale_type, group * w_.scale_stride + scale_row_), ZeroOf(group)};
    } else {
      const int64_t group = GroupOf(k);
      float scale = ScaleAt(scales, w_.scale_type, scale_row_ * w_.scale_stride + group);
      if constexpr (kFormat == WeightFormat::kFp4) {
        if (const auto* global = reinterpret_cast<const float*>(Part(WeightPart::kGlobal))) {
          scale = w_.global_divides ? __fdiv_rn(scale, *global) : __fmul_rn(scale, *global);
        }
      }
      return {scale, ZeroOf(group)};
    }
  }

  __device__ float ZeroOf(int64_t group) const {
    const uint8_t* zeros = Part(WeightPart::kZeros);
    if constexpr (kFormat == WeightFormat::kE4M3 || kFormat == WeightFormat::kFp4 || kFormat == WeightFormat::kE4M3In) {
      return 0;
    } else if constexpr (kFormat == WeightFormat::kInt8) {
      return zeros ? static_cast<float>(reinterpret_cast<const int8_t*>(zeros)[scale_row_ * w_.zero_stride + group]) : 0.0f;
    } else if constexpr (kFormat == WeightFormat::kPacked8) {
      if (!zeros) return 0;
      const uint32_t word = Words(WeightPart::kZeros)[scale_row_ / 4 * w_.zero_stride + group];
      return FromByte(word >> (scale_row_ % 4 * 8) & 0xff);
    } else if constexpr (kFormat == WeightFormat::kPacked4) {
      if (!zeros) return 0;
      const uint32_t word = Words(WeightPart::kZeros)[scale_row_ / 8 * w_.zero_stride + group];
      return static_cast<float>(static_cast<int>(word >> (scale_row_ % 8 * 4) & 15) - 8);
    } else if constexpr (kFormat == WeightFormat::kAwq) {
      const uint32_t word = Words(WeightPart::kZeros)[group * w_.zero_stride + scale_row_ / 8];
      return static_cast<float>(AwqNibble(word, scale_row_ % 8));
    } else if constexpr (kFormat == WeightFormat::kGptq) {
      return static_cast<float>(GptqZero(Words(WeightPart::kZeros) + group * w_.zero_stride));
    }
    return 0;
  }
  /// Where stored zeros are one too small, whole words are: carries cross their fields, but for those of three bits.
  __device__ uint32_t GptqZero(const uint32_t* words) const {
    const int64_t at = scale_row_ * w_.bits;
    if (w_.bits == 3) return (BitsAt(words, at, 1, 3) + w_.zero_plus_one) & 7;
    const uint32_t mask = (1u << w_.bits) - 1, one = w_.zero_plus_one ? 0xffffffffu / mask : 0;
    return (words[at / 32] + one) >> (at % 32) & mask;
  }

  __device__ float Value(float code, Scale scale) const {
    if constexpr (kFormat == WeightFormat::kDenseIn) return code;
    const float value = RoundTo(w_.product, __fmul_rn(code - scale.zero, scale.scale));
    return RoundTo(w_.type, __fmul_rn(value, w_.factor));
  }

  const StoredWeight& w_;
  const int64_t row_, scale_row_;
};

}  // namespace zi::cuda
