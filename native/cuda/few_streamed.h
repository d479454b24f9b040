// Few tokens on tensor cores by as many blocks as run at once: each reads on from tile to tile of rows without a pause, with its
// inputs from the cache.
#pragma once
#include "cuda/few_parts.h"
#include "cuda/math.h"

namespace zi::cuda {

/// The part that a tile of rows is of.
__device__ inline const Part& PartOf(const CoreArguments& a, unsigned tile) {
  int index = a.count - 1;
  while (index > 0 && tile < a.parts[index].first_block) --index;
  return a.parts[index];
}

/// Whether a kind's weights may be streamed: one scale for all codes of a unit's lane, and no zeros stored.
constexpr bool IsStreamed(FragmentKind kind) { return kind != FragmentKind::kFp4; }

/// What a lane of a streamed block reads of a unit: codes of two rows, and their scales as they lie.
struct ScaledUnit {
  uint4 codes[2];
  uint32_t scales[2];
};

/// Goes through a warp's units of all tiles of rows that a block has, from one tile to the next without a pause.
template <FragmentKind kKind>
class UnitStream {
 public:
  static constexpr int kInputs = FragmentSizes<kKind>::kInputs;

  __device__ UnitStream(const CoreArguments& a, unsigned tile) : a_(a), inputs_(static_cast<int>(a.inputs)) { Enter(tile); }

  /// Reads the unit, or nothing beyond the last, and goes on.
  __device__ void Load(ScaledUnit& to) {
    const int k = (unit_ * 4 + static_cast<int>(threadIdx.x % 4)) * kInputs;
    const bool there = tile_ < a_.tiles && k < inputs_;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      to.codes[h] = there ? __ldcs(reinterpret_cast<const uint4*>(codes_[h] + unit_ * int64_t{64})) : uint4{};
      to.scales[h] = there ? Scale(scales_[h], k >> shift_) : 0;
    }
    unit_ += kWarps;
    if (unit_ >= a_.rounds * kWarps) Enter(tile_ + gridDim.x);
  }

 private:
  __device__ uint32_t Scale(const uint8_t* scales, int group) const {
    if constexpr (kKind == FragmentKind::kPacked4Exact) return reinterpret_cast<const uint16_t*>(scales)[group];
    return RawScale(scales, scale_type_, group);
  }
  __device__ void Enter(unsigned tile) {
    tile_ = tile;
    unit_ = static_cast<int>(threadIdx.x) / 32;
    if (tile >= a_.tiles) return;
    const Part& part = PartOf(a_, tile);
    const StoredWeight& w = part.weight;
    shift_ = part.group_shift;
    scale_type_ = w.scale_type;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Rows beyond the last repeat it; their sums are not stored.
      const int64_t place = static_cast<int64_t>(tile - part.first_block) * kRows + threadIdx.x % 32 / 4 + 8 * h;
      const int64_t row = min(place, w.outputs - 1), m = row + w.first_row;
      codes_[h] = w.Part(WeightPart::kCodes) + row * part.row_bytes + threadIdx.x % 4 * 16;
      scales_[h] = w.Part(WeightPart::kScales) + (w.row_group == 1 ? m : m / w.row_group) * part.scale_stride_bytes;
    }
  }

  const CoreArguments& a_;
  const int inputs_;
  const uint8_t* codes_[2];
  const uint8_t* scales_[2];
  unsigned tile_;
  int unit_, shift_;
  DType scale_type_;
};

template <FragmentKind kKind, class T>
__device__ GroupScale<kKind> PlainScale(DType type, uint32_t raw) {
  constexpr uint32_t kZero = kHasZeros<kKind> ? kNoZero<kKind> : 0;
  if constexpr (kKind == FragmentKind::kPacked4Exact) return {raw | raw << 16, PairOf<T>::kOffset | kZero | kZero << 16};
  const uint32_t scale = __float_as_uint(FromRawScale(type, raw));
  if constexpr (kHasZeros<kKind>) return {scale, __float_as_uint(kCounts + static_cast<float>(kZero))};
  else return {scale};
}

