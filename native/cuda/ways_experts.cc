// Implements what cuda/ways.h says of products with chosen experts.
#include <algorithm>

#include "cuda/shapes.h"
#include "cuda/ways.h"

namespace zi::cuda {
namespace {

/// Up to this many choices, or as many as there are experts, hardly meet at one: each reads its weights itself, in full
/// precision. On an H100 a block with tiles takes 0.66 of the time for 16 choices of 8 experts, and 1.1 for 64 of 128.
constexpr int64_t kFewChoices = 8;

/// Rows of tiles, up to so many choices of an expert on average: most experts then fill at least half of one, if choices are
/// spread evenly.
struct TileKind {
  int rows;
  int64_t most_mean;
};
constexpr TileKind kTileKinds[] = {{16, 12}, {32, 24}, {64, 64}};

int TileRows(int64_t choices, int64_t experts) {
  for (const TileKind& kind : kTileKinds) {
    if (choices / experts <= kind.most_mean) return kind.rows;
  }
  return kMostTileRows;
}

bool HasByteCodes(WeightFormat format) {
  return format == WeightFormat::kE4M3 || format == WeightFormat::kInt8 || format == WeightFormat::kPacked8;
}

/// Formats that tiles of choices expand on the way to where they multiply them.
bool IsExpandedByTiles(WeightFormat format) {
  return HasByteCodes(format) || format == WeightFormat::kPacked4 || format == WeightFormat::kFp4;
}

/// Whatever the weights are, which are multiplied as values of `type`.
template <class Op>
std::optional<ExpertTiling> TilingOfChoices(const Op& op, DType type) {
  const int64_t choices = op.out.shape[0];
  if (choices <= MostFewChoices(op.expert_count)) return std::nullopt;
  if (!IsHalf(type) || (op.x.dtype != type && op.x.dtype != DType::kF32)) return std::nullopt;
  if (op.x.shape[1] == 0) return std::nullopt;
  ExpertTiling tiling{};
  tiling.rows = TileRows(choices, op.expert_count);
  tiling.tiles = choices / tiling.rows + std::min(choices, op.expert_count);
  // What is rounded anyway needs no second half of the inputs.
  tiling.exact = op.x.dtype == DType::kF32 && op.out.dtype == DType::kF32;
  tiling.packs = op.x.dtype == DType::kF32 || !RowsAligned(op.x, 16);
  return tiling;
}

}  // namespace

bool WeightsAligned(const DenseExpertLinearOp& op) {
  // All have the strides of the first one.
  if (!RowsAligned(op.weight, 16)) return false;
  return std::all_of(op.weights, op.weights + op.place_count(),
                     [](const uint8_t* weight) { return reinterpret_cast<uintptr_t>(weight) % 16 == 0; });
}

int64_t MostChoicesOfTiles(int rows, int64_t experts) {
  for (const TileKind& kind : kTileKinds) {
    if (kind.rows == rows) return (kind.most_mean + 1) * experts - 1;
  }
  return INT64_MAX;
}

int64_t MostFewChoices(int64_t experts) { return std::max(kFewChoices, experts); }

std::optional<ExpertTiling> TilingOf(const DenseExpertLinearOp& op) {
  if (op.weight.shape[1] % 8 != 0 || !WeightsAligned(op)) return std::nullopt;
  return TilingOfChoices(op, op.weight.dtype);
}

bool CodesAligned(const ExpertLinearOp& op) {
  const uint8_t* const* codes = op.parts[static_cast<int>(WeightPart::kCodes)];
  const uintptr_t bytes = HasByteCodes(op.weight.format) ? 8 : 4;
  return std::all_of(codes, codes + op.place_count(),
                     [&](const uint8_t* at) { return reinterpret_cast<uintptr_t>(at) % bytes == 0; });
}

std::optional<ExpertTiling> TilingOf(const ExpertLinearOp& op) {
  const Weight& weight = op.weight;
  if (weight.inputs % 8 != 0) return std::nullopt;
  auto tiling = TilingOfChoices(op, weight.type);
  if (!tiling) return tiling;
  tiling->slabs = !IsExpandedByTiles(weight.format) || !EightsTogether(weight) || !CodesAligned(op);
  if (!tiling->slabs) return tiling;
  const int64_t row_bytes = weight.inputs * ElementBytes(weight.type), rows = weight.outputs;
  if (rows * row_bytes <= kSlabBytes) {
    tiling->slab_experts = std::min(op.expert_count, kSlabBytes / (rows * row_bytes));
    tiling->slab_rows = rows;
  } else {
    tiling->slab_experts = 1;
    tiling->slab_rows = std::max(kSlabBytes / row_bytes / kSlabRows, int64_t{1}) * kSlabRows;
  }
  return tiling;
}

}  // namespace zi::cuda
