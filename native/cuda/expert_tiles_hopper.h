// Tiles of one expert's choices on compute capability 9.0: two groups of four warps multiply straight from shared memory
// (wgmma), while the next two stages are on their way into it.
#pragma once
#include <type_traits>

#include "cuda/expert_tiles.h"
#include "cuda/hopper.h"
#include "cuda/overlap.h"

namespace zi::cuda::hopper {

constexpr int kThreads = 256;
constexpr int kRows = kHopperRows;
constexpr int kColumns = 256;
constexpr int kDepth = 64;  // a row of a stage is 128 bytes long, which the instructions' layout is named for
constexpr int kStages = 3;
constexpr int kAlignment = 1024;  // of eight such rows, which the layout repeats

template <class T, template <class, int, int, int> class Weights>
using Copies = TileCopies<T, kRows, kColumns, kDepth, kThreads, Weights>;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr int kGroupRows = 64;  // of a group of warps
constexpr int kSums = kColumns / 8;

/// A matrix in shared memory of rows of 64 values, swizzled as Swizzle<8> does; eight rows take 1024 bytes.
__device__ inline uint64_t MatrixAt(const void* at) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 / 16} << 32, kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kUnused | (SharedAddress(at) & 0x3ffff) / 16;
}
/// What so many 16-bit values further is in such an address.
__device__ constexpr uint64_t Encoded(int values) { return static_cast<uint64_t>(values) * 2 / 16; }

#define SUM(i) "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
#define MULTIPLY(TYPE)                                                                                                  \
  asm volatile(                                                                                                         \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " {"                                                 \
      "%0, %1, %2, %3, %4, %5, %6, %7, "                                                                                \
      "%8, %9, %10, %11, %12, %13, %14, %15, "                                                                          \
      "%16, %17, %18, %19, %20, %21, %22, %23, "                                                                        \
      "%24, %25, %26, %27, %28, %29, %30, %31, "                                                                        \
      "%32, %33, %34, %35, %36, %37, %38, %39, "                                                                        \
      "%40, %41, %42, %43, %44, %45, %46, %47, "                                                                        \
      "%48, %49, %50, %51, %52, %53, %54, %55, "                                                                        \
      "%56, %57, %58, %59, %60, %61, %62, %63, "                                                                        \
      "%64, %65, %66, %67, %68, %69, %70, %71, "                                                                        \
      "%72, %73, %74, %75, %76, %77, %78, %79, "                                                                        \
      "%80, %81, %82, %83, %84, %85, %86, %87, "                                                                        \
      "%88, %89, %90, %91, %92, %93, %94, %95, "                                                                        \
      "%96, %97, %98, %99, %100, %101, %102, %103, "                                                                    \
      "%104, %105, %106, %107, %108, %109, %110, %111, "                                                                \
      "%112, %113, %114, %115, %116, %117, %118, %119, "                                                                \
      "%120, %121, %122, %123, %124, %125, %126, %127}, "                                                               \
      "%128, %129, 1, 1, 1, 0, 0;"                                                                                      \
      :                                                                                                                 \
        SUM(0), SUM(1), SUM(2), SUM(3),                                                                                 \
        SUM(4), SUM(5), SUM(6), SUM(7),                                                                                 \
        SUM(8), SUM(9), SUM(10), SUM(11),                                                                               \
        SUM(12), SUM(13), SUM(14), SUM(15),                                                                             \
        SUM(16), SUM(17), SUM(18), SUM(19),                                                                             \
        SUM(20), SUM(21), SUM(22), SUM(23),                                                                             \
        SUM(24), SUM(25), SUM(26), SUM(27),                                                                             \
        SUM(28), SUM(29), SUM(30), SUM(31)                                                                              \
      : "l"(x), "l"(weights))

/// sums += x [64 × 16] · weights [256 × 16]ᵀ, some time before WaitForProducts. Lanes have of every 8 columns what
/// tensor_cores.h says of c; warp i of the group has rows 16i … 16i + 15.
template <class T>
__device__ inline void StartProduct(float (&sums)[kSums][4], uint64_t x, uint64_t weights) {
  if constexpr (std::is_same_v<T, __half>) {
    MULTIPLY("f16");
  } else {
    MULTIPLY("bf16");
  }
}
#undef MULTIPLY
#undef SUM

