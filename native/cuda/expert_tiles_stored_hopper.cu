// Tiles on an H100's own instructions, of weights that are expanded on their way to shared memory.
#include "cuda/expert_tiles_hopper.h"
#include "cuda/expert_tiles_stored.h"

namespace zi::cuda {

void LaunchHopperTiles(DType type, const StoredTileArguments& a, Run& run) {
  hopper::Launch<StoredTileWeights>(type, a, run);
}

}  // namespace zi::cuda
