// What kernels that sum over ranks share: where values lie, pushing and taking them, and meeting those of the other devices.
//
// Block b meets the blocks b of the other devices and no others, so that neither has to be there whole. What is pushed lies apart
// by the epoch's parity: whoever pushes in epoch e + 2 has ended epoch e + 1, in which every other has told something, which it does only
// when its epoch e has ended.
#pragma once
#include <stdexcept>
#include <type_traits>

#include "cuda/rank_exchange.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {

struct SumArguments {
  RowView x, partial;
  /// In a row, or in all where rows follow each other.
  int64_t columns;
  /// The first value of this round, and how many groups of neighbours there are.
  int64_t first, groups;
  InboxLayout layout;
  uint8_t* inbox[kMostRanks];
  uint32_t* epochs;
  const int32_t* closed;
  int rank;
  bool accumulate;
  /// Groups of x and of the partial begin at multiples of 16 bytes here. Elsewhere they may not, and are the same groups.
  bool aligned;
};

/// W neighbours as they lie.
template <class P, int W>
struct alignas(W == 8 ? 16 : sizeof(P)) Group {
  P values[W];
};

/// What another device has written: no cache is asked.
template <class P, int W>
__device__ Group<P, W> TakePushed(const void* from) {
  Group<P, W> group;
  if constexpr (W == 8) {
#pragma unroll
    for (size_t i = 0; i < sizeof(group) / 16; ++i) reinterpret_cast<uint4*>(&group)[i] = __ldcv(static_cast<const uint4*>(from) + i);
  } else if constexpr (sizeof(P) == 4) {
    *reinterpret_cast<uint32_t*>(&group) = __ldcv(static_cast<const uint32_t*>(from));
  } else {
    *reinterpret_cast<uint16_t*>(&group) = __ldcv(static_cast<const uint16_t*>(from));
  }
  return group;
}
template <class P, int W>
__device__ void Put(void* to, const Group<P, W>& group) {
  if constexpr (W == 8) {
#pragma unroll
    for (size_t i = 0; i < sizeof(group) / 16; ++i) static_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(&group)[i];
  } else {
    *static_cast<Group<P, W>*>(to) = group;
  }
}

/// Where a group of neighbours lies.
struct Spot {
  int64_t row, column;
};
template <int W>
__device__ Spot SpotOf(const SumArguments& a, int64_t group) {
  const int64_t value = a.first + group * W;
  if (value < a.columns) return {0, value};
  return {value / a.columns, value % a.columns};
}
template <class P, int W>
__device__ Group<P, W> TakeOwn(const SumArguments& a, int64_t group) {
  const Spot spot = SpotOf<W>(a, group);
  const P* from = a.partial.Row<P>(spot.row) + spot.column;
  if (a.aligned) return *reinterpret_cast<const Group<P, W>*>(from);
  Group<P, W> own;
#pragma unroll
  for (int i = 0; i < W; ++i) own.values[i] = from[i];
  return own;
}

template <class P, int W>
__device__ void AddTo(float (&sum)[W], const Group<P, W>& group, bool first) {
#pragma unroll
  for (int i = 0; i < W; ++i) sum[i] = first ? Widen(group.values[i]) : sum[i] + Widen(group.values[i]);
}

/// What x holds.
template <int W>
__device__ void GetBefore(const SumArguments& a, int64_t group, float (&x)[W]) {
  const Spot spot = SpotOf<W>(a, group);
  if constexpr (W == 8) {
    if (a.aligned) return a.x.GetEight(spot.row, spot.column, x);
  }
#pragma unroll
  for (int i = 0; i < W; ++i) x[i] = a.x.Get(spot.row, spot.column + i);
}
template <int W>
__device__ void PutSum(const SumArguments& a, int64_t group, const float (&x)[W]) {
  const Spot spot = SpotOf<W>(a, group);
  if constexpr (W == 8) {
    if (a.aligned) return a.x.PutEight(spot.row, spot.column, x);
  }
#pragma unroll
  for (int i = 0; i < W; ++i) a.x.Put(spot.row, spot.column + i, x[i]);
}
/// x (+)= sum
template <int W>
__device__ void Apply(const SumArguments& a, int64_t group, float (&sum)[W]) {
  if (a.accumulate) {
    float x[W];
    GetBefore(a, group, x);
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = x[i] + sum[i];
  }
  PutSum(a, group, sum);
}

/// What the block has pushed may be read, and what the others' blocks of its number have is there.
__device__ inline void Meet(const SumArguments& a, int phase, uint32_t epoch) {
  constexpr int kLookTurns = 1024;
  __syncthreads();
  const int other = static_cast<int>(threadIdx.x);
  if (other < a.layout.count && other != a.rank) {
    auto* theirs = reinterpret_cast<uint32_t*>(a.inbox[other] + a.layout.FlagOf(phase, a.rank, blockIdx.x));
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(theirs), "r"(epoch) : "memory");
    const auto* flag = reinterpret_cast<const uint32_t*>(a.inbox[a.rank] + a.layout.FlagOf(phase, other, blockIdx.x));
    for (int turn = 1;; ++turn) {
      uint32_t seen;
      asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
      if (static_cast<int32_t>(seen - epoch) >= 0) break;
      if (turn % kLookTurns != 0) continue;
      // Whoever closes the group, or learns of a failure, fails what is made of this.
      int32_t closed;
      asm volatile("ld.acquire.sys.global.b32 %0, [%1];" : "=r"(closed) : "l"(a.closed) : "memory");
      if (closed != 0) break;
    }
  }
  __syncthreads();
}

__device__ inline uint32_t BeginEpoch(const SumArguments& a) { return a.epochs[blockIdx.x] + 1; }

/// Those of blocks that this kernel has not are counted on as well. When the block has ended its part.
__device__ inline void EndEpoch(const SumArguments& a, uint32_t epoch) {
  for (unsigned block = blockIdx.x + gridDim.x * threadIdx.x; block < kMostMeetingBlocks; block += gridDim.x * blockDim.x) {
    a.epochs[block] = epoch;
  }
}

/// What is the same for all kernels that sum; rounds are the caller's.
SumArguments ArgumentsOf(const ReduceOp& op);

using SumKernel = void (*)(SumArguments);
constexpr DType kPartialTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
/// Calls `use` with a null pointer of the partials' type, and gives what it gives.
template <class F>
SumKernel ForPartials(DType type, F use) {
  switch (type) {
    case DType::kF32:
      return use(static_cast<float*>(nullptr));
    case DType::kF16:
      return use(static_cast<__half*>(nullptr));
    case DType::kBF16:
      return use(static_cast<__nv_bfloat16*>(nullptr));
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  throw std::invalid_argument("reduce: partials are floats");
}

}  // namespace zi::cuda
