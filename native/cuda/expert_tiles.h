// Tiles of one expert's choices: what they are made of, which block computes which, how inputs and weights that are stored as
// their values come into shared memory, and results out of it.
#pragma once
#include <algorithm>

#include "cuda/experts.h"
#include "cuda/tensor_cores.h"

namespace zi::cuda {

/// Up to so many choices of an expert as the tile has rows, from `first` on in the order; none where `expert` is negative.
struct alignas(16) Tile {
  int expert, first, count, unused;
};
static_assert(sizeof(Tile) == kTileBytes, "scratch is provided for the tiles that there are");

/// All but the weights.
struct TileArguments {
  int64_t outputs, inputs;
  const uint8_t* x[2];  // of the weights' type; the second what rounding left
  int halves;           // of them that there are
  int64_t x_stride, x_each;
  const int32_t* order;
  const Tile* tiles;
  int tile_count;
  RowView out;
  bool eights;  // eight neighbours of a row of out can be written at once
};
struct DenseTileArguments : TileArguments {
  ExpertWeights weights;
};

/// So many columns are computed of all choices before the next ones: what the blocks at work read stays in the L2 cache.
constexpr int kBandColumns = 1024;

/// Where a group of eight inputs lies whose row has kGroups of them: eight neighbouring rows have the same group in
/// different banks.
template <int kGroups>
__device__ inline int Swizzle(int row, int group) {
  return (row * kGroups + (group ^ row / (8 / kGroups) % kGroups)) * 8;
}
/// The same of results, whose rows are longer than all banks.
template <int kColumns>
__device__ inline int SwizzleResult(int row, int column) {
  return row * kColumns + (column ^ row % 8 * 8);
}

/// The tile of rows and the first of kColumns columns that a block computes.
template <int kColumns>
struct TilePlace {
  Tile tile;
  int64_t first_column;

  __device__ explicit TilePlace(const TileArguments& a) {
    constexpr int kBand = kBandColumns / kColumns;
    const int columns = static_cast<int>((a.outputs + kColumns - 1) / kColumns);
    const int band = static_cast<int>(blockIdx.x) / (kBand * a.tile_count) * kBand;
    const int in_band = static_cast<int>(blockIdx.x) - band * a.tile_count, width = min(kBand, columns - band);
    tile = a.tiles[in_band / width];
    first_column = static_cast<int64_t>(band + in_band % width) * kColumns;
  }
};

template <int kColumns>
inline unsigned TileBlocks(const TileArguments& a) {
  return static_cast<unsigned>((a.outputs + kColumns - 1) / kColumns * a.tile_count);
}

/// Which values of a stage's weights a thread brings: the same group of eight inputs of some rows, again and again.
template <int kColumns, int kDepth, int kThreads>
struct WeightShare {
  static constexpr int kGroups = kDepth / 8, kRowsAtOnce = kThreads / kGroups, kCopies = kColumns / kRowsAtOnce;
  int group = static_cast<int>(threadIdx.x) % kGroups, first_row = static_cast<int>(threadIdx.x) / kGroups;

  __device__ int Row(int i) const { return first_row + i * kRowsAtOnce; }
};

/// Weights that are stored as their values come to where they are multiplied from.
template <class T, int kColumns, int kDepth, int kThreads>
class DenseTileWeights {
 public:
  using Arguments = DenseTileArguments;
  using Share = WeightShare<kColumns, kDepth, kThreads>;
  /// Bytes of shared memory, of each stage and beside the stages.
  static constexpr int kStageBytes = kColumns * kDepth * sizeof(T), kOwnBytes = 0;
  /// Arrive and Ahead have branches.
  static constexpr bool kBranches = false;

  __device__ DenseTileWeights(const Arguments& a, const TilePlace<kColumns>& place)
      : inputs_(a.inputs),
        stride_(a.weights.stride),
        from_(a.weights.template Row<T>(place.tile.expert, place.first_column) + share_.group * 8),
        rows_left_(static_cast<int>(min(a.outputs - place.first_column, static_cast<int64_t>(kColumns)))) {}

