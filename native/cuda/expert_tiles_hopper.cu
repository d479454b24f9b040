// Tiles on an H100's own instructions, of weights that are stored as their values.
#include "cuda/expert_tiles_hopper.h"

namespace zi::cuda {

void LaunchHopperTiles(DType type, const DenseTileArguments& a, Run& run) { hopper::Launch<DenseTileWeights>(type, a, run); }

}  // namespace zi::cuda
