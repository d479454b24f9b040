// What blocks of products of some tokens (some_stored.h) take: their share of the units of a product, the stages that units lie in, and
// the codes and scales of each lane's rows on their way.
#pragma once
#include "cuda/some_codes.h"
#include "cuda/some_sums.h"

namespace zi::cuda::some {

/// A matrix of inputs has 64 of each token: rows of 128 bytes, which the instructions' layout is named for.
constexpr int kMatrixInputs = 64;
constexpr int kAlignment = 1024;

/// Shared memory that a block may have; what it has beside stages: their alignment, barriers, and what warps turn sums in.
constexpr int kMostSharedBytes = 227 * 1024, kOtherSharedBytes = kAlignment + 256 + kWarps * kTurnFloats * 4;

template <FragmentKind kKind>
constexpr int kUnitInputs = 4 * FragmentSizes<kKind>::kInputs;

/// A stage is a unit: 64 bytes of each row's codes, and its inputs.
template <FragmentKind kKind, int kColumns>
struct Stage {
  static constexpr int kInputBytes = kColumns * kUnitInputs<kKind> * 2, kCodeBytes = kBlockRows * 64;
  static constexpr int kBytes = kInputBytes + kCodeBytes;
  static constexpr int kStages = (kMostSharedBytes - kOtherSharedBytes) / kBytes;
  /// Units whose codes are on their way before they are multiplied.
  static constexpr int kAhead = kStages - 1;
};

/// Rows of a lane.
constexpr int kLaneRows = kTiers * 2;
/// With those of which one brings inputs.
constexpr int kAllThreads = kThreads + 128;

/// Sums of a cluster in shared memory: of each token those of all rows, apart by so many that no bank is met twice.
constexpr int kSumPitch = kBlockRows + 4;
/// Dynamic shared memory: stages, behind them what warps turn sums in; sums of a cluster lie where stages were.
template <FragmentKind kKind, int kColumns>
constexpr int kSharedBytes = kOtherSharedBytes - 256 + Stage<kKind, kColumns>::kStages * Stage<kKind, kColumns>::kBytes;

struct Arguments {
  StoredWeight weight;
  Results results;
  Parts parts;
  /// Bytes between rows of codes and of scales; inputs that share a scale, as a power of two.
  int64_t row_bytes, scale_row_bytes;
  int group_shift, units;
  SomeSplit split;
  /// Tiles of a pair count once.
  int64_t tiles, inputs;
  const uint8_t* placed;

  /// Blocks of a cluster that inputs are brought to together.
  __device__ int Sharers() const { return split.runs > 0 ? split.cluster : 1; }
  /// The first unit of a run, counted through all tiles.
  __device__ int64_t RunBegin(int run) const { return tiles * units * run / split.runs; }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// What a block multiplies: so many units, from one of a tile on.
struct Work {
  int64_t tile;
  int unit, count, run, rank;

  __device__ explicit Work(const Arguments& a) {
    const int block = static_cast<int>(blockIdx.x), cluster = block / a.split.cluster;
    rank = block % a.split.cluster;
    if (a.split.runs > 0) {
      run = a.split.runs - 1 - cluster;
      const int64_t begin = a.RunBegin(run);
      tile = begin / a.units;
      unit = static_cast<int>(begin % a.units);
      count = static_cast<int>(a.RunBegin(run + 1) - begin);
    } else {
      run = 0;
      tile = cluster;
      unit = a.units * rank / a.split.cluster;
      count = a.units * (rank + 1) / a.split.cluster - unit;
    }
  }
  /// Rows of a tile begin here, and those of the next one this block takes so many further.
  __device__ int64_t FirstRow(const Arguments& a) const { return (a.split.runs > 0 ? tile * a.split.cluster + rank : tile) * kBlockRows; }
  static __device__ int64_t RowsApart(const Arguments& a) { return a.split.cluster * kBlockRows; }
};

/// A lane's four rows, unit after unit, and tile after tile.
class LaneRows {
 public:
  __device__ LaneRows(const Arguments& a, const Work& work)
      : unit_(work.unit), first_(static_cast<int>(work.FirstRow(a)) + WarpRow() + static_cast<int>(threadIdx.x) % 32 / 4) {}

