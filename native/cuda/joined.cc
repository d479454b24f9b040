// Implements cuda/joined.h.
#include "cuda/joined.h"

#include "cuda/inputs.h"

namespace zi::cuda {

bool JoinedProducts::Add(const DenseLinearOp& op) {
  if (!Fits(op)) return false;
  waiting_.push_back(op);
  return true;
}

bool JoinedProducts::Fits(const DenseLinearOp& op) const {
  if (waiting_.empty()) return true;
  if (waiting_.size() == kMostJoined) return false;
  const DenseLinearOp& first = waiting_.front();
  if (!SamePlace(op.x, first.x) || op.weight.dtype != first.weight.dtype) return false;
  for (const DenseLinearOp& other : waiting_) {
    if (Overlaps(op.out, other.out) || Overlaps(op.weight, other.out) || Overlaps(op.out, other.weight)) return false;
  }
  return !Overlaps(op.out, op.x) && !Overlaps(first.out, first.x);
}

}  // namespace zi::cuda
