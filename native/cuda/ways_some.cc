// Implements cuda/ways_some.h, but for the launch.
#include "cuda/ways_some.h"

#include <algorithm>

#include "cuda/shapes.h"

namespace zi::cuda {
namespace {

/// Units that a block multiplies, at least.
constexpr int64_t kLeastUnits = 4;
/// With more than two blocks a cluster leaves some multiprocessors of a group alone; of clusters of eight, not all run at once.
constexpr int kMostClusterBlocks = 4, kGroupedMultiprocessors = 8;

// What blocks take beside their units, in units of some 1.1 µs, measured: the start, and what becomes of sums in shared memory or in
// registers; and each further run of a tile.
constexpr int64_t kClusterUnits = 14, kRunUnits = 13, kPartUnits = 4;

int64_t UnitInputs(const Weight& weight) { return weight.format == WeightFormat::kPacked4 ? 128 : 64; }
int64_t Columns(const LinearOp& op) { return op.x.shape[0] <= 64 ? 64 : 128; }

int64_t CeilDiv(int64_t value, int64_t by) { return (value + by - 1) / by; }

}  // namespace

bool HasPlainScales(const Weight& weight, FragmentKind kind) {
  if (weight.Part(WeightPart::kZeros).data) return false;
  const int64_t scale_bytes = ElementBytes(weight.Part(WeightPart::kScales).dtype);
  switch (kind) {
    case FragmentKind::kValues:
    case FragmentKind::kPacked4Exact:
      return true;
    case FragmentKind::kE4M3:
    case FragmentKind::kInt8:
      return scale_bytes == 4 || scale_bytes == 2;
    case FragmentKind::kPacked8:
      return scale_bytes == 2;
    // Rarely seen, or with scales of a byte.
    case FragmentKind::kPacked4:
    case FragmentKind::kFp4:
      return false;
  }
  return false;
}

std::optional<FragmentKind> SomeKindOf(const LinearOp& op) {
  const int64_t tokens = op.x.shape[0];
  if (tokens <= kFewTokens || tokens > kSomeTokens || op.x.dtype != op.weight.type) return std::nullopt;
  const std::optional<FragmentKind> kind = FragmentsOf(op.weight);
  return kind && HasPlainScales(op.weight, *kind) ? kind : std::nullopt;
}

SomeSplit SomeSplitOf(int64_t tiles, int64_t units, int multiprocessors) {
  SomeSplit best{1, 0};
  int64_t least = INT64_MAX;
  const auto offer = [&](const SomeSplit& split, int64_t cost) {
    if (cost < least) best = split, least = cost;
  };
  // A pair first, because it reads inputs once.
  for (const int pair : {2, 1}) {
    const int64_t rows = CeilDiv(tiles, pair), all = rows * units;
    const int64_t most = std::min<int64_t>(std::min(multiprocessors, kMostSomeBlocks) / pair, std::max(all / kLeastUnits, int64_t{1}));
    if (most < 1) continue;
    for (const int64_t runs : {std::min(most, rows), most}) {
      const int64_t parts = rows % runs == 0 ? 0 : CeilDiv(runs, rows);
      offer({pair, static_cast<int>(runs)}, CeilDiv(all, runs) + kRunUnits + kPartUnits * parts);
    }
  }
  for (int blocks = 2; blocks <= kMostClusterBlocks && units / blocks >= kLeastUnits; blocks *= 2) {
    const int64_t at_once = blocks > 2 ? multiprocessors - multiprocessors % kGroupedMultiprocessors : multiprocessors;
    offer({blocks, 0}, CeilDiv(tiles * blocks, std::max<int64_t>(at_once, 1)) * (units / blocks + kClusterUnits));
  }
  return best;
}

size_t PlacedBytes(const LinearOp& op) {
  const int64_t unit = UnitInputs(op.weight);
  return static_cast<size_t>(CeilDiv(op.x.shape[1], unit) * unit * Columns(op) * 2);
}

size_t SomePartBytes(const LinearOp& op) {
  const int64_t tiles = CeilDiv(op.weight.outputs, kSomeRows), units = CeilDiv(op.x.shape[1], UnitInputs(op.weight));
  const int64_t blocks = std::min<int64_t>(kMostSomeBlocks, 2 + (tiles + 1) * units / kLeastUnits);
  return kSomeFlagBytes + static_cast<size_t>(blocks * kSomeRows * Columns(op)) * sizeof(float);
}

}  // namespace zi::cuda
