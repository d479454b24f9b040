// Tiles of one expert's choices: what they are made of, which block computes which, how operands come into shared memory
// and results out of it.
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

struct TileArguments {
  ExpertWeights weights;
  const uint8_t* x[2];  // of the weights' type; the second what rounding left
  int halves;           // of them that there are
  int64_t x_stride, x_each;
  const int32_t* order;
  const Tile* tiles;
  int tile_count;
  RowView out;
  bool eights;  // eight neighbours of a row of out can be written at once
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
    const int columns = static_cast<int>((a.weights.outputs + kColumns - 1) / kColumns);
    const int band = static_cast<int>(blockIdx.x) / (kBand * a.tile_count) * kBand;
    const int in_band = static_cast<int>(blockIdx.x) - band * a.tile_count, width = min(kBand, columns - band);
    tile = a.tiles[in_band / width];
    first_column = static_cast<int64_t>(band + in_band % width) * kColumns;
  }
};

template <int kColumns>
inline unsigned TileBlocks(const TileArguments& a) {
  return static_cast<unsigned>((a.weights.outputs + kColumns - 1) / kColumns * a.tile_count);
}

/// Copies a tile's part of x, or of both halves of it, and of the weights, kDepth inputs at a time: the stages lie one after
/// the other, each x, then weights. Every thread copies the same group of some rows again and again.
template <class T, int kRows, int kColumns, int kDepth, int kThreads>
class TileCopies {
 public:
  static constexpr int kGroups = kDepth / 8, kRowsAtOnce = kThreads / kGroups;
  /// In elements.
  static constexpr int kXPart = kRows * kDepth, kWeightPart = kColumns * kDepth;
  __host__ __device__ static int StageSize(int halves) { return halves * kXPart + kWeightPart; }
  /// Shared memory for so many stages, or for the results, which take their place.
  static size_t SharedBytes(int halves, int stages) {
    return std::max(sizeof(T) * stages * StageSize(halves), sizeof(float) * kRows * kColumns);
  }

  /// `choices`: of all rows of the tile, -1 beyond the last.
  __device__ TileCopies(const TileArguments& a, const TilePlace<kColumns>& place, const int* choices, T* stages)
      : a_(a),
        stages_(stages),
        group_(threadIdx.x % kGroups),
        first_row_(threadIdx.x / kGroups),
        weights_(a.weights.Row<T>(place.tile.expert, place.first_column) + group_ * 8),
        rows_left_(static_cast<int>(min(a.weights.outputs - place.first_column, static_cast<int64_t>(kColumns)))) {
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int choice = choices[first_row_ + i * kRowsAtOnce];
      x_offset_[i] = choice < 0 ? -1 : choice / a.x_each * a.x_stride + group_ * 8;
    }
  }

  __device__ T* Stage(int stage) const { return stages_ + stage * StageSize(a_.halves); }
  __device__ int columns() const { return rows_left_; }

  /// Starts copying inputs k … k + kDepth - 1, zeros beyond the last, and ends the group of copies.
  __device__ void Start(int k, int stage) const {
    const bool there = k + group_ * 8 < a_.weights.inputs;
    T* to = Stage(stage);
    for (int h = 0; h < a_.halves; ++h, to += kXPart) {
      const T* const x = reinterpret_cast<const T*>(a_.x[h]);
#pragma unroll
      for (int i = 0; i < kXCopies; ++i) {
        const bool valid = there && x_offset_[i] >= 0;
        CopyGroup(to + Swizzle<kGroups>(first_row_ + i * kRowsAtOnce, group_), valid ? x + x_offset_[i] + k : x, valid);
      }
    }
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i) {
      const int row = first_row_ + i * kRowsAtOnce;
      const bool valid = there && row < rows_left_;
      const T* const from = valid ? weights_ + row * a_.weights.stride + k : weights_;
      CopyGroup(to + Swizzle<kGroups>(row, group_), from, valid);
    }
    CommitCopies();
  }

 private:
  static constexpr int kXCopies = kRows / kRowsAtOnce, kWeightCopies = kColumns / kRowsAtOnce;
  const TileArguments& a_;
  T* const stages_;
  const int group_, first_row_;
  const T* const weights_;
  const int rows_left_;
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
                                    int columns, const float* results) {
  for (int i = threadIdx.x; i < place.tile.count * (kColumns / 8); i += kThreads) {
    const int row = i / (kColumns / 8), column = i % (kColumns / 8) * 8;
    if (column >= columns) continue;
    float values[8];
    GetEight(results + SwizzleResult<kColumns>(row, column), values);
    const int64_t to = place.first_column + column;
    if (a.eights) {
      a.out.PutEight(choices[row], to, values);
    } else {
      for (int j = 0; j < 8 && column + j < columns; ++j) a.out.Put(choices[row], to + j, values[j]);
    }
  }
}

/// Tiles of kHopperRows choices on an H100's own tensor core instructions, which other GPUs do not have.
constexpr int kHopperRows = kMostTileRows;
void LaunchHopperTiles(DType type, const TileArguments& a, Run& run);

}  // namespace zi::cuda
