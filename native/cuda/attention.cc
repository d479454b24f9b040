// attention: whose kernels it takes.
#include "cuda/attention_groups.h"

namespace zi::cuda {
namespace {

/// Whether keys and values must become what attention computes with.
bool IsStored(const AttentionOp& op) { return op.keys.dtype != op.q.dtype; }

void LaunchTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  switch (op.q.dtype) {
    case DType::kF32:
      return LaunchFloatTiles(op, fewer_tokens, run);
    case DType::kF16:
    case DType::kBF16:
      return IsStored(op) ? LaunchStoredHalfTiles(op, fewer_tokens, run) : LaunchHalfTiles(op, fewer_tokens, run);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(op.q.dtype);
}

}  // namespace

void Launch(const AttentionOp& op, Run& run) {
  if (op.q.shape[0] == 0 || op.q.shape[1] == 0 || op.out.shape[2] == 0) return;
  AttentionWay way = WayOf(op);
  if (way.wide && run.shared_memory().of_block < kWideSharedBytes) way = RowsOf(op);
  if (way.tiles) way.wide ? LaunchWideTiles(op, way, run) : LaunchTiles(op, way.most_tokens, run);
  if (way.wide && way.wide->few) return LaunchWideParts(op, way, run);
  if (LaunchAttentionGroups(op, way, run)) return;
  IsStored(op) ? LaunchStoredRows(op, way, run) : LaunchAttentionRows(op, way, run);
}

}  // namespace zi::cuda
