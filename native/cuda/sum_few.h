// Sums of a few tokens, in which nobody waits for flags: each word comes with its epoch.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

/// False where it goes another way, which follows from shapes alone, so that all ranks go the same.
bool LaunchFewSums(const ReduceOp& op, Run& run);
/// See PrepareSums.
void PrepareFewSums();

}  // namespace zi::cuda