  __device__ void Start(int k, uint8_t* stage) const {
    T* const to = reinterpret_cast<T*>(stage);
#pragma unroll
    for (int i = 0; i < Share::kCopies; ++i) {
      const int row = share_.Row(i);
      const bool valid = k + share_.group * 8 < inputs_ && row < rows_left_;
      CopyGroup(to + Swizzle<Share::kGroups>(row, share_.group), valid ? from_ + row * stride_ + k : from_, valid);
    }
  }
  __device__ void Ahead(int) {}
  /// Where the weights lie once all threads have arrived.
  __device__ const T* Arrive(const uint8_t* stage, uint8_t*) const { return reinterpret_cast<const T*>(stage); }

 private:
  const Share share_;
  const int64_t inputs_, stride_;
  const T* const from_;
  const int rows_left_;
};

/// Copies a tile's part of x, or of both halves of it, and of the weights, kDepth inputs at a time: the stages lie one after
/// the other, each x, then weights. Every thread copies the same group of some rows again and again.
template <class T, int kRows, int kColumns, int kDepth, int kThreads, template <class, int, int, int> class WeightsOf>
class TileCopies {
 public:
  using Weights = WeightsOf<T, kColumns, kDepth, kThreads>;
  using Arguments = typename Weights::Arguments;
  static constexpr int kGroups = kDepth / 8, kRowsAtOnce = kThreads / kGroups;
  static constexpr bool kBranches = Weights::kBranches;
  /// In elements.
  static constexpr int kXPart = kRows * kDepth;
  __host__ __device__ static int StageBytes(int halves) {
    return halves * kXPart * static_cast<int>(sizeof(T)) + Weights::kStageBytes;
  }
  /// Shared memory for so many stages, or for the results, which take their place.
  static size_t SharedBytes(int halves, int stages) {
    const size_t results = sizeof(float) * kRows * kColumns;
    return std::max(static_cast<size_t>(stages) * StageBytes(halves) + Weights::kOwnBytes, results);
  }

  /// `choices`: of all rows of the tile, -1 beyond the last.
  __device__ TileCopies(const Arguments& a, const TilePlace<kColumns>& place, const int* choices, uint8_t* shared, int stages)
      : a_(a),
        shared_(shared),
        own_(shared + stages * StageBytes(a.halves)),
        group_(threadIdx.x % kGroups),
        first_row_(threadIdx.x / kGroups),
        weights_(a, place) {
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int choice = choices[first_row_ + i * kRowsAtOnce];
      x_offset_[i] = choice < 0 ? -1 : choice / a.x_each * a.x_stride + group_ * 8;
    }
  }

  __device__ const T* X(int stage) const { return reinterpret_cast<const T*>(Stage(stage)); }

  /// Starts copying inputs k … k + kDepth - 1, zeros beyond the last, and ends the group of copies.
  __device__ void Start(int k, int stage) const {
    const bool there = k + group_ * 8 < a_.inputs;
    T* to = reinterpret_cast<T*>(Stage(stage));
    for (int h = 0; h < a_.halves; ++h, to += kXPart) {
      const T* const x = reinterpret_cast<const T*>(a_.x[h]);
#pragma unroll
      for (int i = 0; i < kXCopies; ++i) {
        const bool valid = there && x_offset_[i] >= 0;
        CopyGroup(to + Swizzle<kGroups>(first_row_ + i * kRowsAtOnce, group_), valid ? x + x_offset_[i] + k : x, valid);
      }
    }
    weights_.Start(k, reinterpret_cast<uint8_t*>(to));
    CommitCopies();
  }
  /// Reads what Arrive needs besides for inputs from k on: call a stage before.
  __device__ void Ahead(int k) { weights_.Ahead(k); }
  /// To be called by every thread when its copies of a stage are there, before all wait for each other. Gives where the weights
  /// lie then.
  __device__ const T* Arrive(int stage) {
    return weights_.Arrive(Stage(stage) + a_.halves * kXPart * sizeof(T), own_);
  }

 private:
  static constexpr int kXCopies = kRows / kRowsAtOnce;
  __device__ uint8_t* Stage(int stage) const { return shared_ + stage * StageBytes(a_.halves); }

  const Arguments& a_;
  uint8_t* const shared_;
  uint8_t* const own_;
  const int group_, first_row_;
  Weights weights_;
  int64_t x_offset_[kXCopies];
};

/// Call with all threads before any of them needs them.
template <int kRows, int kThreads>
__device__ inline void ReadChoices(const TileArguments& a, const Tile& tile, int* choices) {
  for (int r = threadIdx.x; r < kRows; r += kThreads) choices[r] = r < tile.count ? a.order[tile.first + r] : -1;
  __syncthreads();
}

