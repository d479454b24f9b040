// Chooses and launches the kernels of some_stored.h.
#include "cuda/some_stored.h"

#include <algorithm>

#include "cuda/run.h"
#include "cuda/shapes.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

/// Systems may place clusters of so many blocks everywhere.
constexpr int kMostBlocksEach = 8;
/// A block's share of the inputs, at least: so many units.
constexpr int kLeastUnits = 4;

/// What a block takes beside its units, in units: its first stages, and what becomes of its sums.
constexpr int kBlockUnits = 10;

/// In how many shares blocks take the inputs, so that as few multiprocessors as can be have nothing to do.
int BlocksEach(int tiles, int units, int multiprocessors) {
  // Clusters of more than two blocks may leave some multiprocessors of a group alone.
  const auto cost = [&](int each) {
    const int at_once = each > 2 ? multiprocessors - multiprocessors % kMostBlocksEach : multiprocessors;
    return (tiles * each + at_once - 1) / at_once * (units / each + kBlockUnits);
  };
  int best = 1;
  for (int each = 2; each <= kMostBlocksEach && units / each >= kLeastUnits; each *= 2) {
    if (cost(each) < cost(best)) best = each;
  }
  return best;
}

template <FragmentKind kKind, class T, int kScaleBytes, int kColumns>
void LaunchColumns(const LinearOp& op, Run& run) {
  using S = some::Stage<kKind, kColumns>;
  some::Arguments a{};
  const View &codes = op.weight.Part(WeightPart::kCodes), &scales = op.weight.Part(WeightPart::kScales);
  a.weight = StoredWeight(op.weight, run.fault());
  a.finish = Finish(op);
  a.row_bytes = codes.strides[0] * ElementBytes(codes.dtype);
  a.scale_row_bytes = scales.strides[0] * ElementBytes(scales.dtype);
  a.group_shift = GroupShift(op.weight);
  a.tokens = static_cast<int>(op.x.shape[0]);
  a.inputs = op.x.shape[1];
  a.units = static_cast<int>((a.inputs + some::kUnitInputs<kKind> - 1) / some::kUnitInputs<kKind>);
  run.inputs().Forget();
  uint8_t* const placed = run.scratch().At(ScratchUse::kInputs, PlacedBytes(op));
  const some::PlaceArguments place{op.x.data, op.x.strides[0], a.inputs, a.tokens, a.units, placed};
  const unsigned blocks = Blocks(int64_t{a.units} * S::kInputBytes / 16, some::kPlaceThreads);
  Overlapped(some::PlaceInputs<kKind, T, kColumns>, dim3(blocks), some::kPlaceThreads, run, place);
  a.placed = placed;
  const auto tiles = static_cast<int>(Blocks(op.weight.outputs, some::kBlockRows));
  a.blocks_each = BlocksEach(tiles, a.units, run.multiprocessors());
  const auto kernel = some::SomeStored<kKind, T, kScaleBytes, kColumns>;
  constexpr int kShared = std::max<int>(S::kStages * S::kBytes, kColumns * some::kSumPitch * sizeof(float)) + some::kAlignment;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared), "cudaFuncSetAttribute");
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(a.blocks_each), 1, 1};
  // It begins with Begin(), as overlap.h asks for.
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(tiles * a.blocks_each));
  config.blockDim = dim3(some::kThreads);
  config.dynamicSmemBytes = kShared;
  config.stream = run.stream();
  config.attrs = attributes;
  config.numAttrs = run.MayOverlap() ? 2 : 1;
  Check(cudaLaunchKernelEx(&config, kernel, a), "cudaLaunchKernel");
  run.KernelQueued();
}

template <FragmentKind kKind, class T, int kScaleBytes>
void LaunchTyped(const LinearOp& op, Run& run) {
  if (op.x.shape[0] <= 64) return LaunchColumns<kKind, T, kScaleBytes, 64>(op, run);
  LaunchColumns<kKind, T, kScaleBytes, 128>(op, run);
}

template <FragmentKind kKind, int kScaleBytes = 2>
void LaunchKind(const LinearOp& op, Run& run) {
  if (op.weight.type == DType::kF16) return LaunchTyped<kKind, __half, kScaleBytes>(op, run);
  LaunchTyped<kKind, __nv_bfloat16, kScaleBytes>(op, run);
}

}  // namespace

bool LaunchSomeStored(const LinearOp& op, Run& run) {
  const std::optional<FragmentKind> kind = SomeKindOf(op);
  if (!kind || run.generation() != 9) return false;
  const bool floats = ElementBytes(op.weight.Part(WeightPart::kScales).dtype) == 4;
  switch (*kind) {
    case FragmentKind::kE4M3:
      floats ? LaunchKind<FragmentKind::kE4M3, 4>(op, run) : LaunchKind<FragmentKind::kE4M3>(op, run);
      return true;
    case FragmentKind::kInt8:
      floats ? LaunchKind<FragmentKind::kInt8, 4>(op, run) : LaunchKind<FragmentKind::kInt8>(op, run);
      return true;
    case FragmentKind::kPacked8:
      LaunchKind<FragmentKind::kPacked8>(op, run);
      return true;
    case FragmentKind::kPacked4Exact:
      LaunchKind<FragmentKind::kPacked4Exact>(op, run);
      return true;
    case FragmentKind::kPacked4:
    case FragmentKind::kFp4:
    case FragmentKind::kValues:
      break;
  }
  return false;
}

}  // namespace zi::cuda
