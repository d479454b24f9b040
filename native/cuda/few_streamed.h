// Few tokens on tensor cores by as many blocks as run at once: each reads on from tile to tile of rows without a pause.
//
// A warp takes every kWarps-th unit of inputs of each tile, and has the next few units on their way in registers. A block's
// inputs, which it may norm itself, and the scales of two tiles lie in shared memory. Warps' sums are added in their order, as in few_cores.cu.
#pragma once
#include "cuda/few_parts.h"
#include "cuda/hidden_norm.h"
#include "cuda/math.h"

namespace zi::cuda::streamed {

/// Sums of a norm, one for every 32 threads' values.
constexpr int kNormSums = kMostHiddenLength / 8 / 32;

/// Shapes of a block, which has kAhead units of each warp under way at once. Values take little work and much memory: one block
/// of many warps has the most on its way. Codes of 4 bits are the other way round.
template <FragmentKind kKind>
struct BlockShape {
  static constexpr bool kValues = kKind == FragmentKind::kValues;
  static constexpr int kWarps = kValues ? 16 : 8, kThreads = 32 * kWarps, kBlocksEach = kValues ? 1 : 2;
  static constexpr int kAhead = FragmentSizes<kKind>::kNibbles ? 2 : 4;
};

struct Arguments {
  CoreArguments core;
  /// Makes the inputs, if it has rows.
  HiddenNorm norm;
  /// Units of each warp in a tile, in groups of kAhead.
  int groups;
  // Steps of 16 bytes in shared memory: between tokens and units of inputs; where zeros, scales and a norm's weights lie.
  int x_token, x_unit, zeros_at, scales_at, norm_at;
  /// Bytes between the scales of neighbouring rows in shared memory.
  int scale_pitch;
};

/// Where a lane reads codes: of two rows of its tile, and then of those of the block's next one.
template <FragmentKind kKind>
class CodeStream {
 public:
  static constexpr int kInputs = FragmentSizes<kKind>::kInputs, kUnit = 4 * kInputs, kWarps = BlockShape<kKind>::kWarps;
  static constexpr int kAhead = BlockShape<kKind>::kAhead;

  __device__ explicit CodeStream(const Arguments& a) : a_(a), inputs_(static_cast<int>(a.core.inputs)), tile_(blockIdx.x) { Enter(); }

  /// Reads the `i`-th unit of the group; zeros where there is none.
  __device__ void Load(int i, uint4 (&to)[2]) const {
    const bool there = k_ + i * kWarps * kUnit < inputs_;
#pragma unroll
    for (int h = 0; h < 2; ++h) to[h] = there ? __ldcs(reinterpret_cast<const uint4*>(codes_[h]) + i * kWarps * 4) : uint4{};
  }
  __device__ void NextGroup() {
    if (--groups_ == 0) {
      tile_ += gridDim.x;
      return Enter();
    }
    k_ += kAhead * kWarps * kUnit;
    codes_[0] += kAhead * kWarps * 64;
    codes_[1] += kAhead * kWarps * 64;
  }

 private:
  __device__ void Enter() {
    const int lane = threadIdx.x % 32, place = static_cast<int>(threadIdx.x) / 32 * 4 + lane % 4;
    groups_ = a_.groups;
    k_ = place * kInputs;
    if (tile_ >= a_.core.tiles) {
      k_ = 1 << 30;
      return;
    }
    const Part& part = PartOf(a_.core, tile_);
    const uint8_t* const codes = part.weight.Part(WeightPart::kCodes) + place * 16;
    const int64_t row = static_cast<int64_t>(tile_ - part.first_block) * kRows + lane / 4;
#pragma unroll
    // Rows beyond the last repeat it; their sums are not stored.
    for (int h = 0; h < 2; ++h) codes_[h] = codes + min(row + 8 * h, part.weight.outputs - 1) * part.row_bytes;
  }

