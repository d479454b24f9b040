// Implements cuda/run.h, and the operations that are calls of the runtime: copy and fill.
#include "cuda/run.h"

#include <algorithm>

#include "cuda/pieces.h"
#include "cuda/products.h"
#include "cuda/small_copy.h"

namespace zi::cuda {

Run::Run(cudaStream_t stream, Context& context, bool computes)
    : stream_(stream), context_(context), computes_(computes) {}

Run::~Run() = default;

Products& Run::products() {
  if (!products_) products_ = std::make_unique<Products>(context_);
  return *products_;
}

void Run::Execute(const Decoded& decoded) {
  const bool linear = std::holds_alternative<LinearOp>(decoded.op);
  // Norms may wait for products, and products for others: both say themselves what is launched before them.
  const bool norm = std::holds_alternative<LayerNormOp>(decoded.op) || std::holds_alternative<RmsNormOp>(decoded.op);
  if (!linear && !norm) Flush();
  // Products say themselves what they overwrite.
  if (!linear && !std::holds_alternative<ExpertLinearOp>(decoded.op)) inputs_.Forget();
  scratch_.Provide(ScratchOf(decoded.op));
  std::visit([this](const auto& op) { Launch(op, *this); }, decoded.op);
}

void Run::Join(const LinearOp& op) {
  if (joined_.Add(op)) return;
  Flush();
  joined_.Add(op);
}

void Run::Join(const NormOp& op) {
  Flush();
  if (!joined_.Add(op)) LaunchNorm(op, *this);
}

void Run::Flush() { LaunchJoined(joined_.Take(), *this); }

void Run::Drop() { joined_.Take(); }

void Run::StartAnew() {
  inputs_.Forget();
  after_kernel_ = false;
}

void Launch(const CopyOp& op, Run& run) {
  if (IsSmallCopy(op, run)) {
    LaunchCopyBytes(op, run);
    // They may be weights, which kernels read before they begin.
    return run.OtherQueued();
  }
  run.OtherQueued();
  for (size_t done = 0; done < op.size;) {
    // Neither side may cross the end of a page-locked piece; on a device the cut does no harm.
    const size_t piece = std::min({op.size - done, static_cast<size_t>(PieceEnd(op.to + done) - (op.to + done)),
                                   static_cast<size_t>(PieceEnd(op.from + done) - (op.from + done))});
    Check(cudaMemcpyAsync(op.to + done, op.from + done, piece, cudaMemcpyDefault, run.stream()), "cudaMemcpyAsync");
    done += piece;
  }
}

void Launch(const FillOp& op, Run& run) {
  run.OtherQueued();
  Check(cudaMemsetAsync(op.to, op.value, op.size, run.stream()), "cudaMemsetAsync");
}

}  // namespace zi::cuda
