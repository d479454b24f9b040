// Inputs of products of some tokens (some_stored.h): put as stages take them, and brought to those by a warp of each block.
#pragma once
#include <cstring>

#include "cuda/overlap.h"
#include "cuda/some_work.h"

namespace zi::cuda::some {

constexpr int kPlaceThreads = 256;

struct PlaceArguments {
  const uint8_t* x;
  int64_t x_stride, inputs;
  int tokens, units;
  uint8_t* to;
  uint32_t* flags;
  int flag_count;
};

/// A thread per eight values of a matrix's row.
template <FragmentKind kKind, class T, int kColumns, bool kPairs>
__global__ void __launch_bounds__(kPlaceThreads) PlaceInputs(const __grid_constant__ PlaceArguments a) {
  constexpr int kMatrices = kUnitInputs<kKind> / kMatrixInputs;
  Begin();
  const int at = static_cast<int>(blockIdx.x) * kPlaceThreads + static_cast<int>(threadIdx.x);
  for (int i = at; i < a.flag_count; i += static_cast<int>(gridDim.x) * kPlaceThreads) a.flags[i] = 0;
  const int group = at % 8, token = at / 8 % kColumns, matrix = at / 8 / kColumns;
  if (matrix >= a.units * kMatrices) return;
  const int step = matrix % kMatrices * 4 + group / 2;  // of 16 inputs, in the unit
  const T* const x = reinterpret_cast<const T*>(a.x) + token * a.x_stride;
  T values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t k = static_cast<int64_t>(matrix / kMatrices) * kUnitInputs<kKind> + InputOf<kKind, kPairs>(step, group % 2 * 8 + i);
    values[i] = token < a.tokens && k < a.inputs ? x[k] : T{};
  }
  uint4 eight;
  memcpy(&eight, values, sizeof eight);
  reinterpret_cast<uint4*>(a.to)[static_cast<int64_t>(matrix) * kColumns * 8 + token * 8 + (group ^ token % 8)] = eight;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// Inputs of a block's units on their way to its stages, by one of its threads.
template <FragmentKind kKind, int kColumns>
class Inputs {
  using S = Stage<kKind, kColumns>;

 public:
  __device__ Inputs(const Arguments& a, const Work& work) : sharers_(a.Sharers()), rank_(work.rank), unit_(work.unit) {}
  __device__ void Start(const Arguments& a, uint8_t* stage, uint64_t* there) {
    const uint8_t* const from = a.placed + static_cast<int64_t>(unit_) * S::kInputBytes;
    ExpectBytes(there, S::kInputBytes);
    if (sharers_ > 1) BringBytesToBoth(stage + rank_ * kHalf, from + rank_ * kHalf, kHalf, there);
    else BringBytes(stage, from, S::kInputBytes, there);
    if (++unit_ == a.units) unit_ = 0;
  }

 private:
  static constexpr int kHalf = S::kInputBytes / 2;
  const int sharers_, rank_;
  int unit_;
};

/// A block's barriers, by stage: whether inputs are there, and whether every warp of every block that they are brought to has multiplied
/// them.
template <class S>
struct Barriers {
  uint64_t there[S::kStages], read[S::kStages];
};

/// What the warp that brings inputs does.
template <FragmentKind kKind, int kColumns>
__device__ inline void BringInputs(const Arguments& a, const Work& work, uint8_t* bytes, Barriers<Stage<kKind, kColumns>>& barriers) {
  using S = Stage<kKind, kColumns>;
  if (threadIdx.x == kThreads) {
    Inputs<kKind, kColumns> inputs(a, work);
    int stage = 0;
    uint32_t phase = 1;
    for (int i = 0; i < work.count; ++i) {
      if (i >= S::kStages) Await(&barriers.read[stage], phase);
      inputs.Start(a, bytes + stage * S::kBytes, &barriers.there[stage]);
      if (++stage == S::kStages) stage = 0, phase ^= 1;
    }
  }
  __syncwarp();
}
#endif

}  // namespace zi::cuda::some
