// Sums of more than a few tokens by blocks of a row each, which may norm what comes of it.
#pragma once
#include <optional>
#include <vector>

#include "cuda/run.h"

namespace zi::cuda {

/// False where it goes another way, which follows from shapes alone, so that all ranks go the same.
bool LaunchRowSums(const ReduceOp& op, const NormOp* norm, Run& run);
/// See PrepareSums.
void PrepareRowSums();

/// A sum that goes so and the norm of all of it.
struct NormedSum {
  ReduceOp sum;
  NormOp norm;
};
constexpr size_t kNormedSumOperations = 2;
/// None where the operations from the first on are others, or lie so that one kernel cannot do both.
std::optional<NormedSum> NormedSumAt(const std::vector<Decoded>& operations, size_t first);
void Launch(const NormedSum& normed, Run& run);

}  // namespace zi::cuda
