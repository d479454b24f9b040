// Some tokens, more than a few, times stored weights on compute capability 9.0: codes are read once, become values in registers, and
// are multiplied by inputs that lie in shared memory (wgmma).
//
// A group of four warps takes 64 rows of a weight, each warp 16, and all tokens as columns. Blocks of a cluster share a block's rows
// between them by inputs; their sums are added in the order of the blocks. What copies bring of codes a lane takes itself; inputs were
// put beforehand (PlaceInputs) as stages take them, so that values of weights need not change places. Groups of warps wait for inputs
// alone, not for each other, so that some make values while others multiply.
#pragma once
#include <cstring>

#include "cuda/finish.h"
#include "cuda/overlap.h"
#include "cuda/some_tokens.h"

namespace zi::cuda::some {

constexpr int kThreads = 512, kBlockRows = kThreads / 2;
/// A matrix of inputs has 64 of each token: rows of 128 bytes, which the instructions' layout is named for.
constexpr int kMatrixInputs = 64;
constexpr int kAlignment = 1024;
constexpr int kPlaceThreads = 256;

template <FragmentKind kKind>
constexpr int kUnitInputs = 4 * FragmentSizes<kKind>::kInputs;

/// A stage is a unit: 64 bytes of each row's codes, and its inputs.
template <FragmentKind kKind, int kColumns>
struct Stage {
  static constexpr int kInputBytes = kColumns * kUnitInputs<kKind> * 2;
  static constexpr int kCodeBytes = kThreads * 2 * 16;
  static constexpr int kBytes = kInputBytes + kCodeBytes;
  static constexpr int kStages = 192 * 1024 / kBytes;
  /// Units whose codes, and whose inputs, are on their way before they are multiplied. Groups of warps may be so far apart as is left.
  static constexpr int kCodesAhead = kStages - 2, kInputsAhead = kStages > 4 ? kStages - 3 : kStages - 2;
};

/// Sums in shared memory: of each token those of all rows, apart by so many that no bank is met twice.
constexpr int kSumPitch = kBlockRows + 4;

struct Arguments {
  StoredWeight weight;
  Finish finish;
  /// Bytes between rows of codes and of scales; inputs that share a scale, as a power of two.
  int64_t row_bytes, scale_row_bytes;
  int group_shift;
  int tokens, units, blocks_each;  // the last of a cluster
  int64_t inputs;
  const uint8_t* placed;
};

/// What makes values of the codes of a group, from its scale as it is stored. `halves`: two bytes are f16.
template <FragmentKind kKind, class T, int kScaleBytes>
__device__ inline GroupScale<kKind> PlainScale(uint32_t raw, bool halves) {
  constexpr uint32_t kZero = kHasZeros<kKind> ? kNoZero<kKind> : 0;
  if constexpr (kKind == FragmentKind::kPacked4Exact) {
    return {__byte_perm(raw, raw, 0x1010), PairOf<T>::kOffset | kZero | kZero << 16};
  } else {
    uint32_t scale = raw;
    if constexpr (kScaleBytes == 2) {
      scale = halves ? __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(raw)))) : raw << 16;
    }
    if constexpr (kHasZeros<kKind>) return {scale, __float_as_uint(kCounts + static_cast<float>(kZero))};
    else return {scale};
  }
}

struct PlaceArguments {
  const uint8_t* x;
  int64_t x_stride, inputs;
  int tokens, units;
  uint8_t* to;
};

/// A thread per eight values of a matrix's row.
template <FragmentKind kKind, class T, int kColumns>
__global__ void __launch_bounds__(kPlaceThreads) PlaceInputs(const __grid_constant__ PlaceArguments a) {
  constexpr int kMatrices = kUnitInputs<kKind> / kMatrixInputs;
  Begin();
  const int at = static_cast<int>(blockIdx.x) * kPlaceThreads + static_cast<int>(threadIdx.x);
  const int group = at % 8, token = at / 8 % kColumns, matrix = at / 8 / kColumns;
  if (matrix >= a.units * kMatrices) return;
  const int step = matrix % kMatrices * 4 + group / 2;  // of 16 inputs, in the unit
  const T* const x = reinterpret_cast<const T*>(a.x) + token * a.x_stride;
  T values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t k = static_cast<int64_t>(matrix / kMatrices) * kUnitInputs<kKind> + InputOf<kKind>(step, group % 2 * 8 + i);
    values[i] = token < a.tokens && k < a.inputs ? x[k] : T{};
  }
  uint4 eight;
  memcpy(&eight, values, sizeof eight);
  reinterpret_cast<uint4*>(a.to)[static_cast<int64_t>(matrix) * kColumns * 8 + token * 8 + (group ^ token % 8)] = eight;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// Two rows of a weight as a lane sees them.
