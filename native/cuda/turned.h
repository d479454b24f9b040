// Rotations of a few tokens' queries and keys, and the store of these keys, as one kernel: it finds the sines once, and two kernels
// less are waited for in every layer.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

/// Operations that one kernel computes together, as if they came one after the other.
struct TurnedStore {
  const RotaryOp &q, &k;
  const KvStoreOp& store;
};
/// Nothing where the operations from `first` on are others, or not so that one kernel can.
std::optional<TurnedStore> TurnedStoreAt(const std::vector<Decoded>& operations, size_t first);
/// How many operations that are.
constexpr size_t kTurnedStoreOperations = 3;
void Launch(const TurnedStore& turned, Run& run);

}  // namespace zi::cuda