  const Arguments& a_;
  const int inputs_;
  const uint8_t* codes_[2];
  unsigned tile_;
  int k_, groups_;
};

/// Starts copying the scales of a tile's rows to shared memory.
template <FragmentKind kKind, int kScaleBytes>
__device__ void StageScales(const Arguments& a, unsigned tile, uint8_t* to) {
  if constexpr (kKind != FragmentKind::kValues) {
    if (tile >= a.core.tiles) return;
    constexpr int kThreadsPerRow = BlockShape<kKind>::kThreads / kRows;
    const Part& part = PartOf(a.core, tile);
    const StoredWeight& w = part.weight;
    const int row = threadIdx.x / kThreadsPerRow, first = threadIdx.x % kThreadsPerRow;
    const auto m = static_cast<uint32_t>(min(static_cast<int64_t>(tile - part.first_block) * kRows + row, w.outputs - 1) + w.first_row);
    const uint32_t scale_row = w.row_group == 1 ? m : m / static_cast<uint32_t>(w.row_group);
    const uint8_t* const from = w.Part(WeightPart::kScales) + scale_row * part.scale_stride_bytes;
    to += row * a.scale_pitch;
    const int bytes = part.row_scale_bytes;
    if (part.scale_step == 16) {
      for (int i = first * 16; i < bytes; i += kThreadsPerRow * 16) CopySome<16>(to + i, from + i, true);
    } else if (part.scale_step == 4) {
      for (int i = first * 4; i < bytes; i += kThreadsPerRow * 4) CopySome<4>(to + i, from + i, true);
    } else {
      for (int i = first * 2; i < bytes; i += kThreadsPerRow * 2) {
        *reinterpret_cast<uint16_t*>(to + i) = *reinterpret_cast<const uint16_t*>(from + i);
      }
    }
  }
}

/// The `i`-th eight inputs of a token as lanes take them: those of a unit's four lanes beside each other.
template <FragmentKind kKind, class T>
__device__ void PutInputs(const Arguments& a, uint4* shared, int t, int i, const uint4& eight) {
  constexpr int kEights = FragmentSizes<kKind>::kInputs / 8;
  const int unit = i / (4 * kEights), lane = i / kEights % 4, which = i % kEights;
  shared[unit * a.x_unit + t * a.x_token + which * 4 + lane] = Fragments<kKind, T>::Paired(eight);
}

template <FragmentKind kKind, class T>
__device__ void StageInputs(const Arguments& a, uint4* shared) {
  constexpr int kEights = FragmentSizes<kKind>::kInputs / 8, kThreads = BlockShape<kKind>::kThreads;
  const int groups = a.core.units * 4 * kEights;
  for (int t = 0; t < a.core.tokens; ++t) {
    const T* const x = reinterpret_cast<const T*>(a.core.x) + t * a.core.x_stride;
#pragma unroll 4
    for (int i = threadIdx.x; i < groups; i += kThreads) {
      const uint4 eight = i * 8 < a.core.inputs ? *reinterpret_cast<const uint4*>(x + i * 8) : uint4{};
      PutInputs<kKind, T>(a, shared, t, i, eight);
    }
  }
}

/// Each thread copies what it takes itself of a norm's weights.
template <FragmentKind kKind>
__device__ void StageNormWeights(const Arguments& a, uint4* to) {
  const int eights = static_cast<int>(a.core.inputs) / 8;
  for (int i = threadIdx.x; i < eights; i += BlockShape<kKind>::kThreads) {
    CopyGroup(to + i, static_cast<const uint4*>(a.norm.weight) + i, true);
    if (a.norm.bias) CopyGroup(to + eights + i, static_cast<const uint4*>(a.norm.bias) + i, true);
  }
}

/// The same as StageInputs of inputs that are normed on the way. One block writes them as well, where others may read them.
template <FragmentKind kKind, class T>
__device__ void StageNormed(const Arguments& a, uint4* shared) {
  constexpr int kEights = FragmentSizes<kKind>::kInputs / 8, kThreads = BlockShape<kKind>::kThreads;
  __shared__ float sums[kNormSums];
  const int length = static_cast<int>(a.core.inputs);
  const T* const weights = reinterpret_cast<const T*>(shared + a.norm_at);
  const T* const biases = a.norm.bias ? weights + length : nullptr;
  T* const out = blockIdx.x == gridDim.x - 1 ? reinterpret_cast<T*>(const_cast<uint8_t*>(a.core.x)) : nullptr;
  CommitCopies();
  WaitForAllCopiesBut<0>();
  for (int t = 0; t < a.core.tokens; ++t) {
    NormHidden<kThreads, T>(a.norm, t, length, weights, biases, sums, [&](int i, const uint4& eight) {
      PutInputs<kKind, T>(a, shared, t, i, eight);
      if (out) *reinterpret_cast<uint4*>(out + t * a.core.x_stride + 8 * i) = eight;
    });
    // The last unit's lanes without inputs.
    for (int i = length / 8 + threadIdx.x; i < a.core.units * 4 * kEights; i += kThreads) PutInputs<kKind, T>(a, shared, t, i, uint4{});
  }
}

/// The scale of a row's group, whose low half is the row's in shared memory.
template <FragmentKind kKind, class T, int kScaleBytes>
__device__ GroupScale<kKind> ScaleFrom(const uint8_t* at, bool halves) {
  if constexpr (kKind == FragmentKind::kPacked4Exact) {
    const uint32_t raw = *reinterpret_cast<const uint16_t*>(at);
    constexpr uint32_t kZero = kNoZero<kKind>;
    return {__byte_perm(raw, raw, 0x1010), PairOf<T>::kOffset | kZero | kZero << 16};
  } else {
    uint32_t scale;
    if constexpr (kScaleBytes == 4) {
      scale = *reinterpret_cast<const uint32_t*>(at);
    } else {
      const uint32_t raw = *reinterpret_cast<const uint16_t*>(at);
      scale = halves ? __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(raw)))) : raw << 16;
    }
    if constexpr (kHasZeros<kKind>) return {scale, __float_as_uint(kCounts + static_cast<float>(kNoZero<kKind>))};
    else return {scale};
  }
}