template <FragmentKind kKind, int kScaleBytes>
class LaneCodes {
 public:
  static constexpr int kInputs = FragmentSizes<kKind>::kInputs;

  __device__ LaneCodes(const Arguments& a, int64_t first_row) : inputs_(static_cast<int>(a.inputs)), shift_(a.group_shift) {
    const StoredWeight& w = a.weight;
    const int lane = threadIdx.x % 32;
    place_ = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Rows beyond the last repeat it; their sums are not stored.
      const int64_t m = min(first_row + threadIdx.x / 32 * 16 + lane / 4 + 8 * h, w.outputs - 1);
      codes_[h] = w.Part(WeightPart::kCodes) + m * a.row_bytes + place_ * 16;
      const auto of_all = static_cast<uint32_t>(m + w.first_row);
      const uint32_t scale_row = w.row_group == 1 ? of_all : of_all / static_cast<uint32_t>(w.row_group);
      scales_[h] = w.Part(WeightPart::kScales) + scale_row * a.scale_row_bytes;
    }
  }
  /// Starts copying a unit's codes, zeros where there are none.
  __device__ void Start(int unit, uint8_t* stage) const {
    const bool there = (unit * 4 + place_) * kInputs < inputs_;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint8_t* const from = there ? codes_[h] + static_cast<int64_t>(unit) * 64 : codes_[h];
      asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(SharedAddress(Place(stage, h))), "l"(from),
                   "r"(there ? 16 : 0)
                   : "memory");
    }
  }
  __device__ void Scales(int unit, uint32_t (&to)[2]) const {
    const int k = min((unit * 4 + place_) * kInputs, inputs_ - 1);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint8_t* const at = scales_[h] + (k >> shift_) * kScaleBytes;
      if constexpr (kScaleBytes == 4) to[h] = __ldg(reinterpret_cast<const uint32_t*>(at));
      else to[h] = __ldg(reinterpret_cast<const uint16_t*>(at));
    }
  }
  static __device__ uint4* Place(uint8_t* stage, int h) { return reinterpret_cast<uint4*>(stage) + h * kThreads + threadIdx.x; }

 private:
  const int inputs_, shift_;
  int place_;
  const uint8_t *codes_[2], *scales_[2];
};

/// sums += values · inputs, eight codes after eight. The products of an eight run while the next one is expanded.
template <FragmentKind kKind, class T, int kColumns, int kEight>
__device__ inline void MultiplyUnit(const uint4 (&codes)[2], const Fragments<kKind, T>& low, const Fragments<kKind, T>& high,
                                    uint64_t inputs, float (&sums)[kColumns / 8][4]) {
  if constexpr (kEight < FragmentSizes<kKind>::kInputs / 8) {
    uint32_t rows[2][4];
    low.template Expand<kEight>(codes[0], rows[0]);
    high.template Expand<kEight>(codes[1], rows[1]);
    // Two steps of 16 inputs; four are a matrix.
    constexpr uint64_t kAt = EncodedBytes(kEight / 2 * kColumns * kMatrixInputs * 2 + kEight % 2 * 64);
    BeginProducts();
    StartProduct<T>(sums, {rows[0][0], rows[1][0], rows[0][1], rows[1][1]}, inputs + kAt);
    StartProduct<T>(sums, {rows[0][2], rows[1][2], rows[0][3], rows[1][3]}, inputs + kAt + EncodedBytes(32));
    EndProducts();
    WaitForProductsBut<1>();
    MultiplyUnit<kKind, T, kColumns, kEight + 1>(codes, low, high, inputs, sums);
  }
}
#endif

