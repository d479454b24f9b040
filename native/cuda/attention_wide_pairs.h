// Tiles of wide heads of 16 bits on compute capability 9.0, whose keys may be shared by two blocks: what they are made of. Two
// groups of four warps take turns: each multiplies the queries by every other block of 64 keys and makes weights of the scores,
// and sums one half of the values of all of them. So one has the tensor cores while the other has weights to make.
#pragma once
#include "cuda/attention_wide_hopper.h"

namespace zi::cuda::wide::pairs {

constexpr int kKeys = 64, kThreads = 384, kStages = 2;
constexpr int kHalfValues = kValueDepth / 2, kValueTiles = kHalfValues / 8, kScoreTiles = kKeys / 8;
/// Parts of keys come and go in pieces: one half of the values, the other, and what is no value, where weights go later.
constexpr int kPieces = 3, kHalfParts = kHalfValues / kColumns, kWeightPart = 2 * kHalfParts;
static_assert(kParts == kWeightPart + 1 && kSplit % kKeys == 0);
constexpr int kPartBytes = kKeys * kColumns * 2;
__host__ __device__ constexpr int PartsOfPiece(int piece) { return piece < 2 ? kHalfParts : 1; }
/// Scores may grow by so much, times log2 e, before what has been summed is scaled down.
constexpr float kGrowth = 8;

template <class T>
struct Shared {
  T q[kParts][kRows][kColumns];
  T keys[kStages][kParts][kKeys][kColumns];
  float base[2][kRows], total[2][2][kRows];
  Sight sight;
  uint64_t there[kStages][kPieces], read[kStages][kPieces];
};

/// Calls use(block, stage) for blocks of keys in the order in which they are folded: a part of the context begins with the
/// first stage.
template <class Use>
__device__ inline void ForBlocks(const Arguments& a, int begin, int end, Use use) {
  for (int first = begin; first < end;) {
    const int last = a.PartEnd(first, end);
    int stage = 0;
    for (int block = first / kKeys * kKeys; block < last; block += kKeys, stage ^= 1) use(block, stage);
    first = last;
  }
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
enum PairBarrier : int { kQueries = 1, kFirstWeights, kSecondWeights, kTotals, kTurn, kScored, kCleared = kScored + 2 };
__device__ inline void MeetBoth(int barrier) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(2 * kGroup) : "memory"); }
__device__ inline void SignalOther(int barrier) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(2 * kGroup) : "memory"); }
__device__ inline void MeetGroup(int barrier) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kGroup) : "memory"); }

#define SUM(i) "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
#define FIRST(i) "=f"(sums[i][0]), "=f"(sums[i][1]), "=f"(sums[i][2]), "=f"(sums[i][3])
#define MULTIPLY_KEYS(TYPE, ADDS, SUM)                                                                                  \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {"                                         \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "                      \
               "%32, %33, " ADDS ", 1, 1, 0, 0;"                                                                        \
               : SUM(0), SUM(1), SUM(2), SUM(3), SUM(4), SUM(5), SUM(6), SUM(7)                                         \
               : "l"(x), "l"(y))
#define MULTIPLY_VALUES(TYPE, WEIGHTS, ...)                                                                             \
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " {"                                        \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                       \
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                       \
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                       \
               "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                       \
               "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                       \
               "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "           \
               "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "      \
               WEIGHTS                                                                                                  \
               : SUM(0), SUM(1), SUM(2), SUM(3), SUM(4), SUM(5), SUM(6), SUM(7), SUM(8), SUM(9), SUM(10), SUM(11),      \
                 SUM(12), SUM(13), SUM(14), SUM(15), SUM(16), SUM(17), SUM(18), SUM(19), SUM(20), SUM(21), SUM(22),     \
                 SUM(23), SUM(24), SUM(25), SUM(26), SUM(27), SUM(28), SUM(29), SUM(30), SUM(31)                        \
               : __VA_ARGS__)

/// sums += x [64 × 16] · y [64 × 16]ᵀ, or = where there is nothing to add to.
template <class T, bool kAdds>
__device__ inline void StartScores(float (&sums)[kScoreTiles][4], uint64_t x, uint64_t y) {
  if constexpr (std::is_same_v<T, __half> && kAdds) {
    MULTIPLY_KEYS("f16", "1", SUM);
  } else if constexpr (std::is_same_v<T, __half>) {
    MULTIPLY_KEYS("f16", "0", FIRST);
  } else if constexpr (kAdds) {
    MULTIPLY_KEYS("bf16", "1", SUM);
  } else {
    MULTIPLY_KEYS("bf16", "0", FIRST);
  }
}
/// sums += x [64 × 16] · y [16 × 256], x from registers or from shared memory.
template <class T>
__device__ inline void StartValues(float (&sums)[kValueTiles][4], const uint32_t (&x)[4], uint64_t y) {
  if constexpr (std::is_same_v<T, __half>) {
    MULTIPLY_VALUES("f16", "{%128, %129, %130, %131}, %132, 1, 1, 1, 1;", "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y));
  } else {
    MULTIPLY_VALUES("bf16", "{%128, %129, %130, %131}, %132, 1, 1, 1, 1;", "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y));
  }
}
template <class T>
__device__ inline void StartValues(float (&sums)[kValueTiles][4], uint64_t x, uint64_t y) {
  if constexpr (std::is_same_v<T, __half>) {
    MULTIPLY_VALUES("f16", "%128, %129, 1, 1, 1, 0, 1;", "l"(x), "l"(y));
  } else {
    MULTIPLY_VALUES("bf16", "%128, %129, 1, 1, 1, 0, 1;", "l"(x), "l"(y));
  }
}
#undef MULTIPLY_VALUES
#undef MULTIPLY_KEYS
#undef FIRST
#undef SUM
#endif

}  // namespace zi::cuda::wide::pairs
