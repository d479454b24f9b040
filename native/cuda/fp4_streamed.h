// What blocks of fp4_streamed.cu are made of: how warps share tiles, what lies in shared memory, and inputs on their way to registers.
#pragma once
#include "cuda/experts.h"
#include "cuda/hopper.h"

namespace zi::cuda::fp4 {

/// Warps that multiply; one more fills the ring and adds their sums.
constexpr int kWarps = 12, kThreads = 32 * (kWarps + 1);
/// How they share tiles: `kTeam` warps have one, each up to `kQuads` quads of it.
template <int kTeamWarps, int kQuadsEach>
struct Sharing {
  static constexpr int kTeam = kTeamWarps, kTeams = kWarps / kTeamWarps, kQuads = kQuadsEach, kMostGroups = 4 * kTeam * kQuads;
};
/// Few warps share a tile where registers hold their inputs: what a warp does once for each tile is half as much then.
using Short = Sharing<6, 4>;
using Long = Sharing<12, 5>;
/// Rows of a tile.
constexpr int kRows = 16;
constexpr int kGroup = 32, kQuad = 4;
/// Tiles of the ring, at most; each has a lane.
constexpr int kMostStages = 4;
/// Stages lie at multiples of it.
constexpr int kStageStep = 128;

struct StreamArguments {
  StoredExperts weights;
  ChoiceTable choices;
  RowView x, out;
  int64_t x_each;  // choices that share a row of x
  int groups, tiles_each, tiles;  // of inputs; of a choice and of all
  int stages;
};

__host__ __device__ constexpr int CodeBytes(int groups) { return kRows * groups * (kGroup / 2); }
__host__ __device__ constexpr int StageBytes(int groups) {
  return (CodeBytes(groups) + kRows * groups + kStageStep - 1) / kStageStep * kStageStep;
}
/// With its sums and its two barriers.
constexpr int BytesOfStage(int groups) {
  return StageBytes(groups) + kWarps * kRows * static_cast<int>(sizeof(float)) + 2 * static_cast<int>(sizeof(uint64_t));
}
/// Every value of a scale.
constexpr int kScaleValues = 256;
/// Inputs of a quad that are on their way to registers: 16 bytes of each lane.
constexpr int kQuadBytes = 32 * 16;
template <class Shared>
constexpr int SharedBytes(int groups, int stages) {
  return stages * BytesOfStage(groups) + kScaleValues * static_cast<int>(sizeof(float)) + kWarps * Shared::kQuads * kQuadBytes;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// The block's tiles and what lies in shared memory.
struct Ring {
  uint8_t* stages;
  uint8_t* inputs;  // by warp and quad
  float* sums;  // by stage, warp of a team, and row
  float* scales;
  uint64_t *full, *done;
  int first, count;

  __device__ Ring(const StreamArguments& a, int quads, uint8_t* shared) : stages(shared) {
    inputs = shared + a.stages * StageBytes(a.groups);
    sums = reinterpret_cast<float*>(inputs + kWarps * quads * kQuadBytes);
    scales = sums + a.stages * kWarps * kRows;
    full = reinterpret_cast<uint64_t*>(scales + kScaleValues);
    done = full + a.stages;
    const int64_t tiles = a.tiles;
    first = static_cast<int>(tiles * blockIdx.x / gridDim.x);
    count = static_cast<int>(tiles * (blockIdx.x + 1) / gridDim.x) - first;
  }
  __device__ float* SumsOf(int stage, int warp) const { return sums + (stage * kWarps + warp) * kRows; }
};

/// A tile of the block: where it lies, the stage that has it, and the parity of the stage's barriers.
struct Turn {
  int choice, tile;  // of the choice
  int stage;
  uint32_t parity = 0;

  __device__ Turn(const StreamArguments& a, const Ring& ring, int start)
      : choice((ring.first + start) / a.tiles_each), tile((ring.first + start) % a.tiles_each), stage(start) {}
  /// No more tiles on than there are stages.
  __device__ void Next(const StreamArguments& a, int tiles) {
    for (tile += tiles; tile >= a.tiles_each; tile -= a.tiles_each) ++choice;
    stage += tiles;
    if (stage < a.stages) return;
    stage -= a.stages;
    parity ^= 1;
  }
};

/// A row of inputs on its way to a warp's registers. Copies are asked for ahead, since they come late behind those of the ring.
template <class X, class Shared>
class Inputs {
 public:
  __device__ Inputs(const StreamArguments& a, const Ring& ring)
      : a_(a), lane_(static_cast<int>(threadIdx.x) % 32), warp_(static_cast<int>(threadIdx.x) / 32 % Shared::kTeam) {
    at_ = ring.inputs + static_cast<int>(threadIdx.x) / 32 * Shared::kQuads * kQuadBytes;
    last_ = (ring.first + ring.count - 1) / a.tiles_each / a.x_each;
  }
  /// A lane has four inputs of each quad brought to a place of its own.
  __device__ void Ask(int64_t row) {
    asked_ = row;
    const X* const x = a_.x.Row<X>(row);
#pragma unroll
    for (int q = 0; q < Shared::kQuads; ++q) {
      const int k = (warp_ + q * Shared::kTeam) * kQuad * kGroup + lane_ * 4;
      const bool there = k < a_.groups * kGroup;
      CopySome<4 * sizeof(X)>(at_ + q * kQuadBytes + lane_ * 16, x + (there ? k : 0), there);
    }
    CommitCopies();
  }
  /// Inputs as second operands of the products with each quad, and what the sums of the lane's groups are to be multiplied by.
  __device__ void Take(int64_t row, uint32_t (&halves)[Shared::kQuads][kGroup / 2], float (&factors)[Shared::kQuads]) {
    if (asked_ != row) Ask(row);
    WaitForAllCopiesBut<0>();
#pragma unroll
    for (int q = 0; q < Shared::kQuads; ++q) factors[q] = TakeQuad(reinterpret_cast<uint4*>(at_ + q * kQuadBytes), halves[q]);
    __syncwarp();
    if (row < last_) Ask(row + 1);
  }

 private:
  __device__ float TakeQuad(uint4* at, uint32_t (&halves)[kGroup / 2]) const {
    const X* const own = reinterpret_cast<const X*>(at + lane_);
    float in[4], most = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) most = fmaxf(most, fabsf(in[i] = Widen(own[i])));
    // Eight lanes have a group.
#pragma unroll
    for (int by = 1; by < 8; by *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, by));
    // The largest becomes 2^14 or more, less than 2^15.
    const uint32_t exponent = min(max(__float_as_uint(most) >> 23, 14u), 254u);
    const float factor = __uint_as_float((127 + 127 + 14 - exponent) << 23);
    uint32_t upper[2], rest[2];
    Split(in[0] * factor, in[1] * factor, upper[0], rest[0]);
    Split(in[2] * factor, in[3] * factor, upper[1], rest[1]);
    // The first of two lanes makes what is rounded of their eight inputs, the second the rest, in pairs of both.
    const bool second = lane_ % 2 != 0;
    uint32_t low[2], high[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t got = __shfl_xor_sync(0xffffffffu, second ? upper[i] : rest[i], 1);
      low[i] = second ? got : upper[i];
      high[i] = second ? rest[i] : got;
    }
    at[(second ? 16 : 0) + lane_ / 2] = {__byte_perm(low[0], high[0], 0x5410), __byte_perm(low[0], high[0], 0x7632),
                                         __byte_perm(low[1], high[1], 0x5410), __byte_perm(low[1], high[1], 0x7632)};
    __syncwarp();
    const int t = lane_ % 4, column = lane_ / 4;
    const bool mine = column / 2 == t;
#pragma unroll
    for (int w = 0; w < kGroup / 8; ++w) {
      const uint4 four = mine ? at[column % 2 * 16 + t * 4 + w] : uint4{};
      halves[4 * w] = four.x;
      halves[4 * w + 1] = four.y;
      halves[4 * w + 2] = four.z;
      halves[4 * w + 3] = four.w;
    }
    // Sums come times 2^-14 of the codes and 2^14 of the inputs.
    return __uint_as_float(__shfl_sync(0xffffffffu, exponent, 8 * t) << 23);
  }
  /// Two inputs rounded, and what rounding leaves; an infinite one leaves nothing.
  static __device__ void Split(float first, float second, uint32_t& upper, uint32_t& rest) {
    const __half2 pair = __floats2half2_rn(first, second);
    const float2 taken = __half22float2(pair);
    const __half2 left = __floats2half2_rn(isinf(taken.x) ? 0.0f : first - taken.x, isinf(taken.y) ? 0.0f : second - taken.y);
    upper = reinterpret_cast<const uint32_t&>(pair);
    rest = reinterpret_cast<const uint32_t&>(left);
  }

  const StreamArguments& a_;
  const int lane_, warp_;
  uint8_t* at_;
  int64_t last_, asked_ = -1;
};
#endif

}  // namespace zi::cuda::fp4
