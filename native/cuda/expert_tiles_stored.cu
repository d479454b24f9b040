// Tiles of weights that are expanded on their way to shared memory.
#include "cuda/expert_tiles_stored.h"

#include "cuda/expert_tiles_any.h"

namespace zi::cuda {

void LaunchStoredTiles(DType type, int rows, const StoredTileArguments& a, Run& run) {
  if (rows == kHopperRows && run.generation() == 9) return LaunchHopperTiles(type, a, run);
  tiles::Launch<StoredTileWeights>(type, rows, a, run);
}

}  // namespace zi::cuda
