// Implements cpu/dispatch.h: which kernel of the table each operation takes.
#include "cpu/dispatch.h"

#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cpu/bring.h"
#include "cpu/copy.h"
#include "cpu/expert_block.h"
#include "cpu/find.h"
#include "cpu/host_exchange.h"
#include "cpu/host_part.h"
#include "cpu/isa.h"
#include "ops/decode.h"

namespace zi {
namespace {

auto KernelOf(const Kernels& k, const GatherRowsOp&) { return k.gather_rows; }
auto KernelOf(const Kernels& k, const LayerNormOp&) { return k.layer_norm; }
auto KernelOf(const Kernels& k, const RmsNormOp&) { return k.rms_norm; }
auto KernelOf(const Kernels& k, const LinearOp&) { return k.linear; }
auto KernelOf(const Kernels& k, const HeadLinearOp&) { return k.head_linear; }
auto KernelOf(const Kernels& k, const GatedOp&) { return k.gated; }
auto KernelOf(const Kernels& k, const AddOp&) { return k.add; }
auto KernelOf(const Kernels& k, const RotaryOp&) { return k.rotary; }
auto KernelOf(const Kernels& k, const KvStoreOp&) { return k.kv_store; }
auto KernelOf(const Kernels& k, const AttentionOp&) { return k.attention; }
auto KernelOf(const Kernels& k, const ArgmaxOp&) { return k.argmax; }
auto KernelOf(const Kernels& k, const TokenRowsOp&) { return k.token_rows; }
auto KernelOf(const Kernels& k, const TopTokensOp&) { return k.top_tokens; }
auto KernelOf(const Kernels& k, const NllFoldOp&) { return k.nll_fold; }
auto KernelOf(const Kernels& k, const ScaleCapOp&) { return k.scale_cap; }
auto KernelOf(const Kernels& k, const PositionScaleOp&) { return k.position_scale; }
auto KernelOf(const Kernels& k, const ClampOp&) { return k.clamp; }
auto KernelOf(const Kernels& k, const RouteOp&) { return k.route; }
auto KernelOf(const Kernels& k, const ExpertLinearOp&) {
  return [&k](const ExpertLinearOp& op, Run& run) {
    if (!op.in_slots()) return k.expert_linear(op, run);
    const ExpertParts parts = PlacesInSlots(op);
    const ExpertLinearOp placed = Placed(op, parts);
    if (!op.files) return k.expert_linear(placed, run);
    MultiplyAsTheyCome(placed, run, k.expert_linear);
  };
}
auto KernelOf(const Kernels& k, const CombineOp&) { return k.combine; }
auto KernelOf(const Kernels& k, const ExpertBiasOp&) { return k.expert_bias; }
auto KernelOf(const Kernels& k, const GatedPairsOp&) { return k.gated_pairs; }
auto KernelOf(const Kernels& k, const CausalConvOp&) { return k.causal_conv; }
auto KernelOf(const Kernels& k, const StateScanOp&) { return k.state_scan; }
auto KernelOf(const Kernels& k, const GatedRmsOp&) { return k.gated_rms; }
auto KernelOf(const Kernels& k, const CompressOp&) { return k.compress; }
auto KernelOf(const Kernels& k, const WindowAttentionOp&) { return k.window_attention; }
auto KernelOf(const Kernels& k, const HyperWeightsOp&) { return k.hyper_weights; }
auto KernelOf(const Kernels& k, const HyperMixOp&) { return k.hyper_mix; }
auto KernelOf(const Kernels& k, const GateSigmoidOp&) { return k.gate_sigmoid; }
auto KernelOf(const Kernels& k, const ScaleRowsOp&) { return k.scale_rows; }
auto KernelOf(const Kernels& k, const SampleOp&) { return k.sample; }
auto KernelOf(const Kernels& k, const NoteNotFiniteOp&) { return k.note_not_finite; }
auto KernelOf(const Kernels&, const BringExpertsOp&) { return BringExperts; }
auto KernelOf(const Kernels&, const AskHostOp&) { return AskHost; }
auto KernelOf(const Kernels&, const TakeHostOp&) { return TakeHost; }
auto KernelOf(const Kernels&, const FindExpertsOp&) { return FindExperts; }
auto KernelOf(const Kernels& k, const ReduceOp&) {
  return [&k](const ReduceOp& op, Run& run) { static_cast<HostExchange*>(op.exchange)->Sum(op, run, k.sum_partials); };
}
auto KernelOf(const Kernels&, const CopyOp&) { return CopyBytes; }
auto KernelOf(const Kernels&, const CopyRowsOp&) { return CopyByteRows; }
auto KernelOf(const Kernels&, const FillOp&) { return FillBytes; }

/// Calls f with the kernels and what they run with, whatever setup is current then. What it throws says which operation failed.
template <class F>
void Running(const char* name, const CancelFlag& cancel, F f) {
  const CpuSetup cpu = CurrentCpu();
  Run run{*cpu.pool, cancel};
  try {
    f(*cpu.kernels, run);
  } catch (const OthersFailure&) {
    throw;
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(name) + ": " + error.what());
  }
}

void RunOperation(const Decoded& decoded, const CancelFlag& cancel) {
  Running(decoded.name, cancel, [&](const Kernels& kernels, Run& run) {
    std::visit([&](const auto& op) { KernelOf(kernels, op)(op, run); }, decoded.op);
  });
}

/// Operations that follow each other, and what runs as one of them.
class Sequence {
 public:
  explicit Sequence(std::vector<Decoded> operations) : operations_(std::move(operations)) {
    steps_.reserve(operations_.size());
    for (size_t at = 0; at < operations_.size(); at += steps_.back().count) {
      Step step{at, 1, {}};
      if (const size_t count = FindExpertBlock(operations_, at, &step.block)) step.count = count;
      steps_.push_back(step);
    }
  }
  void Run(const CancelFlag& cancel) const {
    for (const Step& step : steps_) {
      if (cancel) return;
      if (step.count > 1 && RunBlock(step, cancel)) continue;
      for (size_t i = 0; i < step.count && !cancel; ++i) RunOperation(operations_[step.first + i], cancel);
    }
  }

 private:
  /// A block of several operations, whose pointers are into operations_, or one by itself.
  struct Step {
    size_t first, count;
    ExpertBlock block;
  };
  /// False where the kernels have none for blocks.
  bool RunBlock(const Step& step, const CancelFlag& cancel) const {
    bool done = false;
    Running(operations_[step.first].name, cancel, [&](const Kernels& kernels, zi::Run& run) {
      done = kernels.expert_block != nullptr;
      if (done) kernels.expert_block(step.block, run);
    });
    return done;
  }

  const std::vector<Decoded> operations_;
  std::vector<Step> steps_;
};

}  // namespace

// Decoded operations are shared, because a function object must be copyable.

Stream::Work WorkFor(const double* words, size_t count) {
  auto decoded = std::make_shared<const Decoded>(DecodeOperation(words, count, kHostPlace));
  return [decoded](const CancelFlag& cancel) { RunOperation(*decoded, cancel); };
}

Stream::Work WorkForAll(const double* words, size_t count) {
  auto sequence = std::make_shared<const Sequence>(DecodeOperations(words, count, kHostPlace));
  return [sequence](const CancelFlag& cancel) { sequence->Run(cancel); };
}

}  // namespace zi
