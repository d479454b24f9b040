// Tiles of one expert's choices on tensor cores that every GPU has, from whatever weights are made of.
#pragma once
#include <stdexcept>
#include <string>

#include "cuda/expert_tiles.h"
#include "cuda/overlap.h"

namespace zi::cuda::tiles {

constexpr int kThreads = 128;
constexpr int kColumns = 128;
constexpr int kStages = 4;

template <int kRows>
struct Sizes {
  /// With few rows the weights rule, and longer pieces of them are read.
  static constexpr int kDepth = kRows >= 64 ? 32 : 64;
  static constexpr int kWarpsDown = kRows >= 64 ? 2 : 1, kWarpsAcross = 4 / kWarpsDown;
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpColumns = kColumns / kWarpsAcross;
};

/// With weights of a kind: DenseTileWeights, or what else has its methods.
template <class T, int kRows, template <class, int, int, int> class Weights>
using Copies = TileCopies<T, kRows, kColumns, Sizes<kRows>::kDepth, kThreads, Weights>;

template <class T, int kRows, template <class, int, int, int> class Weights>
__global__ void __launch_bounds__(kThreads, 2)
    MultiplyTiles(const __grid_constant__ typename Copies<T, kRows, Weights>::Arguments a) {
  using S = Sizes<kRows>;
  using C = Copies<T, kRows, Weights>;
  extern __shared__ __align__(128) uint8_t bytes[];
  __shared__ int choices[kRows];
  Begin();
  const TilePlace<kColumns> place(a);
  if (place.tile.expert < 0 || !a.weights.Has(place.tile.expert)) return;
  ReadChoices<kRows, kThreads>(a, place.tile, choices);
  C copies(a, place, choices, bytes, kStages);

  constexpr int kDown = S::kWarpRows / 16, kAcross = S::kWarpColumns / 16;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / S::kWarpsAcross * S::kWarpRows, warp_column = warp % S::kWarpsAcross * S::kWarpColumns;
  float sums[kDown][2 * kAcross][4] = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) copies.Start(s * S::kDepth, s);
  copies.Ahead(0);
  int stage = 0;
  for (int k = 0; k < a.inputs; k += S::kDepth) {
    WaitForAllCopiesBut<kStages - 2>();
    const T* const weight_part = copies.Arrive(stage);
    __syncthreads();  // and nobody reads the stage before any more
    copies.Start(k + (kStages - 1) * S::kDepth, (stage + kStages - 1) % kStages);
    copies.Ahead(k + S::kDepth);
    const T* const x_part = copies.X(stage);
#pragma unroll
    for (int d = 0; d < S::kDepth / 16; ++d) {
      uint32_t w[kAcross][4];
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
        const int row = warp_column + n * 16 + lane / 16 * 8 + lane % 8;
        LoadMatrices(w[n], weight_part + Swizzle<C::kGroups>(row, d * 2 + lane / 8 % 2));
      }
      for (int h = a.halves - 1; h >= 0; --h) {
        uint32_t x[kDown][4];
#pragma unroll
        for (int m = 0; m < kDown; ++m) {
          const int row = warp_row + m * 16 + lane % 16;
          LoadMatrices(x[m], x_part + h * C::kXPart + Swizzle<C::kGroups>(row, d * 2 + lane / 16));
        }
#pragma unroll
        for (int m = 0; m < kDown; ++m) {
#pragma unroll
          for (int n = 0; n < kAcross; ++n) {
            MultiplyAdd<T>(sums[m][2 * n], x[m], w[n][0], w[n][1]);
            MultiplyAdd<T>(sums[m][2 * n + 1], x[m], w[n][2], w[n][3]);
          }
        }
      }
    }
    stage = (stage + 1) % kStages;
  }

  WaitForAllCopiesBut<0>();
  __syncthreads();
  auto* const results = reinterpret_cast<float*>(bytes);
#pragma unroll
  for (int m = 0; m < kDown; ++m) {
#pragma unroll
    for (int n = 0; n < 2 * kAcross; ++n) {
      KeepResult<kColumns>(results, warp_row + m * 16 + lane / 4, warp_column + n * 8 + lane % 4 * 2, sums[m][n]);
    }
  }
  __syncthreads();
  WriteResults<kColumns, kThreads>(a, place, choices, results);
}

template <class T, int kRows, template <class, int, int, int> class Weights, class Arguments>
void LaunchSized(const Arguments& a, Run& run) {
  const auto kernel = MultiplyTiles<T, kRows, Weights>;
  const size_t shared = Copies<T, kRows, Weights>::SharedBytes(a.halves, kStages);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  OverlappedWith(shared, kernel, dim3(TileBlocks<kColumns>(a)), kThreads, run, a);
}

template <class T, template <class, int, int, int> class Weights, class Arguments>
void LaunchTyped(int rows, const Arguments& a, Run& run) {
  switch (rows) {
    case 16:
      return LaunchSized<T, 16, Weights>(a, run);
    case 32:
      return LaunchSized<T, 32, Weights>(a, run);
    case 64:
      return LaunchSized<T, 64, Weights>(a, run);
    case 128:
      return LaunchSized<T, 128, Weights>(a, run);
  }
  throw std::logic_error("no tiles of " + std::to_string(rows) + " rows");
}

template <template <class, int, int, int> class Weights, class Arguments>
void Launch(DType type, int rows, const Arguments& a, Run& run) {
  switch (type) {
    case DType::kF16:
      return LaunchTyped<__half, Weights>(rows, a, run);
    case DType::kBF16:
      return LaunchTyped<__nv_bfloat16, Weights>(rows, a, run);
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

}  // namespace zi::cuda::tiles
