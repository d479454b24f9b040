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
constexpr int kSumBytes = 2 * sizeof(float) * BlockShape<kKind>::kWarps * kRows * kTokens;

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
  if constexpr (kKind == FragmentKind::kValues) return false;
  else return LaunchShape<kKind, T, kScaleBytes, false>(a, run);
}

template <FragmentKind kKind, int kScaleBytes = 2>
bool LaunchKind(const std::vector<LinearOp>& ops, Run& run) {
  Arguments a{CoreArgumentsOf(ops, 4 * FragmentSizes<kKind>::kInputs, run)};
  return ops.front().weight.type == DType::kF16 ? LaunchScales<kKind, __half, kScaleBytes>(a, run)
                                                : LaunchScales<kKind, __nv_bfloat16, kScaleBytes>(a, run);
}

bool HasZeros(const std::vector<LinearOp>& ops) {
  return std::any_of(ops.begin(), ops.end(), [](const LinearOp& op) { return op.weight.Part(WeightPart::kZeros).data; });
}

}  // namespace

bool LaunchFewStreamed(const std::vector<LinearOp>& ops, Run& run) {
  const std::optional<FragmentKind> kind = FragmentsOf(ops.front());
  if (!kind || HasZeros(ops)) return false;
  const int64_t scale_bytes = ElementBytes(ops.front().weight.Part(WeightPart::kScales).dtype);
  switch (*kind) {
    case FragmentKind::kValues:
      return LaunchKind<FragmentKind::kValues>(ops, run);
    case FragmentKind::kPacked4Exact:
      return LaunchKind<FragmentKind::kPacked4Exact>(ops, run);
    case FragmentKind::kE4M3:
      if (scale_bytes == 4) return LaunchKind<FragmentKind::kE4M3, 4>(ops, run);
      return scale_bytes == 2 && LaunchKind<FragmentKind::kE4M3>(ops, run);
    case FragmentKind::kInt8:
      if (scale_bytes == 4) return LaunchKind<FragmentKind::kInt8, 4>(ops, run);
      return scale_bytes == 2 && LaunchKind<FragmentKind::kInt8>(ops, run);
    case FragmentKind::kPacked8:
      return scale_bytes == 2 && LaunchKind<FragmentKind::kPacked8>(ops, run);
    // Rarely seen, or with scales of a byte.
    case FragmentKind::kPacked4:
    case FragmentKind::kFp4:
      return false;
  }
  return false;
}

}  // namespace zi::cuda