 protected:
  static constexpr __device__ int RowOffset(int i) { return i / 2 * kRowsEach + i % 2 * 8; }
  /// Sums of rows beyond the last are not stored.
  __device__ bool IsRow(const Arguments& a, int i) const { return first_ + RowOffset(i) < static_cast<int>(a.weight.outputs); }
  /// True where a tile begins.
  __device__ bool Next(const Arguments& a) {
    if (++unit_ < a.units) return false;
    unit_ = 0;
    first_ += static_cast<int>(Work::RowsApart(a));
    return true;
  }
  static __device__ int Place() { return static_cast<int>(threadIdx.x) % 4; }

  int unit_, first_;
};

/// Codes of each row's unit: 16 bytes of a lane's.
template <FragmentKind kKind>
class LaneCodes : LaneRows {
 public:
  __device__ LaneCodes(const Arguments& a, const Work& work) : LaneRows(a, work) { Find(a); }
  /// Starts copying a unit's codes, zeros where there are none, and goes on to the next.
  __device__ void Start(const Arguments& a, uint8_t* stage) {
    const bool there = (unit_ * 4 + Place()) * FragmentSizes<kKind>::kInputs < static_cast<int>(a.inputs);
    const uint8_t* const codes = a.weight.Part(WeightPart::kCodes);
    const auto apart = static_cast<uint32_t>(a.row_bytes / 16);
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(SharedAddress(Codes(stage, i))),
                   "l"(there && IsRow(a, i) ? codes + static_cast<uint64_t>(sixteens_ + RowOffset(i) * apart) * 16 : codes),
                   "r"(there && IsRow(a, i) ? 16 : 0)
                   : "memory");
    }
    sixteens_ += 4;
    if (Next(a)) Find(a);
  }
  static __device__ uint4* Codes(uint8_t* stage, int i) { return reinterpret_cast<uint4*>(stage) + i * kThreads + threadIdx.x; }

 private:
  __device__ void Find(const Arguments& a) {
    sixteens_ = static_cast<uint32_t>(first_ * (a.row_bytes / 16)) + unit_ * 4 + Place();
  }

  /// Where the first row's lie, in 16 bytes.
  uint32_t sixteens_;
};

template <FragmentKind kKind, ScaleForm kForm>
class LaneScales : LaneRows {
 public:
  __device__ LaneScales(const Arguments& a, const Work& work) : LaneRows(a, work) { Find(a); }
  /// Reads those of a unit, and goes on to the next.
  __device__ void Read(const Arguments& a, uint32_t (&to)[kLaneRows]) {
    const int k = min((unit_ * 4 + Place()) * FragmentSizes<kKind>::kInputs, static_cast<int>(a.inputs) - 1);
    const uint8_t* const group = a.weight.Part(WeightPart::kScales) + (k >> a.group_shift) * kScaleBytes<kForm>;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      const uint8_t* const at = group + static_cast<uint64_t>(rows_[i]) * kScaleBytes<kForm>;
      if constexpr (kForm == ScaleForm::kFloats) to[i] = __ldg(reinterpret_cast<const uint32_t*>(at));
      else to[i] = __ldg(reinterpret_cast<const uint16_t*>(at));
    }
    if (Next(a)) Find(a);
  }

 private:
  __device__ void Find(const Arguments& a) {
    const StoredWeight& w = a.weight;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      const auto of_all = static_cast<uint32_t>(min(static_cast<int64_t>(first_) + RowOffset(i), w.outputs - 1) + w.first_row);
      const uint32_t scale_row = w.row_group == 1 ? of_all : of_all / static_cast<uint32_t>(w.row_group);
      rows_[i] = scale_row * static_cast<uint32_t>(a.scale_row_bytes / kScaleBytes<kForm>);
    }
  }

  /// Where they begin, in scales.
  uint32_t rows_[kLaneRows];
};
#endif

}  // namespace zi::cuda::some
