// Operations of a mixture's experts that are computed as one: see ExpertBlock.
#pragma once
#include <vector>

#include "cpu/kernels.h"
#include "ops/decode.h"

namespace zi {

/// How many operations from `first` on make a block, which is then in `block`; 0 where that one stands for itself.
size_t FindExpertBlock(const std::vector<Decoded>& operations, size_t first, ExpertBlock* block);

}  // namespace zi
