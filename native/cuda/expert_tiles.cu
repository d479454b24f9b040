// expert_linear for many choices: they are grouped by expert, and tiles of one expert's choices are multiplied on tensor
// cores, so that weights are read once per tile. f32 inputs are multiplied in two halves: what rounding to the weights'
// type gives, and what it leaves.
//
// A result depends on its inputs and weights alone, not on the tile or the place in it.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/expert_tiles.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

constexpr int kGroupThreads = kMostExperts;
constexpr unsigned kAllLanes = 0xffffffffu;

struct GroupArguments {
  ChoiceTable choices;
  int tile_rows, tile_count;
  int32_t* order;  // choices by expert
  Tile* tiles;
};

/// A place for each lane's choice, counted from *counts[expert]; lanes without an expert get any.
__device__ int Claim(int* counts, int expert) {
  const unsigned same = __match_any_sync(kAllLanes, expert);
  const int leader = __ffs(static_cast<int>(same)) - 1, lane = threadIdx.x % 32;
  int place = 0;
  if (lane == leader && expert >= 0) place = atomicAdd(&counts[expert], __popc(same));
  return __shfl_sync(kAllLanes, place, leader) + __popc(same & ((1u << lane) - 1));
}

/// Sums of the threads before.
__device__ int2 ScanBefore(int2 value, int2* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int2 sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const int2 before = {__shfl_up_sync(kAllLanes, sum.x, step), __shfl_up_sync(kAllLanes, sum.y, step)};
    if (lane >= step) sum = {sum.x + before.x, sum.y + before.y};
  }
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum = {sum.x + shared[w].x, sum.y + shared[w].y};
  return {sum.x - value.x, sum.y - value.y};
}

/// One block; thread e is expert e's.
__global__ void __launch_bounds__(kGroupThreads) Group(const __grid_constant__ GroupArguments a) {
  __shared__ int counts[kMostExperts];
  __shared__ int2 sums[kGroupThreads / 32];
  __shared__ int used;
  Begin();
  const int me = threadIdx.x;
  counts[me] = 0;
  __syncthreads();
  const auto count = static_cast<int>(a.choices.count);
  const auto expert_of = [&](int choice) { return choice < count ? a.choices.Expert(choice) : -1; };
#pragma unroll 4
  for (int first = 0; first < count; first += kGroupThreads) {
    const int choice = first + me, expert = expert_of(choice);
    if (choice < count && expert < 0) a.choices.ReportOutside(choice);
    Claim(counts, expert);
  }
  __syncthreads();
  const int mine = counts[me], tiles = (mine + a.tile_rows - 1) / a.tile_rows;
  const int2 before = ScanBefore({mine, tiles}, sums);
  for (int t = 0; t < tiles; ++t) {
    a.tiles[before.y + t] = {me, before.x + t * a.tile_rows, min(a.tile_rows, mine - t * a.tile_rows), 0};
  }
  counts[me] = before.x;
  if (me == kGroupThreads - 1) used = before.y + tiles;
  __syncthreads();
  for (int t = used + me; t < a.tile_count; t += kGroupThreads) a.tiles[t] = {-1, 0, 0, 0};
#pragma unroll 4
  for (int first = 0; first < count; first += kGroupThreads) {
    const int choice = first + me, expert = expert_of(choice), place = Claim(counts, expert);
    if (expert >= 0) a.order[place] = choice;
  }
}

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

template <class T, int kRows>
using Copies = TileCopies<T, kRows, kColumns, Sizes<kRows>::kDepth, kThreads>;

template <class T, int kRows>
__global__ void __launch_bounds__(kThreads, 2) MultiplyTiles(const __grid_constant__ TileArguments a) {
  using S = Sizes<kRows>;
  using C = Copies<T, kRows>;
  extern __shared__ __align__(128) uint8_t bytes[];
  __shared__ int choices[kRows];
  Begin();
  const TilePlace<kColumns> place(a);
  if (place.tile.expert < 0) return;
  ReadChoices<kRows, kThreads>(a, place.tile, choices);
  const C copies(a, place, choices, reinterpret_cast<T*>(bytes));

  constexpr int kDown = S::kWarpRows / 16, kAcross = S::kWarpColumns / 16;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / S::kWarpsAcross * S::kWarpRows, warp_column = warp % S::kWarpsAcross * S::kWarpColumns;
  float sums[kDown][2 * kAcross][4] = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) copies.Start(s * S::kDepth, s);
  int stage = 0;
  for (int k = 0; k < a.weights.inputs; k += S::kDepth) {
    WaitForAllCopiesBut<kStages - 2>();
    __syncthreads();  // and nobody reads the stage before any more
    copies.Start(k + (kStages - 1) * S::kDepth, (stage + kStages - 1) % kStages);
    const T* const x_part = copies.Stage(stage);
    const T* const weight_part = x_part + a.halves * C::kXPart;
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
  WriteResults<kColumns, kThreads>(a, place, choices, copies.columns(), results);
}

template <class T, int kRows>
void LaunchSized(const TileArguments& a, Run& run) {
  const auto kernel = MultiplyTiles<T, kRows>;
  const size_t shared = Copies<T, kRows>::SharedBytes(a.halves, kStages);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  OverlappedWith(shared, kernel, dim3(TileBlocks<kColumns>(a)), kThreads, run, a);
}

template <class T>
void LaunchTyped(int rows, const TileArguments& a, Run& run) {
  switch (rows) {
    case 16:
      return LaunchSized<T, 16>(a, run);
    case 32:
      return LaunchSized<T, 32>(a, run);
    case 64:
      return LaunchSized<T, 64>(a, run);
    case 128:
      return LaunchSized<T, 128>(a, run);
  }
  throw std::logic_error("no tiles of " + std::to_string(rows) + " rows");
}

}  // namespace

void LaunchExpertTiles(const DenseExpertLinearOp& op, const ExpertTiling& tiling, Run& run) {
  const DType type = op.weight.dtype;
  const auto [rows, tiles, packs, exact] = tiling;
  const View x = packs ? run.inputs().Convert(op.x, type, run) : op.x;

  const size_t order_bytes = ChoicesBytes(op.out.shape[0]);
  uint8_t* const choices = run.scratch().At(ScratchUse::kChoices, order_bytes + static_cast<size_t>(tiles) * sizeof(Tile));
  auto* const order = reinterpret_cast<int32_t*>(choices);
  auto* const table = reinterpret_cast<Tile*>(choices + order_bytes);
  const GroupArguments group{ChoiceTable(op, run.fault()), rows, static_cast<int>(tiles), order, table};
  Overlapped(Group, dim3(1), kGroupThreads, run, group);

  TileArguments a{};
  a.weights = ExpertWeights(op);
  a.x[0] = x.data;
  a.halves = exact ? 2 : 1;
  if (exact) a.x[1] = run.inputs().Rest(op.x, x, run).data;
  a.x_stride = x.strides[0];
  a.x_each = ChoicesPerRow(op);
  a.order = order;
  a.tiles = table;
  a.tile_count = static_cast<int>(tiles);
  a.out = RowView(op.out);
  a.eights = a.weights.outputs % 8 == 0 && RowsAligned(op.out, 16);
  if (rows == kHopperRows && run.generation() == 9) return LaunchHopperTiles(type, a, run);
  switch (type) {
    case DType::kF16:
      return LaunchTyped<__half>(rows, a, run);
    case DType::kBF16:
      return LaunchTyped<__nv_bfloat16>(rows, a, run);
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

}  // namespace zi::cuda
