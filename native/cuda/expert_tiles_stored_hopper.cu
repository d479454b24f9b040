// Tiles on an H100's own instructions, of weights that are expanded on their way to shared memory.
#include "cuda/expert_tiles_fp4.h"
#include "cuda/expert_tiles_hopper.h"

namespace zi::cuda {

void LaunchHopperTiles(DType type, const StoredTileArguments& a, Run& run) {
  if (a.halves == 1 && ArePowersOfFp4(a)) return hopper::LaunchHalves<__nv_bfloat16, 1, Fp4TileWeights>(a, run);
  hopper::Launch<StoredTileWeights>(type, a, run);
}

}  // namespace zi::cuda