#endif

template <class T, int kHalves, template <class, int, int, int> class Weights>
__global__ void __launch_bounds__(kThreads, 1)
    MultiplyTiles(const __grid_constant__ typename Copies<T, Weights>::Arguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using C = Copies<T, Weights>;
  extern __shared__ __align__(128) uint8_t unaligned[];
  __shared__ int choices[kRows];
  uint8_t* const bytes = unaligned + (kAlignment - SharedAddress(unaligned) % kAlignment) % kAlignment;
  Begin();
  const TilePlace<kColumns> place(a);
  if (place.tile.expert < 0 || !a.weights.Has(place.tile.expert)) return;
  ReadChoices<kRows, kThreads>(a, place.tile, choices);
  C copies(a, place, choices, bytes, kStages);
  const int group_row = static_cast<int>(threadIdx.x) / 128 * kGroupRows;

  float sums[kSums][4] = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) copies.Start(s * kDepth, s);
  copies.Ahead(0);
  int stage = 0;
  const auto copy_on = [&](int k) {
    copies.Start(k + (kStages - 1) * kDepth, (stage + kStages - 1) % kStages);
    copies.Ahead(k + kDepth);
  };
  for (int k = 0; k < a.inputs; k += kDepth) {
    WaitForAllCopiesBut<kStages - 2>();
    // The compiler keeps products under way over no branch: it would end each at once.
    if constexpr (C::kBranches) WaitForProducts();
    const T* const weight_part = copies.Arrive(stage);
    ShowToProducts();
    if constexpr (!C::kBranches) WaitForProducts();
    __syncthreads();  // and nobody reads the stage before any more
    if constexpr (C::kBranches) copy_on(k);
    const uint64_t x = MatrixAt(copies.X(stage) + group_row * kDepth), weights = MatrixAt(weight_part);
    BeginProducts();
#pragma unroll
    for (int d = 0; d < kDepth / 16; ++d) {
#pragma unroll
      for (int h = kHalves - 1; h >= 0; --h) {
        StartProduct<T>(sums, x + Encoded(h * C::kXPart + d * 16), weights + Encoded(d * 16));
      }
    }
    EndProducts();
    if constexpr (!C::kBranches) copy_on(k);
    stage = (stage + 1) % kStages;
  }

  WaitForProducts();
  WaitForAllCopiesBut<0>();
  __syncthreads();
  auto* const results = reinterpret_cast<float*>(bytes);
  const int lane = threadIdx.x % 32, row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < kSums; ++n) KeepResult<kColumns>(results, row, n * 8 + lane % 4 * 2, sums[n]);
  __syncthreads();
  WriteResults<kColumns, kThreads>(a, place, choices, results);
#endif
}

template <class T, int kHalves, template <class, int, int, int> class Weights, class Arguments>
void LaunchHalves(const Arguments& a, Run& run) {
  const auto kernel = MultiplyTiles<T, kHalves, Weights>;
  const size_t shared = Copies<T, Weights>::SharedBytes(a.halves, kStages) + kAlignment;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  OverlappedWith(shared, kernel, dim3(TileBlocks<kColumns>(a)), kThreads, run, a);
}

template <class T, template <class, int, int, int> class Weights, class Arguments>
void LaunchTyped(const Arguments& a, Run& run) {
  if (a.halves == 1) return LaunchHalves<T, 1, Weights>(a, run);
  LaunchHalves<T, 2, Weights>(a, run);
}

template <template <class, int, int, int> class Weights, class Arguments>
void Launch(DType type, const Arguments& a, Run& run) {
  switch (type) {
    case DType::kF16:
      return LaunchTyped<__half, Weights>(a, run);
    case DType::kBF16:
      return LaunchTyped<__nv_bfloat16, Weights>(a, run);
    case DType::kF32:
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(type);
}

}  // namespace zi::cuda::hopper
