// Implements cuda/run.h, and the operations that are calls of the runtime: copy and fill.
#include "cuda/run.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cuda/pieces.h"
#include "cuda/products.h"

namespace zi::cuda {

uint8_t* Scratch::AtLeast(size_t size) {
  if (size <= size_) return data_;
  // cudaFree waits for the kernels that still use it.
  Check(cudaFree(data_), "cudaFree");
  data_ = nullptr;
  size_ = 0;
  ++version_;
  Check(cudaMalloc(reinterpret_cast<void**>(&data_), size), "cudaMalloc of scratch");
  size_ = size;
  return data_;
}

Run::Run(cudaStream_t on, Context& context, bool runs_kernels)
    : stream(on),
      fault(context.fault()),
      multiprocessors(context.multiprocessors()),
      computes(runs_kernels),
      context_(context) {}

Run::~Run() = default;

void UnknownType(DType dtype) {
  throw std::invalid_argument("no kernel of this operation takes type " + std::to_string(static_cast<int>(dtype)));
}

Products& Run::products() {
  if (!products_) products_ = std::make_unique<Products>(context_);
  return *products_;
}

void Run::Execute(const Decoded& decoded) {
  const bool linear = std::holds_alternative<LinearOp>(decoded.op);
  if (!linear) Flush();
  // Products say themselves what they overwrite.
  if (!linear && !std::holds_alternative<ExpertLinearOp>(decoded.op)) converted = {};
  std::visit([this](const auto& op) { Launch(op, *this); }, decoded.op);
}

void Run::Flush() {
  if (waiting.empty()) return;
  const std::vector<LinearOp> ops = std::exchange(waiting, {});
  LaunchFewTokens(ops, *this);
}

/// Copy engines take whole layers one after the other, and what a pass is told of its tokens would wait for all that are
/// queued.
constexpr size_t kMostByKernel = size_t{1} << 20;

void Launch(const CopyOp& op, Run& run) {
  if (run.computes && op.in_reach && op.size <= kMostByKernel) return LaunchCopyBytes(op, run);
  run.after_kernel = false;
  for (size_t done = 0; done < op.size;) {
    // Neither side may cross the end of a page-locked piece; on a device the cut does no harm.
    const size_t piece = std::min({op.size - done, static_cast<size_t>(PieceEnd(op.to + done) - (op.to + done)),
                                   static_cast<size_t>(PieceEnd(op.from + done) - (op.from + done))});
    Check(cudaMemcpyAsync(op.to + done, op.from + done, piece, cudaMemcpyDefault, run.stream), "cudaMemcpyAsync");
    done += piece;
  }
}

void Launch(const FillOp& op, Run& run) {
  run.after_kernel = false;
  Check(cudaMemsetAsync(op.to, op.value, op.size, run.stream), "cudaMemsetAsync");
}

}  // namespace zi::cuda