/// A lane's inputs of the tiles' units, from shared memory or, where they do not fit, from the cache.
template <FragmentKind kKind, class T, bool kStaged>
class LaneInputs {
 public:
  static constexpr int kInputs = FragmentSizes<kKind>::kInputs, kWarps = BlockShape<kKind>::kWarps;

  __device__ LaneInputs(const Arguments& a, const uint4* shared) {
    const int lane = threadIdx.x % 32, token = lane / 4, warp = threadIdx.x / 32;
    const bool takes = token < a.core.tokens;
    if constexpr (kStaged) {
      // Lanes without a token read zeros.
      first_ = shared + (takes ? warp * a.x_unit + token * a.x_token : a.zeros_at) + lane % 4;
      step_ = takes ? kWarps * a.x_unit : 0;
    } else {
      const T* const x = reinterpret_cast<const T*>(a.core.x) + (takes ? token * a.core.x_stride : 0);
      first_ = reinterpret_cast<const uint4*>(x + (warp * 4 + lane % 4) * kInputs);
      step_ = kWarps * 4 * kInputs / 8;
      limit_ = takes ? static_cast<int>(a.core.inputs) : 0;
    }
  }
  __device__ void Restart() { at_ = first_; }
  __device__ void Next() { at_ += step_; }
  /// Group `kEight` of the unit, whose first input for this lane is k.
  template <int kEight>
  __device__ uint4 Get(int k) const {
    if constexpr (kStaged) return at_[kEight * 4];
    return Fragments<kKind, T>::Paired(k < limit_ ? at_[kEight] : uint4{});
  }

 private:
  const uint4 *first_, *at_;
  int step_, limit_;
};

template <FragmentKind kKind, class T, int kEight, class Inputs>
__device__ void Multiply(const uint4 (&codes)[2], const Fragments<kKind, T>& low, const Fragments<kKind, T>& high, const Inputs& inputs,
                         int k, float (&sums)[2][4]) {
  if constexpr (kEight < FragmentSizes<kKind>::kInputs / 8) {
    const uint4 x = inputs.template Get<kEight>(k);
    uint32_t rows[2][4];
    low.template Expand<kEight>(codes[0], rows[0]);
    high.template Expand<kEight>(codes[1], rows[1]);
    MultiplyAdd<T>(sums[0], {rows[0][0], rows[1][0], rows[0][1], rows[1][1]}, x.x, x.y);
    MultiplyAdd<T>(sums[1], {rows[0][2], rows[1][2], rows[0][3], rows[1][3]}, x.z, x.w);
    Multiply<kKind, T, kEight + 1>(codes, low, high, inputs, k, sums);
  }
}