template <FragmentKind kKind, class T, int kScaleBytes, int kColumns>
__global__ void __launch_bounds__(kThreads, 1) SomeStored(const __grid_constant__ Arguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using S = Stage<kKind, kColumns>;
  extern __shared__ __align__(128) uint8_t unaligned[];
  uint8_t* const bytes = unaligned + (kAlignment - SharedAddress(unaligned) % kAlignment) % kAlignment;
  const int tile = static_cast<int>(blockIdx.x) / a.blocks_each, rank = static_cast<int>(blockIdx.x) % a.blocks_each;
  const int first_unit = a.units * rank / a.blocks_each, end = a.units * (rank + 1) / a.blocks_each;
  const int64_t first_row = static_cast<int64_t>(tile) * kBlockRows;
  const LaneCodes<kKind, kScaleBytes> lane_codes(a, first_row);
  const auto codes_of = [&](int stage) { return bytes + stage * S::kBytes + S::kInputBytes; };
  // By stage: whether inputs are there, and whether every warp has multiplied them.
  __shared__ uint64_t inputs_there[S::kStages], inputs_read[S::kStages];
  const int count = end - first_unit;
  // The i-th unit's, by one thread.
  const auto start_inputs = [&](int i) {
    const int stage = i % S::kStages, turn = i / S::kStages;
    if (turn > 0) Await(&inputs_read[stage], (turn - 1) & 1);
    CopyMany(bytes + stage * S::kBytes, a.placed + static_cast<int64_t>(first_unit + i) * S::kInputBytes, S::kInputBytes, &inputs_there[stage]);
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::kStages; ++s) InitBarrier(&inputs_there[s], 1), InitBarrier(&inputs_read[s], kThreads / 32);
    ShowBarriers();
  }
  __syncthreads();
#pragma unroll
  for (int s = 0; s < S::kCodesAhead; ++s) {
    lane_codes.Start(min(first_unit + s, end - 1), codes_of(s));
    CommitCopies();
  }
  uint32_t scales[3][2];
#pragma unroll
  for (int s = 0; s < 3; ++s) lane_codes.Scales(first_unit + s, scales[s]);
  Begin();
  if (threadIdx.x == 0) {
    for (int i = 0; i < min(S::kInputsAhead, count); ++i) start_inputs(i);
  }
  __syncwarp();
  const float factor = a.weight.factor;
  const bool halves = a.weight.scale_type == DType::kF16;
  float sums[kColumns / 8][4] = {};
  int stage = 0, later = S::kCodesAhead;
  for (int i = 0; i < count; ++i) {
    const int unit = first_unit + i;
    if (threadIdx.x == 0 && i + S::kInputsAhead < count) start_inputs(i + S::kInputsAhead);
    __syncwarp();
    WaitForAllCopiesBut<S::kCodesAhead - 1>();
    // A lane takes only codes that it has copied itself.
    lane_codes.Start(min(unit + S::kCodesAhead, end - 1), codes_of(later));
    CommitCopies();
    const uint4 codes[2] = {*lane_codes.Place(codes_of(stage), 0), *lane_codes.Place(codes_of(stage), 1)};
    const auto low = PlainScale<kKind, T, kScaleBytes>(scales[0][0], halves);
    const auto high = PlainScale<kKind, T, kScaleBytes>(scales[0][1], halves);
#pragma unroll
    for (int h = 0; h < 2; ++h) scales[0][h] = scales[1][h], scales[1][h] = scales[2][h];
    lane_codes.Scales(unit + 3, scales[2]);
    Await(&inputs_there[stage], i / S::kStages & 1);
    MultiplyUnit<kKind, T, kColumns, 0>(codes, {low, low, factor}, {high, high, factor}, MatrixAt(bytes + stage * S::kBytes), sums);
    WaitForProductsBut<0>();
    ArriveWarp(&inputs_read[stage]);
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
    later = later + 1 == S::kStages ? 0 : later + 1;
  }
  WaitForAllCopiesBut<0>();
  __syncthreads();
  auto* const results = reinterpret_cast<float*>(bytes);
  const int lane = threadIdx.x % 32, row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) results[(n * 8 + lane % 4 * 2 + i % 2) * kSumPitch + row + i / 2 * 8] = sums[n][i];
  }
  MeetCluster();
  for (int i = static_cast<int>(threadIdx.x) + rank * kThreads; i < a.tokens * kBlockRows; i += a.blocks_each * kThreads) {
    const int token = i / kBlockRows;
    const int64_t output = first_row + i % kBlockRows;
    float value = 0;
    for (int from = 0; from < a.blocks_each; ++from) value += OfCluster(results + token * kSumPitch + i % kBlockRows, from);
    if (output < a.weight.outputs) a.finish.Put(token, output, value);
  }
  // What others read of this block's stays until they have.
  MeetCluster();
#endif
}

}  // namespace zi::cuda::some
