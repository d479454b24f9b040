// attention: sequences with a few new tokens go to the kernel that splits the context, those with many to the tiles.
#include "cuda/run.h"

namespace zi::cuda {
namespace {
/// From this many new tokens of a sequence on, a tile of 64 is filled well enough.
constexpr int64_t kTileTokens = 16;
}  // namespace

void Launch(const AttentionOp& op, Run& run) {
  const int64_t tokens = op.q.shape[0], heads = op.q.shape[1], depth = op.q.shape[2];
  if (tokens == 0 || heads == 0 || depth == 0) return;
  // Which sequences have many tokens only the device knows; here it is known whether there can be any, or others.
  const bool floats = op.q.dtype == DType::kF32;
  const bool tiles = depth <= (floats ? kFloatTileDepth : kHalfTileDepth) && tokens >= kTileTokens &&
                     tokens > op.sequences.shape[0];
  if (tiles && floats) LaunchFloatTiles(op, kTileTokens - 1, run);
  if (tiles && !floats) LaunchHalfTiles(op, kTileTokens - 1, run);
  LaunchAttentionRows(op, tiles ? kTileTokens - 1 : tokens, run);
}

}  // namespace zi::cuda
