// Two products of the same inputs with weights of one shape, wherever these lie, as one call of the library: small ones, such as keys'
// and values', leave most of the device idle by themselves.
#pragma once
#include <optional>
#include <vector>

#include "cuda/run.h"

namespace zi::cuda {

struct PairedProducts {
  LinearOp first, second;
};
constexpr size_t kPairedOperations = 2;
/// None where the operations from the first on are others, or have many tokens, for which either fills the device.
std::optional<PairedProducts> PairAt(const std::vector<Decoded>& operations, size_t first);
void Launch(const PairedProducts& pair, Run& run);

}  // namespace zi::cuda