template <FragmentKind kKind, class T, int kScaleBytes, bool kStaged>
__global__ void __launch_bounds__(BlockShape<kKind>::kThreads, BlockShape<kKind>::kBlocksEach)
    FewStreamed(const __grid_constant__ Arguments a) {
  constexpr int kInputs = FragmentSizes<kKind>::kInputs, kUnit = 4 * kInputs;
  constexpr int kWarps = BlockShape<kKind>::kWarps, kAhead = BlockShape<kKind>::kAhead;
  constexpr bool kScales = kKind != FragmentKind::kValues;
  extern __shared__ uint4 shared[];
  __shared__ float parts[2][kWarps][kRows * kTokens];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned tiles = a.core.tiles;
  {
    const Part& part = PartOf(a.core, blockIdx.x);
    const int64_t row = static_cast<int64_t>(blockIdx.x - part.first_block) * kRows + threadIdx.x;
    if (threadIdx.x < kRows && row < part.weight.outputs) part.Bring(row);
  }
  uint8_t* const scales = reinterpret_cast<uint8_t*>(shared + a.scales_at);
  const int scales_half = kRows * a.scale_pitch;
  if (threadIdx.x < kInputs / 2) shared[a.zeros_at + threadIdx.x] = uint4{};
  CodeStream<kKind> stream(a);
  uint4 ahead[kAhead][2];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) stream.Load(i, ahead[i]);
  stream.NextGroup();
  StageScales<kKind, kScaleBytes>(a, blockIdx.x, scales);
  if constexpr (kStaged) {
    if (a.norm.x) StageNormWeights<kKind>(a, shared + a.norm_at);
  }
  Begin();
  if constexpr (kStaged) {
    if (a.norm.x) StageNormed<kKind, T>(a, shared);
    else StageInputs<kKind, T>(a, shared);
  }
  LaneInputs<kKind, T, kStaged> inputs(a, shared);
  if constexpr (kScales) {
    CommitCopies();
    WaitForAllCopiesBut<0>();
  }
  __syncthreads();

  const int units = a.core.units, tokens = a.core.tokens, last_input = static_cast<int>(a.core.inputs) - 1;
  int half = 0, turn = 0;
  for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Part& part = PartOf(a.core, tile);
    StageScales<kKind, kScaleBytes>(a, tile + gridDim.x, scales + (half ^ 1) * scales_half);
    const int64_t first = static_cast<int64_t>(tile - part.first_block) * kRows;
    const int count = warp == turn ? kRows * tokens : 0;  // of what this warp ends the tile with
    const auto stored = [&](int i) { return i < count && first + i % kRows < part.weight.outputs; };
    Finish::Added added{};
    if (stored(lane)) added = part.finish.Read(lane / kRows, first + lane % kRows);
    const float factor = part.weight.factor;
    const bool halves = part.weight.scale_type == DType::kF16;
    const int shift = part.group_shift;
    const uint8_t* const row_scales = scales + half * scales_half + lane / 4 * a.scale_pitch;
    float sums[2][4] = {};
    inputs.Restart();
    int k = (warp * 4 + lane % 4) * kInputs, unit = warp;
    for (int group = a.groups; group > 0; --group) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const uint4 codes[2] = {ahead[i][0], ahead[i][1]};
        stream.Load(i, ahead[i]);
        if (unit < units) {
          if constexpr (kScales) {
            const uint8_t* const at = row_scales + (min(k, last_input) >> shift) * kScaleBytes;
            const auto low = ScaleFrom<kKind, T, kScaleBytes>(at, halves);
            const auto high = ScaleFrom<kKind, T, kScaleBytes>(at + 8 * a.scale_pitch, halves);
            Multiply<kKind, T, 0>(codes, {low, low, factor}, {high, high, factor}, inputs, k, sums);
          } else {
            Multiply<kKind, T, 0>(codes, {}, {}, inputs, k, sums);
          }
        }
        inputs.Next();
        k += kWarps * kUnit;
        unit += kWarps;
      }
      stream.NextGroup();
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = lane % 4 * 2 + j % 2;
      if (column < tokens) parts[half][warp][column * kRows + lane / 4 + j / 2 * 8] = sums[0][j] + sums[1][j];
    }
    if constexpr (kScales) {
      CommitCopies();
      WaitForAllCopiesBut<0>();
    }
    // The sums of the tile before are read behind the other half's barrier.
    __syncthreads();
    for (int i = lane; i < count; i += 32) {
      if (!stored(i)) continue;
      float value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) value += parts[half][w][i];
      const int64_t token = i / kRows, output = first + i % kRows;
      part.finish.Put(token, output, value, i == lane ? added : part.finish.Read(token, output));
    }
    // Warps take turns at what ends a tile, so that none of them is late all the time.
    turn = (turn + 1) % kWarps;
    half ^= 1;
  }
}

}  // namespace zi::cuda::streamed
