// What the tiles of wide heads on compute capability 9.0 are made of: products straight from shared memory (wgmma), barriers of
// threads, and how matrices lie there.
#pragma once
#include "cuda/attention_wide.h"
#include "cuda/hopper.h"

namespace zi::cuda::wide {

constexpr int kGroup = 128;   // threads that multiply together
constexpr int kColumns = 64;  // of a part of a matrix in shared memory, whose rows are 128 bytes long
/// Eights of values that an instruction multiplies; there is none for as many as a group sums that its registers suffice for.
constexpr int kSumTiles = 16, kSumHalves = kValueDepth / 2 / 8 / kSumTiles;

constexpr int kThreads = 512, kStages = 5;
constexpr int kParts = kDepth / kColumns, kAlignment = 1024;
/// Parts of the queries that stay in registers, which leaves shared memory room for one stage more, and time: it is as busy as
/// the tensor cores are.
constexpr int kHeldParts = 5;
/// Stages from this on hold them at first.
constexpr int kFirstBusyStage = 3;
/// Registers of a thread that sums values, brings keys, makes weights: together as many as there are.
constexpr int kSumRegisters = 168;
template <int kKeyHalves>
constexpr int kBringRegisters = kKeyHalves == 1 ? 24 : 48;
template <int kKeyHalves>
constexpr int kWeightRegisters = 65536 / kGroup - 2 * kSumRegisters - kBringRegisters<kKeyHalves>;

template <class T>
struct Shared {
  T q[kParts - kHeldParts][kRows][kColumns];
  T keys[kStages][kParts][kKeys][kColumns];
  /// Those of two blocks, 32 columns each.
  T weights[kRows][kColumns];
  float rescale[2][kRows], maximum[kRows], total[kRows];
  Sight sight;
  uint64_t keys_there[kStages], keys_read[kStages];

  /// A row of a part of the queries, where they are loaded to.
  __device__ T* Query(int part, int row) {
    return part >= kHeldParts ? q[part - kHeldParts][row] : keys[kFirstBusyStage][0][0] + (part * kRows + row) * kColumns;
  }
};
static_assert((kStages - kFirstBusyStage) * kParts * kKeys >= kHeldParts * kRows);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// Barriers of threads, which, unlike those in memory, are waited for without a branch: the compiler keeps products under way
/// over no branch. Those of weights are two each, for blocks in turn.
enum GroupBarrier : int { kQueriesThere = 1, kQueriesHeld, kResultsThere, kWeightsThere, kWeightsRead = kWeightsThere + 2 };
constexpr int kConsumers = 3 * kGroup;
__device__ inline void Meet(int barrier) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kConsumers) : "memory"); }
__device__ inline void Signal(int barrier) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(kConsumers) : "memory"); }

template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void LeaveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}


/// A matrix of rows of 128 bytes, swizzled by eights; `across`: 16-byte units from columns to the next columns, where rows
/// are what is summed over.
__device__ inline uint64_t MatrixAt(const void* at, uint32_t across) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kEightRows | uint64_t{across} << 16 | (SharedAddress(at) & 0x3ffff) / 16;
}

#define SUM(i) "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
#define FIRST(i) "=f"(sums[i][0]), "=f"(sums[i][1]), "=f"(sums[i][2]), "=f"(sums[i][3])
#define MULTIPLY_KEYS(TYPE, ADDS, SUM)                                                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE " {"                  \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "         \
               "{%16, %17, %18, %19}, %20, " ADDS ", 1, 1, 0;"                                   \
               : SUM(0), SUM(1), SUM(2), SUM(3)                                                  \
               : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y))
#define MULTIPLY_MORE_KEYS(TYPE)                                                                 \
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE " {"                  \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "         \
               "%16, %17, 1, 1, 1, 0, 0;"                                                        \
               : SUM(0), SUM(1), SUM(2), SUM(3)                                                  \
               : "l"(x), "l"(y))
#define MULTIPLY_VALUES(TYPE)                                                                                           \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {"                                        \
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                       \
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                       \
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "                      \
               "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"                                                                 \
               : SUM(0), SUM(1), SUM(2), SUM(3), SUM(4), SUM(5), SUM(6), SUM(7), SUM(8), SUM(9), SUM(10), SUM(11),      \
                 SUM(12), SUM(13), SUM(14), SUM(15)                                                                     \
               : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y))

/// sums += x [64 × 16] · y [32 × 16]ᵀ, or = where there is nothing to add to.
template <class T, bool kAdds>
__device__ inline void StartProduct(float (&sums)[kKeys / 8][4], const uint32_t (&x)[4], uint64_t y) {
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
template <class T>
__device__ inline void StartProduct(float (&sums)[kKeys / 8][4], uint64_t x, uint64_t y) {
  if constexpr (std::is_same_v<T, __half>) {
    MULTIPLY_MORE_KEYS("f16");
  } else {
    MULTIPLY_MORE_KEYS("bf16");
  }
}
/// sums += x [64 × 16] · y [16 × 128].
template <class T>
__device__ inline void StartProduct(float (&sums)[kSumTiles][4], const uint32_t (&x)[4], uint64_t y) {
  if constexpr (std::is_same_v<T, __half>) {
    MULTIPLY_VALUES("f16");
  } else {
    MULTIPLY_VALUES("bf16");
  }
}
/// Keeps the compiler from reading sums before they have been waited for.
template <int kTiles>
__device__ inline void Settle(float (&sums)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) asm volatile("" : SUM(i)::"memory");
}
#undef MULTIPLY_VALUES
#undef MULTIPLY_MORE_KEYS
#undef MULTIPLY_KEYS
#undef FIRST
#undef SUM

/// Where column d (a multiple of eight) of a row lies in a part.
template <class T>
__device__ inline T* Swizzled(T* row, int row_index, int d) {
  return row + ((d / 8 ^ row_index) % 8) * 8;
}

/// A block of keys that a group of warps has come to: which stage it lies in, and how often stages were filled before.
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void Advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

/// A lane's scores times log2 e; −∞ where a row does not see the key.
template <bool kPlain>
struct Scoring {
  float factor, slope, cap;
  bool alibi_rounded;
  int first;
  uint32_t seen;  // keys from the first on

  __device__ Scoring(const Arguments& a, float head_slope, int first_seen, int last_seen)
      : factor(kPlain ? a.scale * kLog2E : a.scale), slope(head_slope), cap(a.soft_cap), alibi_rounded(a.alibi_rounded) {
    const bool some = last_seen >= first_seen;
    first = some ? first_seen : 0;
    seen = some ? last_seen - first_seen + 1 : 0;
  }
  __device__ float operator()(float product, int key) const {
    float score = product * factor;
    if constexpr (!kPlain) {
      const float place = static_cast<float>(key);
      const float rounded = AttentionArguments::RoundToBf16(slope * AttentionArguments::RoundToBf16(place)) * factor;
      score += alibi_rounded ? rounded : slope * place;
      // The cap would make an ordinary number of an infinite one.
      const float capped = cap - 2 * cap / (Exp2(score / cap * (2 * kLog2E)) + 1);
      score = (cap != 0 ? fmaf(score, 0.0f, capped) : score) * kLog2E;
    }
    return static_cast<uint32_t>(key - first) < seen ? score : -INFINITY;
  }
};
#endif

}  // namespace zi::cuda::wide
