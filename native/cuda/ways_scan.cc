// The part of cuda/ways.h that is about state_scan.
#include <algorithm>

#include "cuda/shapes.h"
#include "cuda/ways.h"

namespace zi::cuda {

ScanWay WayOf(const StateScanOp& op) {
  const int64_t tokens = op.v.shape[0], heads = op.v.shape[1], length = op.v.shape[2], depth = op.k.shape[2];
  const int64_t sequences = op.sequences.shape[0];
  const auto is_bf16 = [](const View& view) { return view.dtype == DType::kBF16; };
  ScanWay way{};
  if (heads == 0) return way;
  // As where each sequence has one token; that some have none and others many is rare, and only slower.
  const bool all_few = tokens <= kScanFewTokens || tokens <= sequences;
  if (RowsAligned(op.state, 16) && length % 4 == 0 && depth <= kScanMostDepth) way.few_tokens = all_few ? tokens : kScanFewTokens;
  way.halves = is_bf16(op.q) && is_bf16(op.k) && is_bf16(op.v);
  const bool aligned = RowsAligned(op.q, 16) && RowsAligned(op.k, 16) && RowsAligned(op.v, 16) && RowsAligned(op.out, 16);
  const int64_t most_depth = way.halves ? kScanMostDepth : kScanMostDepth / 2;
  way.chunks = way.few_tokens > 0 && !all_few && aligned && length % 8 == 0 && depth % 8 == 0 && depth >= kScanLeastDepth &&
               depth <= most_depth;
  if (!way.chunks) return way;
  way.chunk_bytes = op.beta.data ? kScanChunkBytes : kPlainScanChunkBytes;
  way.numbers = tokens / kScanChunkTokens + sequences;
  const int64_t fitting = std::max(kScanScratchBytes / (way.chunk_bytes * heads), int64_t{1});
  const int64_t rounds = (way.numbers + fitting - 1) / fitting;
  way.each = (way.numbers + rounds - 1) / rounds;
  return way;
}

}  // namespace zi::cuda
