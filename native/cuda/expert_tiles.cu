// expert_linear for many choices: they are grouped by expert, and tiles of one expert's choices are multiplied on tensor
// cores, so that weights are read once per tile. f32 inputs are multiplied in two halves: what rounding to the weights'
// type gives, and what it leaves.
//
// A result depends on its inputs and weights alone, not on the tile or the place in it.
#include "cuda/expert_tiles_any.h"

namespace zi::cuda {
namespace {

constexpr int kGroupThreads = kMostExperts;
constexpr unsigned kAllLanes = 0xffffffffu;

struct GroupArguments {
  ChoiceTable choices;
  int tile_rows, tile_count;
  ChoiceGroups to;
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
    a.to.tiles[before.y + t] = {me, before.x + t * a.tile_rows, min(a.tile_rows, mine - t * a.tile_rows), 0};
  }
  counts[me] = before.x;
  if (a.to.counts && me < a.choices.expert_count) a.to.counts[me] = mine;
  if (me == kGroupThreads - 1) used = before.y + tiles;
  __syncthreads();
  for (int t = used + me; t < a.tile_count; t += kGroupThreads) a.to.tiles[t] = {-1, 0, 0, 0};
#pragma unroll 4
  for (int first = 0; first < count; first += kGroupThreads) {
    const int choice = first + me, expert = expert_of(choice), place = Claim(counts, expert);
    if (expert >= 0) a.to.order[place] = choice;
  }
}

}  // namespace

void LaunchGroup(const ChoiceTable& choices, const ExpertTiling& tiling, const ChoiceGroups& groups, Run& run) {
  const GroupArguments a{choices, tiling.rows, static_cast<int>(tiling.tiles), groups};
  Overlapped(Group, dim3(1), kGroupThreads, run, a);
}

void LaunchDenseTiles(DType type, int rows, const DenseTileArguments& a, Run& run) {
  if (rows == kHopperRows && run.generation() == 9) return LaunchHopperTiles(type, a, run);
  tiles::Launch<DenseTileWeights>(type, rows, a, run);
}

void LaunchExpertTiles(const DenseExpertLinearOp& op, const ExpertTiling& tiling, Run& run) {
  DenseTileArguments a{};
  GroupForTiles(op, op.weight.dtype, tiling, run, a);
  a.weights = ExpertWeights(op);
  LaunchDenseTiles(op.weight.dtype, tiling.rows, a, run);
}

}  // namespace zi::cuda
