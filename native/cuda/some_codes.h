// Codes of a weight as values in registers, for products of some tokens: which of a lane's 16 bytes make a pair, and the values that
// stored_weights.h says, bit for bit.
#pragma once
#include <type_traits>

#include "cuda/stored_fragments.h"

namespace zi::cuda::some {

/// How scales lie: f32; 16 bits, whichever; 16 bits of the values' own type.
enum class ScaleForm { kFloats, kHalves, kOwn };
template <ScaleForm kForm>
constexpr int kScaleBytes = kForm == ScaleForm::kFloats ? 4 : 2;

/// Codes of a byte times a scale of as few bits as values have: an instruction makes two values, with the one rounding that they need.
/// A code has eight bits at most, so it is such a number itself.
template <FragmentKind kKind, ScaleForm kForm>
constexpr bool kBytePairs = kForm == ScaleForm::kOwn && (kKind == FragmentKind::kInt8 || kKind == FragmentKind::kPacked8);

/// Which input of a unit the lane of a pair multiplies at one of 16 places of a step: pairs (2t, 2t+1) and (2t+8, 2t+9) are lane t's,
/// which has 16 bytes of codes, and takes of eight of them the first two pairs that Expand makes, then the others.
template <FragmentKind kKind, bool kPairs>
__host__ __device__ constexpr int InputOf(int step, int place) {
  const int lane = place % 8 / 2, pair = step % 2 * 2 + place / 8, which = place % 2;
  const int eight = lane * FragmentSizes<kKind>::kInputs + step / 2 * 8;
  // Nibbles i and i + 4 of eight make a pair, bytes i and i + 2 of four, or neighbours.
  if constexpr (FragmentSizes<kKind>::kNibbles) return eight + pair + 4 * which;
  else if constexpr (kPairs) return eight + pair / 2 * 4 + pair % 2 + 2 * which;
  else return eight + pair * 2 + which;
}

/// Values of bytes, two by two.
template <FragmentKind kKind, class T>
class BytePairs {
 public:
  using Pair = typename PairOf<T>::Type;
  __device__ explicit BytePairs(uint32_t raw_scale) {
    raw_scale = __byte_perm(raw_scale, raw_scale, 0x1010);
    scale_ = FromBits<Pair>(raw_scale);
  }

  template <int kEight>
  __device__ void Expand(const uint4& codes, uint32_t (&to)[4]) const {
    const uint32_t first = kEight == 0 ? codes.x : codes.z, second = kEight == 0 ? codes.y : codes.w;
    to[0] = Two(first), to[1] = Two(first >> 8);
    to[2] = Two(second), to[3] = Two(second >> 8);
  }

 private:
  static constexpr bool kSigned = kKind == FragmentKind::kInt8;
  /// (x & mask) op with, of which the compiler makes two instructions.
  static __device__ uint32_t Or(uint32_t x, uint32_t with, uint32_t mask) {
    uint32_t bits;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(bits) : "r"(x), "r"(mask), "r"(with));
    return bits;
  }
  static __device__ uint32_t Xor(uint32_t x, uint32_t with, uint32_t mask) {
    uint32_t bits;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(bits) : "r"(x), "r"(mask), "r"(with));
    return bits;
  }
  /// Values of the lower byte of each half.
  __device__ uint32_t Two(uint32_t bytes) const {
    if constexpr (std::is_same_v<T, __half>) {
      // An f16 of 1024 and more counts in ones; signed codes become what packed ones are: 128 more.
      const uint32_t counted = kSigned ? Xor(bytes, 0x64806480, 0x00ff00ff) : Or(bytes, 0x64006400, 0x00ff00ff);
      return Bits(__hmul2(__hsub2(FromBits<Pair>(counted), FromBits<Pair>(0x64806480)), scale_));
    } else {
      // A bf16 of 128 to 255 counts seven bits in ones; the eighth says whether 128 or 256 is too much.
      const uint32_t counted = Or(bytes, 0x43004300, 0x007f007f);
      const uint32_t more = kSigned ? Or(bytes, 0x43004300, 0x00800080) : Xor(bytes, 0x43804380, 0x00800080);
      return Bits(__hmul2(__hsub2(FromBits<Pair>(counted), FromBits<Pair>(more)), scale_));
    }
  }

  Pair scale_;
};

/// What makes values of the codes of a group, from its scale as it is stored. `halves`: two bytes are f16.
template <FragmentKind kKind, class T, ScaleForm kForm>
__device__ inline auto ValuesOf(uint32_t raw, bool halves, float factor) {
  constexpr uint32_t kZero = kHasZeros<kKind> ? kNoZero<kKind> : 0;
  if constexpr (kBytePairs<kKind, kForm>) {
    return BytePairs<kKind, T>(raw);
  } else {
    GroupScale<kKind> scale;
    if constexpr (kKind == FragmentKind::kPacked4Exact) {
      scale = {__byte_perm(raw, raw, 0x1010), PairOf<T>::kOffset | kZero | kZero << 16};
    } else {
      uint32_t bits = raw;
      if constexpr (kForm != ScaleForm::kFloats) {
        bits = halves ? __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(raw)))) : raw << 16;
      }
      if constexpr (kHasZeros<kKind>) scale = {bits, __float_as_uint(kCounts + static_cast<float>(kZero))};
      else scale = {bits};
    }
    return Fragments<kKind, T>(scale, scale, factor);
  }
}

}  // namespace zi::cuda::some
