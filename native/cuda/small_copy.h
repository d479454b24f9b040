// Copies that a kernel makes: copy engines take whole layers one after the other, and what a pass is told of its tokens would wait
// for all that are queued.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

inline bool IsSmallCopy(const CopyOp& op, const Run& run) {
  constexpr size_t kMostByKernel = size_t{1} << 20;
  return run.computes() && op.in_reach && op.size <= kMostByKernel;
}

}  // namespace zi::cuda
