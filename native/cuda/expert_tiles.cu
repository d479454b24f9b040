// expert_linear for many choices: they are grouped by expert, and tiles of one expert's choices are multiplied on tensor
// cores, so that weights are read once per tile. f32 inputs are multiplied in two halves: what rounding to the weights'
// type gives, and what it leaves.
//
// A result depends on its inputs and weights alone, not on the tile or the place in it.
#include <algorithm>

#include "cuda/experts.h"
#include "cuda/inputs.h"
#include "cuda/overlap.h"
#include "cuda/tensor_cores.h"

namespace zi::cuda {
namespace {

constexpr int kGroupThreads = kMostExperts;
constexpr unsigned kAllLanes = 0xffffffffu;

/// Up to kRows choices of an expert, from `first` on in the order; none where `expert` is negative.
struct alignas(16) Tile {
  int expert, first, count, unused;
};

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
#pragma unroll 4
  for (int first = 0; first < count; first += kGroupThreads) {
    const int choice = first + me;
    const int expert = choice < count ? a.choices.Expert(choice) : -1;
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
    const int choice = first + me;
    const int expert = choice < count ? a.choices.Expert(choice) : -1;
    const int place = Claim(counts, expert);
    if (expert >= 0) a.order[place] = choice;
  }
}

struct TileArguments {
  ExpertWeights weights;
  const uint8_t* x[2];  // of the weights' type; the second what rounding left
  int64_t x_stride, x_each;
  const int32_t* order;
  const Tile* tiles;
  int tile_count;
  RowView out;
  bool pairs;  // two neighbours of a row of out can be written at once
};

constexpr int kTileThreads = 128;
constexpr int kTileColumns = 128;
constexpr int kStages = 4;
/// So many tiles of columns are computed of all choices before the next ones: what the blocks at work read stays in the
/// L2 cache.
constexpr int kBandColumns = 8;

/// A block's part of x and the weights, kDepth inputs at a time.
template <int kRowCount>
struct Sizes {
  static constexpr int kRows = kRowCount;
  /// With few rows the weights rule, and longer pieces of them are read.
  static constexpr int kDepth = kRows >= 64 ? 32 : 64;
  static constexpr int kGroups = kDepth / 8;  // of eight inputs
  static constexpr int kRowsAtOnce = kTileThreads / kGroups;
  static constexpr int kWarpsDown = kRows >= 64 ? 2 : 1, kWarpsAcross = 4 / kWarpsDown;
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpColumns = kTileColumns / kWarpsAcross;
};

/// Where a group of a row lies: eight neighbouring rows have the same group in different banks.
template <int kGroups>
__device__ inline int Swizzle(int row, int group) {
  return row * kGroups + (group ^ row / (8 / kGroups) % kGroups);
}

template <class T, int kRows, int kHalves>
struct Shared {
  using S = Sizes<kRows>;
  T x[kStages][kHalves][kRows * S::kDepth];
  T weights[kStages][kTileColumns * S::kDepth];
};

template <class T, int kRows, int kHalves>
__global__ void __launch_bounds__(kTileThreads, 2) MultiplyTiles(const __grid_constant__ TileArguments a) {
  using S = Sizes<kRows>;
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& shared = *reinterpret_cast<Shared<T, kRows, kHalves>*>(bytes);
  __shared__ int choices[kRows];  // -1 beyond the last
  Begin();
  const ExpertWeights& weights = a.weights;
  const int columns = static_cast<int>((weights.outputs + kTileColumns - 1) / kTileColumns);
  const int band = static_cast<int>(blockIdx.x) / (kBandColumns * a.tile_count) * kBandColumns;
  const int in_band = static_cast<int>(blockIdx.x) - band * a.tile_count, width = min(kBandColumns, columns - band);
  const Tile tile = a.tiles[in_band / width];
  if (tile.expert < 0) return;
  const int64_t first_column = static_cast<int64_t>(band + in_band % width) * kTileColumns;
  for (int r = threadIdx.x; r < kRows; r += kTileThreads) choices[r] = r < tile.count ? a.order[tile.first + r] : -1;
  __syncthreads();

  // Every thread copies the same group of some rows, again and again.
  const int group = threadIdx.x % S::kGroups, first_row = threadIdx.x / S::kGroups;
  constexpr int kXCopies = kRows / S::kRowsAtOnce, kWeightCopies = kTileColumns / S::kRowsAtOnce;
  int64_t x_offset[kXCopies];
#pragma unroll
  for (int i = 0; i < kXCopies; ++i) {
    const int choice = choices[first_row + i * S::kRowsAtOnce];
    x_offset[i] = choice < 0 ? -1 : choice / a.x_each * a.x_stride + group * 8;
  }
  const T* const from = weights.Row<T>(tile.expert, first_column) + group * 8;
  const int rows_left = static_cast<int>(min(weights.outputs - first_column, static_cast<int64_t>(kTileColumns)));
  const auto inputs = static_cast<int>(weights.inputs);
  const auto load = [&](int k, int stage) {
    const bool there = k + group * 8 < inputs;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const T* const x = reinterpret_cast<const T*>(a.x[h]);
#pragma unroll
      for (int i = 0; i < kXCopies; ++i) {
        const bool valid = there && x_offset[i] >= 0;
        T* const to = &shared.x[stage][h][Swizzle<S::kGroups>(first_row + i * S::kRowsAtOnce, group) * 8];
        CopyGroup(to, valid ? x + x_offset[i] + k : x, valid);
      }
    }
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i) {
      const int row = first_row + i * S::kRowsAtOnce;
      const bool valid = there && row < rows_left;
      T* const to = &shared.weights[stage][Swizzle<S::kGroups>(row, group) * 8];
      CopyGroup(to, valid ? from + row * weights.stride + k : from, valid);
    }
  };

  constexpr int kDown = S::kWarpRows / 16, kAcross = S::kWarpColumns / 16;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / S::kWarpsAcross * S::kWarpRows, warp_column = warp % S::kWarpsAcross * S::kWarpColumns;
  float sums[kDown][2 * kAcross][4] = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    load(s * S::kDepth, s);
    CommitCopies();
  }
  int stage = 0;
  for (int k = 0; k < inputs; k += S::kDepth) {
    WaitForAllCopiesBut<kStages - 2>();
    __syncthreads();  // and nobody reads the stage before any more
    load(k + (kStages - 1) * S::kDepth, (stage + kStages - 1) % kStages);
    CommitCopies();
#pragma unroll
    for (int d = 0; d < S::kDepth / 16; ++d) {
      uint32_t w[kAcross][4];
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
        const int row = warp_column + n * 16 + lane / 16 * 8 + lane % 8;
        LoadMatrices(w[n], &shared.weights[stage][Swizzle<S::kGroups>(row, d * 2 + lane / 8 % 2) * 8]);
      }
#pragma unroll
      for (int h = kHalves - 1; h >= 0; --h) {
        uint32_t x[kDown][4];
#pragma unroll
        for (int m = 0; m < kDown; ++m) {
          const int row = warp_row + m * 16 + lane % 16;
          LoadMatrices(x[m], &shared.x[stage][h][Swizzle<S::kGroups>(row, d * 2 + lane / 16) * 8]);
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

  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < kDown; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int choice = choices[warp_row + m * 16 + half * 8 + g];
      if (choice < 0) continue;
#pragma unroll
      for (int n = 0; n < 2 * kAcross; ++n) {
        const int64_t column = first_column + warp_column + n * 8 + 2 * t;
        const float* const pair = &sums[m][n][2 * half];
        if (a.pairs && column < weights.outputs) {
          a.out.PutPair(choice, column, pair[0], pair[1]);
        } else {
          if (column < weights.outputs) a.out.Put(choice, column, pair[0]);
          if (column + 1 < weights.outputs) a.out.Put(choice, column + 1, pair[1]);
        }
      }
    }
  }
}

