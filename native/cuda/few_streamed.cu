// Chooses and launches the kernels of few_streamed.h.
#include "cuda/few_streamed.h"

#include <algorithm>
#include <optional>

#include "cuda/few_stored.h"

namespace zi::cuda {
namespace {

using streamed::Arguments;
using streamed::BlockShape;

template <FragmentKind kKind>
constexpr int kSumBytes = sizeof(float) * (2 * BlockShape<kKind>::kWarps * kRows * kTokens + streamed::kNormSums);

/// Blocks that run at once on a multiprocessor, with so much dynamic shared memory each.
template <FragmentKind kKind>
int BlocksAtOnce(size_t shared, const SharedMemory& memory) {
  const auto bytes = static_cast<int64_t>(shared) + kSumBytes<kKind>;
  if (bytes > memory.of_block) return 0;
  return static_cast<int>(std::min<int64_t>(BlockShape<kKind>::kBlocksEach, memory.of_multiprocessor / (bytes + memory.kept)));
}

template <FragmentKind kKind, class T, int kScaleBytes, bool kStaged>
bool LaunchShape(Arguments& a, Run& run) {
  using Shape = BlockShape<kKind>;
  constexpr int kEights = FragmentSizes<kKind>::kInputs / 8;
  // Neighbouring tokens lie in different banks.
  a.x_token = 4 * kEights + (kEights % 2 == 0 && a.core.tokens > 1 ? 4 : 0);
  a.x_unit = a.x_token * a.core.tokens;
  const int64_t input_groups = kStaged ? int64_t{a.core.units} * a.x_unit : 0;
  size_t shared = (input_groups + 4 * kEights) * 16;
  if constexpr (kKind != FragmentKind::kValues) {
    int most = 0;
    for (const Part& part : a.core.parts) most = std::max(most, part.row_scale_bytes);
    a.scale_pitch = (most + 15) / 16 * 16 + 16;
    shared += 2 * kRows * a.scale_pitch;
  }
  a.norm_at = static_cast<int>(shared / 16);
  if (a.norm.x) shared += a.core.inputs * sizeof(T) * (a.norm.bias ? 2 : 1);
  const int each = BlocksAtOnce<kKind>(shared, run.shared_memory());
  // Fewer blocks would have less under way than inputs from the cache cost.
  if (each < (kStaged ? BlockShape<kKind>::kBlocksEach : 1)) return false;
  a.zeros_at = static_cast<int>(input_groups);
  a.scales_at = a.zeros_at + 4 * kEights;
  a.groups = static_cast<int>(Blocks(a.core.units, Shape::kWarps * Shape::kAhead));
  const auto kernel = streamed::FewStreamed<kKind, T, kScaleBytes, kStaged>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), "cudaFuncSetAttribute");
  const auto at_once = static_cast<unsigned>(each * run.multiprocessors());
  OverlappedWith(shared, kernel, dim3(std::min(a.core.tiles, at_once)), Shape::kThreads, run, a);
  return true;
}

template <FragmentKind kKind, class T, int kScaleBytes>
bool LaunchScales(Arguments& a, Run& run) {
  if (LaunchShape<kKind, T, kScaleBytes, true>(a, run)) return true;
  if (kKind == FragmentKind::kValues || a.norm.x) return false;
  if constexpr (kKind != FragmentKind::kValues) return LaunchShape<kKind, T, kScaleBytes, false>(a, run);
}

template <FragmentKind kKind, int kScaleBytes = 2>
bool LaunchKind(const Joined& joined, Run& run) {
  Arguments a{CoreArgumentsOf(joined.products, 4 * FragmentSizes<kKind>::kInputs, run)};
  if (joined.norm) a.norm = HiddenNorm(*joined.norm);
  return joined.products[0].weight.type == DType::kF16 ? LaunchScales<kKind, __half, kScaleBytes>(a, run)
                                                       : LaunchScales<kKind, __nv_bfloat16, kScaleBytes>(a, run);
}

}  // namespace

bool LaunchFewStreamed(const Joined& joined, Run& run) {
  const std::vector<LinearOp>& ops = joined.products;
  const std::optional<FragmentKind> kind = StreamedKindOf(ops[0]);
  if (!kind || !std::all_of(ops.begin(), ops.end(), StreamedKindOf)) return false;
  const bool floats = ElementBytes(ops[0].weight.Part(WeightPart::kScales).dtype) == 4;
  switch (*kind) {
    case FragmentKind::kValues:
      return LaunchKind<FragmentKind::kValues>(joined, run);
    case FragmentKind::kPacked4Exact:
      return LaunchKind<FragmentKind::kPacked4Exact>(joined, run);
    case FragmentKind::kE4M3:
      return floats ? LaunchKind<FragmentKind::kE4M3, 4>(joined, run) : LaunchKind<FragmentKind::kE4M3>(joined, run);
    case FragmentKind::kInt8:
      return floats ? LaunchKind<FragmentKind::kInt8, 4>(joined, run) : LaunchKind<FragmentKind::kInt8>(joined, run);
    case FragmentKind::kPacked8:
      return LaunchKind<FragmentKind::kPacked8>(joined, run);
    case FragmentKind::kPacked4:
    case FragmentKind::kFp4:
      break;
  }
  return false;
}

}  // namespace zi::cuda