/// The same with inputs from where they lie; `there` is false for lanes whose token or inputs are none.
template <FragmentKind kKind, class T, int kEight>
__device__ void MultiplyHere(const ScaledUnit& unit, const Fragments<kKind, T>& low, const Fragments<kKind, T>& high,
                             const T* inputs, bool there, float (&sums)[2][4]) {
  if constexpr (kEight < FragmentSizes<kKind>::kInputs / 8) {
    const uint4 eight = there ? *reinterpret_cast<const uint4*>(inputs + kEight * 8) : uint4{};
    const uint4 x = Fragments<kKind, T>::Paired(eight);
    uint32_t rows[2][4];
    low.template Expand<kEight>(unit.codes[0], rows[0]);
    high.template Expand<kEight>(unit.codes[1], rows[1]);
    MultiplyAdd<T>(sums[0], {rows[0][0], rows[1][0], rows[0][1], rows[1][1]}, x.x, x.y);
    MultiplyAdd<T>(sums[1], {rows[0][2], rows[1][2], rows[0][3], rows[1][3]}, x.z, x.w);
    MultiplyHere<kKind, T, kEight + 1>(unit, low, high, inputs, there, sums);
  }
}

/// As many blocks as run at once, each with its share of the tiles of rows: reads are under way all the while. Sums are those of
/// FewOnCores, in the same order.
template <FragmentKind kKind, class T>
__global__ void __launch_bounds__(kThreads, kBlocksEach) FewStreamed(const __grid_constant__ CoreArguments a) {
  __shared__ float parts[2][kWarps][kRows * kTokens];
  constexpr int kInputs = FragmentSizes<kKind>::kInputs;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, token = lane / 4;
  {
    const Part& part = PartOf(a, blockIdx.x);
    const int64_t row = static_cast<int64_t>(blockIdx.x - part.first_block) * kRows + threadIdx.x;
    if (threadIdx.x < kRows && row < part.weight.outputs) part.Bring(row);
  }
  UnitStream<kKind> stream(a, blockIdx.x);
  Begin();
  ScaledUnit ahead[kAhead];
#pragma unroll
  for (ScaledUnit& unit : ahead) stream.Load(unit);

  const int rounds = a.rounds, inputs = static_cast<int>(a.inputs);
  const unsigned tiles = a.tiles;
  const bool takes = token < a.tokens;
  const T* const x = reinterpret_cast<const T*>(a.x) + (takes ? token * a.x_stride : 0) + lane % 4 * kInputs;
  unsigned tile = blockIdx.x;
  int round = 0, half = 0;
  DType scale_type = PartOf(a, tile).weight.scale_type;
  float factor = PartOf(a, tile).weight.factor;
  float sums[2][4] = {};
  while (tile < tiles) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (tile >= tiles) break;
      const ScaledUnit now = ahead[i];
      stream.Load(ahead[i]);
      const auto low_scale = PlainScale<kKind, T>(scale_type, now.scales[0]);
      const auto high_scale = PlainScale<kKind, T>(scale_type, now.scales[1]);
      const Fragments<kKind, T> low(low_scale, low_scale, factor), high(high_scale, high_scale, factor);
      const int k = (round * kWarps + warp) * 4 * kInputs;
      MultiplyHere<kKind, T, 0>(now, low, high, x + k, takes && k + lane % 4 * kInputs < inputs, sums);
      if (++round < rounds) continue;
      // All of the tile is multiplied. The sums of the one before are read behind the other half's barrier.
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        parts[half][warp][(lane / 4 + j / 2 * 8) * kTokens + lane % 4 * 2 + j % 2] = sums[0][j] + sums[1][j];
        sums[0][j] = sums[1][j] = 0;
      }
      __syncthreads();
      const Part& part = PartOf(a, tile);
      const int64_t row = static_cast<int64_t>(tile - part.first_block) * kRows + threadIdx.x / kTokens;
      const int column = threadIdx.x % kTokens;
      if (threadIdx.x < kRows * kTokens && column < a.tokens && row < part.weight.outputs) {
        float value = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) value += parts[half][w][threadIdx.x];
        part.finish.Put(column, row, value);
      }
      half ^= 1;
      round = 0;
      tile += gridDim.x;
      if (tile >= tiles) break;
      const StoredWeight& next = PartOf(a, tile).weight;
      scale_type = next.scale_type;
      factor = next.factor;
    }
  }
}

}  // namespace zi::cuda