template <class T, int kRows, int kHalves>
void LaunchSized(const TileArguments& a, Run& run) {
  const auto kernel = MultiplyTiles<T, kRows, kHalves>;
  constexpr int kSize = sizeof(Shared<T, kRows, kHalves>);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSize), "cudaFuncSetAttribute");
  const int64_t columns = (a.weights.outputs + kTileColumns - 1) / kTileColumns;
  OverlappedWith(kSize, kernel, dim3(static_cast<unsigned>(columns * a.tile_count)), kTileThreads, run, a);
}

template <class T, int kHalves>
void LaunchRows(int rows, const TileArguments& a, Run& run) {
  switch (rows) {
    case 16:
      return LaunchSized<T, 16, kHalves>(a, run);
    case 32:
      return LaunchSized<T, 32, kHalves>(a, run);
    case 64:
      return LaunchSized<T, 64, kHalves>(a, run);
    default:
      return LaunchSized<T, 128, kHalves>(a, run);
  }
}

template <class T>
void LaunchTyped(int rows, int halves, const TileArguments& a, Run& run) {
  halves == 1 ? LaunchRows<T, 1>(rows, a, run) : LaunchRows<T, 2>(rows, a, run);
}

/// Rows of tiles that most experts fill at least half, if choices are spread evenly.
int TileRows(int64_t choices, int64_t experts) {
  const int64_t mean = choices / experts;
  return mean <= 12 ? 16 : mean <= 24 ? 32 : mean <= 64 ? 64 : 128;
}

}  // namespace

bool LaunchExpertTiles(const ExpertLinearOp& op, Run& run) {
  const DType type = op.weight.dtype;
  const int64_t choices = op.out.shape[0];
  if (type == DType::kF32 || (op.x.dtype != type && op.x.dtype != DType::kF32)) return false;
  if (op.weight.shape[1] % 8 != 0 || op.weight.shape[1] == 0 || !WeightsAligned(op)) return false;
  const int rows = TileRows(choices, op.expert_count);
  const int64_t tiles = choices / rows + std::min(choices, op.expert_count);
  const bool exact = op.x.dtype == DType::kF32;
  const View x = exact || !RowsAligned(op.x, 16) ? ConvertInputs(op.x, type, run) : op.x;

  const size_t order_bytes = static_cast<size_t>(choices + 3) / 4 * 16;
  uint8_t* const groups = run.groups.AtLeast(order_bytes + static_cast<size_t>(tiles) * sizeof(Tile));
  auto* const order = reinterpret_cast<int32_t*>(groups);
  auto* const table = reinterpret_cast<Tile*>(groups + order_bytes);
  const GroupArguments group{ChoiceTable(op, run.fault), rows, static_cast<int>(tiles), order, table};
  Overlapped(Group, dim3(1), kGroupThreads, run, group);

  TileArguments a{};
  a.weights = ExpertWeights(op);
  a.x[0] = x.data;
  if (exact) a.x[1] = RestOfInputs(op.x, x, run).data;
  a.x_stride = x.strides[0];
  a.x_each = ChoicesPerRow(op);
  a.order = order;
  a.tiles = table;
  a.tile_count = static_cast<int>(tiles);
  a.out = RowView(op.out);
  a.pairs = a.weights.outputs % 2 == 0 && RowsAligned(op.out, 2 * ElementBytes(op.out.dtype));
  const int halves = exact ? 2 : 1;
  type == DType::kF16 ? LaunchTyped<__half>(rows, halves, a, run) : LaunchTyped<__nv_bfloat16>(rows, halves, a, run);
  return true;
}

}  // namespace zi::cuda
