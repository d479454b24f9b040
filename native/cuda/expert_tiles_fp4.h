// FP4 with a power of two for every 32 inputs of a row, on its way to tiles: expanded without a branch, so that products of the stage
// before stay under way meanwhile.
#pragma once
#include "cuda/expert_tiles_stored.h"

namespace zi::cuda {

constexpr int kPowerGroup = 32;

/// Whether all weights of a product are so, and become bf16.
inline bool ArePowersOfFp4(const StoredTileArguments& a) {
  const StoredWeight& w = a.weights.first;
  if (a.weights.format != WeightFormat::kFp4 || w.scale_type != DType::kE8M0 || w.Part(WeightPart::kGlobal)) return false;
  if (w.type != DType::kBF16 || (w.product != DType::kF32 && w.product != w.type) || w.factor != 1) return false;
  return w.input_group == kPowerGroup && w.row_group == 1 && w.inputs % kPowerGroup == 0;
}

template <class T, int kColumns, int kDepth, int kThreads>
class Fp4TileWeights {
 public:
  using Arguments = StoredTileArguments;
  using Share = WeightShare<kColumns, kDepth, kThreads>;
  static constexpr int kStageBytes = kColumns * kDepth / 2, kValues = kColumns * kDepth;
  static constexpr int kOwnBytes = 2 * kValues * static_cast<int>(sizeof(T));
  static constexpr bool kBranches = false;

  __device__ Fp4TileWeights(const Arguments& a, const TilePlace<kColumns>& place)
      : inputs_(static_cast<int>(a.inputs)),
        code_stride_(a.weights.first.code_stride),
        scale_stride_(a.weights.first.scale_stride),
        codes_(a.weights.Part(place.tile.expert, WeightPart::kCodes) + place.first_column * code_stride_ + share_.group * 4),
        scales_(a.weights.Part(place.tile.expert, WeightPart::kScales) +
                (place.first_column + a.weights.first.first_row) * scale_stride_ + share_.group * 8 / kPowerGroup),
        rows_left_(static_cast<int>(min(a.outputs - place.first_column, static_cast<int64_t>(kColumns)))) {}

  __device__ void Start(int k, uint8_t* stage) const {
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      const bool valid = IsThere(k, i);
      const uint8_t* const from = valid ? codes_ + share_.Row(i) * code_stride_ + k / 2 : codes_;
      CopyCodes<4>(stage + (i * kThreads + static_cast<int>(threadIdx.x)) * 4, from, valid);
    }
  }

  __device__ void Ahead(int k) {
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      const bool valid = IsThere(k, i);
      const uint8_t bits = __ldg(valid ? scales_ + share_.Row(i) * scale_stride_ + k / kPowerGroup : scales_);
      // No number, if it were some other row's, would be one times zero as well.
      exponents_[i] = valid ? bits : uint8_t{0};
    }
  }

  __device__ const T* Arrive(const uint8_t* stage, uint8_t* own) {
    T* const to = reinterpret_cast<T*>(own) + filled_ * kValues;
    filled_ ^= 1;
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      const uint32_t codes = reinterpret_cast<const uint32_t*>(stage)[i * kThreads + static_cast<int>(threadIdx.x)];
      *reinterpret_cast<uint4*>(to + Swizzle<Share::kGroups>(share_.Row(i), share_.group)) = Fp4TimesPower(codes, exponents_[i]);
    }
    return to;
  }

 private:
  __device__ bool IsThere(int k, int i) const { return k + share_.group * 8 < inputs_ && share_.Row(i) < rows_left_; }

  const Share share_;
  const int inputs_;
  const int64_t code_stride_, scale_stride_;
  const uint8_t* const codes_;
  const uint8_t* const scales_;
  const int rows_left_;
  int filled_ = 0;
  uint8_t exponents_[Share::kCopies];
};

}  // namespace zi::cuda
