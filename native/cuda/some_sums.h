// What becomes of a block's sums of some tokens: they are handed over to the block that began the tile, or are results.
//
// Lanes have of every eight tokens (columns) what tensor_cores.h says of c; a warp has 16 rows of the tile.
#pragma once
#include "cuda/finish.h"
#include "cuda/some_tokens.h"
#include "cuda/ways_some.h"

namespace zi::cuda::some {

/// Threads that multiply: two groups of four warps, each of which has two times 64 rows of the tile.
constexpr int kBlockRows = kSomeRows, kThreads = kBlockRows, kWarps = kThreads / 32;
constexpr int kRowsEach = 64, kTiers = 2;

/// A lane's sums: of each 64 rows of its group, those of eight tokens as tensor_cores.h says of c.
template <int kColumns>
using Sums = float[kTiers][kColumns / 8][4];

/// The first of a warp's 16 rows of its group's first 64.
__device__ inline int WarpRow() {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  return warp / 4 * (kRowsEach * kTiers) + warp % 4 * 16;
}

/// Flags are zero before a product begins. A block hands over once at most: of its first tile, where a run before began that.
struct Parts {
  uint32_t* flags;  // of each block's warps
  float4* sums;     // of each block, by eights of tokens and then threads
};

struct Results {
  Finish finish;
  int64_t outputs;
  int tokens;
  /// Eight results from a multiple of eight on lie at a multiple of 16 bytes.
  bool eights;
};

/// A warp changes columns for rows sixteen tokens at a time; rows of tokens are apart by so much that no bank is met twice.
constexpr int kTurnTokens = 16, kTurnPitch = 16 + 4, kTurnFloats = kTurnTokens * kTurnPitch;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// Where a thread's first four sums of a block lie.
template <int kColumns>
__device__ inline float4* SumsOf(const Parts& parts, int block) {
  return parts.sums + static_cast<int64_t>(block) * (kTiers * kColumns / 8 * kThreads) + threadIdx.x;
}
__device__ inline uint32_t* FlagOf(const Parts& parts, int block) { return parts.flags + block * kWarps + threadIdx.x / 32; }

/// The sums are seen by whoever sees the flag.
template <int kColumns>
__device__ inline void HandOver(const Parts& parts, int tokens, const Sums<kColumns>& sums) {
  float4* const to = SumsOf<kColumns>(parts, static_cast<int>(blockIdx.x));
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
    if (n * 8 >= tokens) continue;
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) {
      const auto& four = sums[tier][n];
      __stcg(to + (n * kTiers + tier) * kThreads, make_float4(four[0], four[1], four[2], four[3]));
    }
  }
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    __threadfence();
    asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(__cvta_generic_to_global(FlagOf(parts, static_cast<int>(blockIdx.x))))
                 : "memory");
  }
}
/// sums += what that block hands over, once it has.
template <int kColumns>
__device__ inline void TakeOver(const Parts& parts, int block, int tokens, Sums<kColumns>& sums) {
  if (threadIdx.x % 32 == 0) {
    const size_t flag = __cvta_generic_to_global(FlagOf(parts, block));
    uint32_t there = 0;
    while (!there) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(flag) : "memory");
  }
  __syncwarp();
  const float4* const from = SumsOf<kColumns>(parts, block);
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
    if (n * 8 >= tokens) continue;
#pragma unroll
    for (int tier = 0; tier < kTiers; ++tier) {
      const float4 four = __ldcg(from + (n * kTiers + tier) * kThreads);
      auto& to = sums[tier][n];
      to[0] += four.x, to[1] += four.y, to[2] += four.z, to[3] += four.w;
    }
  }
}

/// Sums of eight tokens, of the sixteen that `turned` holds.
__device__ inline void Turn(const float (&sums)[4], float* turned) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) turned[(lane % 4 * 2 + i % 2) * kTurnPitch + lane / 4 + i / 2 * 8] = sums[i];
}
/// Part `kPart` of a lane's sums, where that is `part`: which registers are read is known here alone.
template <int kColumns, int kPart>
__device__ inline void TurnPart(const Sums<kColumns>& sums, int part, float* turned) {
  constexpr int kEach = kColumns / kTurnTokens, kTier = kPart / kEach, kFirst = kPart % kEach * 2;
  if constexpr (kTier < kTiers) {
    if (part == kPart) {
      Turn(sums[kTier][kFirst], turned);
      Turn(sums[kTier][kFirst + 1], turned + 8 * kTurnPitch);
    } else {
      TurnPart<kColumns, kPart + 1>(sums, part, turned);
    }
  }
}
/// The tile's rows begin at `first`. `turned` is the warp's alone.
template <int kColumns>
__device__ inline void PutSums(const Results& results, int64_t first, const Sums<kColumns>& sums, float* turned) {
  constexpr int kEach = kColumns / kTurnTokens;
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int part = 0; part < kTiers * kEach; ++part) {
    const int sixteen = part % kEach * kTurnTokens, token = sixteen + lane / 2;
    const int64_t output = first + WarpRow() + part / kEach * kRowsEach + lane % 2 * 8;
    if (sixteen >= results.tokens) continue;
    __syncwarp();
    TurnPart<kColumns, 0>(sums, part, turned);
    __syncwarp();
    if (token >= results.tokens || output >= results.outputs) continue;
    const auto* const from = reinterpret_cast<const float4*>(turned + lane / 2 * kTurnPitch + lane % 2 * 8);
    const float4 low = from[0], high = from[1];
    float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    results.finish.PutEight(token, output, results.outputs, values, results.eights);
  }
}
#endif

}  // namespace zi::cuda::some
