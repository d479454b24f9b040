// expert_linear for many choices: by tiles that expand stored weights themselves, or, for formats and places of codes that those do
// not take, slab by slab: some experts, or some rows of one, become values in scratch and are multiplied from there. Experts that
// nobody chose are neither read nor written.
#include "cuda/expert_tiles.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// Neighbouring threads take neighbouring rows where codes of those lie beside each other.
constexpr int kRowsDown = 32;

struct ExpandArguments {
  StoredExperts weights;
  const int32_t* counts;  // choices of each expert
  uint8_t* to;            // [experts, rows, inputs]
  int first_expert;
  int64_t first_row, rows;
};

template <WeightFormat kFormat, class T>
__device__ inline void ExpandEights(const ExpandArguments& a) {
  const int expert = a.first_expert + static_cast<int>(blockIdx.z);
  if (a.counts[expert] == 0) return;
  const StoredWeight weight = a.weights.Of(expert);
  constexpr int kDown = Cursor<kFormat>::kInputMajor ? kRowsDown : 1, kAcross = kThreads / kDown;
  const int64_t eights = weight.inputs / 8;
  const int down = static_cast<int>(threadIdx.x) % kDown, across = static_cast<int>(threadIdx.x) / kDown;
  T* const to = reinterpret_cast<T*>(a.to) + blockIdx.z * a.rows * weight.inputs;
  for (int64_t row = blockIdx.x * kDown + down; row < a.rows && a.first_row + row < weight.outputs; row += gridDim.x * kDown) {
    const Cursor<kFormat> cursor(weight, a.first_row + row);
    for (int64_t eight = blockIdx.y * kAcross + across; eight < eights; eight += gridDim.y * kAcross) {
      float values[8];
      cursor.LoadEight(eight * 8, values);
      PutEight(to + row * weight.inputs + eight * 8, values);
    }
  }
}

template <WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads) Expand(const __grid_constant__ ExpandArguments a) {
  Begin();
  // The type is the same for all threads, so asking is cheap.
  if (a.weights.first.type == DType::kF16) {
    ExpandEights<kFormat, __half>(a);
  } else {
    ExpandEights<kFormat, __nv_bfloat16>(a);
  }
}

void LaunchExpand(const ExpandArguments& a, int64_t experts, Run& run) {
  const auto launch = [&](auto kernel, bool input_major) {
    const int64_t down = input_major ? kRowsDown : 1, eights = a.weights.first.inputs / 8;
    const dim3 grid(Blocks(a.rows, down), Blocks(eights, kThreads / down, kMostGridRows), static_cast<unsigned>(experts));
    Overlapped(kernel, grid, kThreads, run, a);
  };
  switch (a.weights.format) {
    case WeightFormat::kE4M3:
      return launch(Expand<WeightFormat::kE4M3>, false);
    case WeightFormat::kInt8:
      return launch(Expand<WeightFormat::kInt8>, false);
    case WeightFormat::kPacked8:
      return launch(Expand<WeightFormat::kPacked8>, false);
    case WeightFormat::kPacked4:
      return launch(Expand<WeightFormat::kPacked4>, false);
    case WeightFormat::kFp4:
      return launch(Expand<WeightFormat::kFp4>, false);
    case WeightFormat::kTable4:
      return launch(Expand<WeightFormat::kTable4>, false);
    case WeightFormat::kAwq:
      return launch(Expand<WeightFormat::kAwq>, true);
    case WeightFormat::kGptq:
      return launch(Expand<WeightFormat::kGptq>, true);
    case WeightFormat::kE4M3In:
      return launch(Expand<WeightFormat::kE4M3In>, true);
    case WeightFormat::kDenseIn:
      return launch(Expand<WeightFormat::kDenseIn>, true);
    case WeightFormat::kDense:
      break;
  }
  UnknownFormat(a.weights.format);
}

/// Rows first … first + rows - 1 of the experts that were expanded.
DenseTileArguments SlabTiles(const TileArguments& all, const ExpandArguments& slab, int64_t experts, DType type) {
  DenseTileArguments a{};
  static_cast<TileArguments&>(a) = all;
  a.outputs = std::min(slab.rows, all.outputs - slab.first_row);
  a.out.data += slab.first_row * ElementBytes(all.out.dtype);
  a.weights.stride = a.weights.inputs = all.inputs;
  a.weights.outputs = a.outputs;
  const int64_t expert_bytes = slab.rows * all.inputs * ElementBytes(type);
  for (int64_t e = 0; e < experts; ++e) a.weights.data[slab.first_expert + e] = slab.to + e * expert_bytes;
  return a;
}

void LaunchSlabs(const ExpertLinearOp& op, const ExpertTiling& tiling, Run& run) {
  const DType type = op.weight.type;
  TileArguments all{};
  ExpandArguments slab{};
  slab.counts = GroupForTiles(op, type, tiling, run, all);
  slab.weights = StoredExperts(op, run.fault());
  slab.rows = tiling.slab_rows;
  slab.to = run.scratch().At(ScratchUse::kWeights, SlabBytes(op.weight, tiling));
  for (int64_t expert = 0; expert < op.expert_count; expert += tiling.slab_experts) {
    slab.first_expert = static_cast<int>(expert);
    const int64_t experts = std::min(tiling.slab_experts, op.expert_count - expert);
    for (slab.first_row = 0; slab.first_row < op.weight.outputs; slab.first_row += slab.rows) {
      LaunchExpand(slab, experts, run);
      LaunchDenseTiles(type, tiling.rows, SlabTiles(all, slab, experts, type), run);
    }
  }
}

}  // namespace

void LaunchExpertTiles(const ExpertLinearOp& op, const ExpertTiling& tiling, Run& run) {
  if (tiling.slabs) return LaunchSlabs(op, tiling, run);
  StoredTileArguments a{};
  GroupForTiles(op, op.weight.type, tiling, run, a);
  a.weights = StoredExperts(op, run.fault());
  LaunchStoredTiles(op.weight.type, tiling.rows, a, run);
}

}  // namespace zi::cuda
