// Tensor cores of compute capability 9.0 as products of some tokens use them: values of weights in registers, inputs in shared memory;
// and blocks of a cluster that share inputs, or read each other's sums.
#pragma once
#include <type_traits>

#include "cuda/hopper.h"

namespace zi::cuda::some {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// What so many bytes further is in the address of a matrix.
__device__ constexpr uint64_t EncodedBytes(int bytes) { return static_cast<uint64_t>(bytes) / 16; }
/// A matrix in shared memory of rows of 64 values, whose groups of eight are exchanged as PlaceInputs does; eight rows take 1024 bytes.
__device__ inline uint64_t MatrixAt(const void* at) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 / 16} << 32, kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kUnused | (SharedAddress(at) & 0x3ffff) / 16;
}

#define SUM(i) "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
#define SUMS_OF_64 SUM(0), SUM(1), SUM(2), SUM(3), SUM(4), SUM(5), SUM(6), SUM(7)
#define SUMS_OF_128 SUMS_OF_64, SUM(8), SUM(9), SUM(10), SUM(11), SUM(12), SUM(13), SUM(14), SUM(15)
#define MULTIPLY_64(TYPE)                                                                                               \
  asm volatile(                                                                                                         \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {"                                                  \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                                  \
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"                                                                       \
      : SUMS_OF_64                                                                                                      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(inputs))
#define MULTIPLY_128(TYPE)                                                                                              \
  asm volatile(                                                                                                         \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {"                                                 \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                  \
      "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"                                                                       \
      : SUMS_OF_128                                                                                                     \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(inputs))

/// sums += values [64 × 16] · inputs [tokens × 16]ᵀ, some time before WaitForProductsBut; registers are as tensor_cores.h says of a
/// and c, warp i of the group having rows 16i … 16i + 15.
template <class T, int kEights>
__device__ inline void StartProduct(float (&sums)[kEights][4], const uint32_t (&a)[4], uint64_t inputs) {
  static_assert(kEights == 8 || kEights == 16);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  if constexpr (kEights == 8) {
    if constexpr (kHalf) MULTIPLY_64("f16");
    else MULTIPLY_64("bf16");
  } else {
    if constexpr (kHalf) MULTIPLY_128("f16");
    else MULTIPLY_128("bf16");
  }
}
#undef MULTIPLY_128
#undef MULTIPLY_64
#undef SUMS_OF_128
#undef SUMS_OF_64
#undef SUM

/// What BringBytes does, into both blocks of a pair, at the place and for the barrier that each has here.
__device__ inline void BringBytesToBoth(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
          SharedAddress(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(SharedAddress(barrier)), "h"(static_cast<uint16_t>(3))
      : "memory");
}

/// Four values that another block of the cluster has where this one has `at`, a multiple of 16 bytes.
__device__ inline float4 FourOfCluster(const float* at, int rank) {
  float4 values;
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %4, %5; ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }"
      : "=f"(values.x), "=f"(values.y), "=f"(values.z), "=f"(values.w)
      : "r"(SharedAddress(at)), "r"(rank)
      : "memory");
  return values;
}
#endif

}  // namespace zi::cuda::some
