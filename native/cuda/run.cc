// Implements cuda/run.h, and the operations that are calls of the runtime: copies and fill.
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

void Run::Prepare(const std::vector<Decoded>& operations) {
  for (const Decoded& decoded : operations) {
    scratch_.Provide(ScratchOf(decoded.op));
    const auto* linear = std::get_if<LinearOp>(&decoded.op);
    if ((linear && !IsFewTokens(*linear)) || std::holds_alternative<ExpertLinearOp>(decoded.op)) products();
  }
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

namespace {

/// Bytes until a page-locked piece ends on either side, which no copy may cross; on a device the cut does no harm.
size_t PieceLeft(const uint8_t* to, const uint8_t* from) {
  return static_cast<size_t>(std::min(PieceEnd(to) - to, PieceEnd(from) - from));
}

void CopyInPieces(uint8_t* to, const uint8_t* from, size_t size, Run& run) {
  for (size_t done = 0; done < size;) {
    const size_t piece = std::min(size - done, PieceLeft(to + done, from + done));
    Check(cudaMemcpyAsync(to + done, from + done, piece, cudaMemcpyDefault, run.stream()), "cudaMemcpyAsync");
    done += piece;
  }
}

/// Rows that cross no end of a piece, in one call.
void CopyRowsAtOnce(const CopyRowsOp& op, Run& run) {
  if (op.to_place == op.from_place || op.to_place == kHostPlace || op.from_place == kHostPlace) {
    return Check(cudaMemcpy2DAsync(op.to, op.to_stride, op.from, op.from_stride, op.row, op.rows, cudaMemcpyDefault, run.stream()),
                 "cudaMemcpy2DAsync");
  }
  // Two devices, which need not reach each other.
  cudaMemcpy3DPeerParms copy{};
  copy.dstDevice = op.to_place;
  copy.dstPtr = {op.to, op.to_stride, op.row, op.rows};
  copy.srcDevice = op.from_place;
  copy.srcPtr = {const_cast<uint8_t*>(op.from), op.from_stride, op.row, op.rows};
  copy.extent = {op.row, op.rows, 1};
  Check(cudaMemcpy3DPeerAsync(&copy, run.stream()), "cudaMemcpy3DPeerAsync");
}

/// How many of the rows left lie before the end of a piece on a side that is so far from it.
size_t RowsBefore(size_t left, size_t stride, size_t row) { return left < row ? 0 : (left - row) / stride + 1; }

}  // namespace

void Launch(const CopyOp& op, Run& run) {
  if (IsSmallCopy(op, run)) {
    LaunchCopyBytes(op, run);
    // They may be weights, which kernels read before they begin.
    return run.OtherQueued();
  }
  run.OtherQueued();
  CopyInPieces(op.to, op.from, op.size, run);
}

void Launch(const CopyRowsOp& op, Run& run) {
  // The driver takes rows that are less than 2 GiB apart.
  constexpr size_t kMostStride = INT32_MAX;
  run.OtherQueued();
  if (op.to_stride == op.row && op.from_stride == op.row) return CopyInPieces(op.to, op.from, op.row * op.rows, run);
  const bool apart = std::max(op.to_stride, op.from_stride) > kMostStride;
  for (size_t done = 0; done < op.rows;) {
    CopyRowsOp part = op;
    part.to += done * op.to_stride;
    part.from += done * op.from_stride;
    part.rows = std::min({op.rows - done, RowsBefore(static_cast<size_t>(PieceEnd(part.to) - part.to), op.to_stride, op.row),
                          RowsBefore(static_cast<size_t>(PieceEnd(part.from) - part.from), op.from_stride, op.row)});
    if (part.rows < 2 || apart) {
      // One row by itself, which may cross the end of a piece.
      part.rows = 1;
      CopyInPieces(part.to, part.from, op.row, run);
    } else {
      CopyRowsAtOnce(part, run);
    }
    done += part.rows;
  }
}

void Launch(const FillOp& op, Run& run) {
  run.OtherQueued();
  Check(cudaMemsetAsync(op.to, op.value, op.size, run.stream()), "cudaMemsetAsync");
}

}  // namespace zi::cuda
