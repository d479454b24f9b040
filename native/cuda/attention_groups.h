// attention by rows on tensor cores, where heads and cache are of one 16-bit type and lie in groups of 16 bytes.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

/// False where heads or cache are or lie otherwise, which does not depend on how many tokens there are.
bool LaunchAttentionGroups(const AttentionOp& op, const AttentionWay& way, Run& run);

}  // namespace zi::cuda
