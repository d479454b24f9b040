// Chooses and launches the kernels of some_stored.h.
#include "cuda/some_stored.h"

#include <algorithm>

#include "cuda/run.h"
#include "cuda/shapes.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

using some::ScaleForm;

template <FragmentKind kKind, class T, ScaleForm kForm, int kColumns>
void LaunchColumns(const LinearOp& op, Run& run) {
  using S = some::Stage<kKind, kColumns>;
  some::Arguments a{};
  const View &codes = op.weight.Part(WeightPart::kCodes), &scales = op.weight.Part(WeightPart::kScales);
  const auto tokens = static_cast<int>(op.x.shape[0]);
  a.weight = StoredWeight(op.weight, run.fault());
  a.results = {Finish(op), op.weight.outputs, tokens, RowsAligned(op.out, 16)};
  a.row_bytes = codes.strides[0] * ElementBytes(codes.dtype);
  a.scale_row_bytes = scales.strides[0] * ElementBytes(scales.dtype);
  a.group_shift = GroupShift(op.weight);
  a.inputs = op.x.shape[1];
  a.units = static_cast<int>((a.inputs + some::kUnitInputs<kKind> - 1) / some::kUnitInputs<kKind>);
  const auto tiles = static_cast<int>(Blocks(op.weight.outputs, some::kBlockRows));
  a.split = SomeSplitOf(tiles, a.units, run.multiprocessors());
  const bool runs = a.split.runs > 0;
  a.tiles = runs ? (tiles + a.split.cluster - 1) / a.split.cluster : tiles;
  run.inputs().Forget();
  uint8_t* const placed = run.scratch().At(ScratchUse::kInputs, PlacedBytes(op));
  uint8_t* const parts = run.scratch().At(ScratchUse::kPartials, SomePartBytes(op));
  a.placed = placed;
  a.parts = {reinterpret_cast<uint32_t*>(parts), reinterpret_cast<float4*>(parts + kSomeFlagBytes)};
  const unsigned grid = static_cast<unsigned>(a.split.cluster * (runs ? a.split.runs : tiles));
  const int flags = runs ? static_cast<int>(grid) * some::kWarps : 0;
  const some::PlaceArguments place{op.x.data, op.x.strides[0], a.inputs, tokens, a.units, placed, a.parts.flags, flags};
  const unsigned blocks = Blocks(int64_t{a.units} * S::kInputBytes / 16, some::kPlaceThreads);
  Overlapped(some::PlaceInputs<kKind, T, kColumns, some::kBytePairs<kKind, kForm>>, dim3(blocks), some::kPlaceThreads, run, place);
  const auto kernel = some::SomeStored<kKind, T, kForm, kColumns>;
  constexpr int kShared = some::kSharedBytes<kKind, kColumns>;
  static_assert(kShared >= kColumns * some::kSumPitch * 4 + some::kAlignment);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared), "cudaFuncSetAttribute");
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(a.split.cluster), 1, 1};
  // It begins with Begin(), as overlap.h asks for.
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(some::kAllThreads);
  config.dynamicSmemBytes = kShared;
  config.stream = run.stream();
  config.attrs = attributes;
  config.numAttrs = run.MayOverlap() ? 2 : 1;
  Check(cudaLaunchKernelEx(&config, kernel, a), "cudaLaunchKernel");
  run.KernelQueued();
}

template <FragmentKind kKind, class T, ScaleForm kForm>
void LaunchTyped(const LinearOp& op, Run& run) {
  if (op.x.shape[0] <= 64) return LaunchColumns<kKind, T, kForm, 64>(op, run);
  LaunchColumns<kKind, T, kForm, 128>(op, run);
}

template <FragmentKind kKind, ScaleForm kForm>
void LaunchKind(const LinearOp& op, Run& run) {
  if (op.weight.type == DType::kF16) return LaunchTyped<kKind, __half, kForm>(op, run);
  LaunchTyped<kKind, __nv_bfloat16, kForm>(op, run);
}

/// Codes whose values may be made in pairs.
template <FragmentKind kKind>
void LaunchBytes(const LinearOp& op, Run& run) {
  const bool own = op.weight.Part(WeightPart::kScales).dtype == op.weight.type && op.weight.factor == 1.0f;
  own ? LaunchKind<kKind, ScaleForm::kOwn>(op, run) : LaunchKind<kKind, ScaleForm::kHalves>(op, run);
}

}  // namespace

bool LaunchSomeStored(const LinearOp& op, Run& run) {
  const std::optional<FragmentKind> kind = SomeKindOf(op);
  if (!kind || run.generation() != 9) return false;
  const bool floats = ElementBytes(op.weight.Part(WeightPart::kScales).dtype) == 4;
  switch (*kind) {
    case FragmentKind::kE4M3:
      floats ? LaunchKind<FragmentKind::kE4M3, ScaleForm::kFloats>(op, run) : LaunchKind<FragmentKind::kE4M3, ScaleForm::kHalves>(op, run);
      return true;
    case FragmentKind::kInt8:
      floats ? LaunchKind<FragmentKind::kInt8, ScaleForm::kFloats>(op, run) : LaunchBytes<FragmentKind::kInt8>(op, run);
      return true;
    case FragmentKind::kPacked8:
      LaunchBytes<FragmentKind::kPacked8>(op, run);
      return true;
    case FragmentKind::kPacked4Exact:
      LaunchKind<FragmentKind::kPacked4Exact, ScaleForm::kOwn>(op, run);
      return true;
    case FragmentKind::kPacked4:
    case FragmentKind::kFp4:
    case FragmentKind::kValues:
      break;
  }
  return false;
}

}  // namespace zi::cuda