/// Keeps a lane's sums of two rows, as tensor cores leave them.
template <int kColumns>
__device__ inline void KeepResult(float* results, int row, int column, const float (&sum)[4]) {
  *reinterpret_cast<float2*>(results + SwizzleResult<kColumns>(row, column)) = {sum[0], sum[1]};
  *reinterpret_cast<float2*>(results + SwizzleResult<kColumns>(row + 8, column)) = {sum[2], sum[3]};
}

/// Writes what was kept, whole rows at a time.
template <int kColumns, int kThreads>
__device__ inline void WriteResults(const TileArguments& a, const TilePlace<kColumns>& place, const int* choices,
                                    const float* results) {
  for (int i = threadIdx.x; i < place.tile.count * (kColumns / 8); i += kThreads) {
    const int row = i / (kColumns / 8), column = i % (kColumns / 8) * 8;
    const int64_t to = place.first_column + column;
    if (to >= a.outputs) continue;
    float values[8];
    GetEight(results + SwizzleResult<kColumns>(row, column), values);
    if (a.eights) {
      a.out.PutEight(choices[row], to, values);
    } else {
      for (int j = 0; j < 8 && to + j < a.outputs; ++j) a.out.Put(choices[row], to + j, values[j]);
    }
  }
}

/// Sorts the choices of a mixture by expert into `order`, and says which tiles there are; `counts`, if not null, gets the choices of
/// each expert.
struct ChoiceGroups {
  int32_t* order;
  Tile* tiles;
  int32_t* counts;
};
void LaunchGroup(const ChoiceTable& choices, const ExpertTiling& tiling, const ChoiceGroups& groups, Run& run);

/// Groups the choices of an operation and brings its inputs to the weights' type: all that tiles need but the weights. Gives how
/// many choices each expert has, where the tiling keeps that.
template <class Op>
const int32_t* GroupForTiles(const Op& op, DType type, const ExpertTiling& tiling, Run& run, TileArguments& a) {
  const View x = tiling.packs ? run.inputs().Convert(op.x, type, run) : op.x;
  const size_t order_bytes = ChoicesBytes(op.out.shape[0]), tile_bytes = static_cast<size_t>(tiling.tiles) * sizeof(Tile);
  const size_t count_bytes = tiling.slabs ? static_cast<size_t>(op.expert_count) * sizeof(int32_t) : 0;
  uint8_t* const choices = run.scratch().At(ScratchUse::kChoices, order_bytes + tile_bytes + count_bytes);
  ChoiceGroups groups{};
  groups.order = reinterpret_cast<int32_t*>(choices);
  groups.tiles = reinterpret_cast<Tile*>(choices + order_bytes);
  if (tiling.slabs) groups.counts = reinterpret_cast<int32_t*>(choices + order_bytes + tile_bytes);
  LaunchGroup(ChoiceTable(op, run.fault()), tiling, groups, run);

  a.outputs = op.out.shape[1];
  a.inputs = op.x.shape[1];
  a.x[0] = x.data;
  a.halves = tiling.exact ? 2 : 1;
  if (tiling.exact) a.x[1] = run.inputs().Rest(op.x, x, run).data;
  a.x_stride = x.strides[0];
  a.x_each = ChoicesPerRow(op);
  a.order = groups.order;
  a.tiles = groups.tiles;
  a.tile_count = static_cast<int>(tiling.tiles);
  a.out = RowView(op.out);
  a.eights = a.outputs % 8 == 0 && RowsAligned(op.out, 16);
  return groups.counts;
}

/// Launches tiles of so many rows; the weights' type is f16 or bf16.
void LaunchDenseTiles(DType type, int rows, const DenseTileArguments& a, Run& run);
/// Tiles of kHopperRows choices on an H100's own tensor core instructions, which other GPUs do not have.
constexpr int kHopperRows = kMostTileRows;
void LaunchHopperTiles(DType type, const DenseTileArguments& a, Run& run);

struct StoredTileArguments : TileArguments {
  StoredExperts weights;
};
/// The same of weights that are expanded on their way to shared memory.
void LaunchStoredTiles(DType type, int rows, const StoredTileArguments& a, Run& run);
void LaunchHopperTiles(DType type, const StoredTileArguments& a, Run& run);

}  // namespace zi::cuda
