// Implements cuda/joined.h.
#include "cuda/joined.h"

#include <algorithm>

#include "cuda/inputs.h"
#include "cuda/ways.h"

namespace zi::cuda {
namespace {

/// Whether one kernel makes values of both.
bool Alike(const LinearOp& a, const LinearOp& b) {
  if (a.weight.format != b.weight.format || a.weight.type != b.weight.type) return false;
  const View &a_scales = a.weight.Part(WeightPart::kScales), &b_scales = b.weight.Part(WeightPart::kScales);
  return FragmentsOf(a) == FragmentsOf(b) && a_scales.dtype == b_scales.dtype;
}

bool Reads(const LinearOp& op, const View& written) {
  if (Overlaps(op.x, written)) return true;
  return std::any_of(std::begin(op.weight.parts), std::end(op.weight.parts),
                     [&](const View& part) { return part.data && Overlaps(part, written); });
}

}  // namespace

bool JoinedProducts::Add(const LinearOp& op) {
  if (!Fits(op)) return false;
  waiting_.push_back(op);
  return true;
}

bool JoinedProducts::Fits(const LinearOp& op) const {
  if (waiting_.empty()) return true;
  if (waiting_.size() == kMostJoined) return false;
  const LinearOp& first = waiting_.front();
  if (!SamePlace(op.x, first.x) || !Alike(op, first) || Reads(op, op.out)) return false;
  return std::none_of(waiting_.begin(), waiting_.end(), [&](const LinearOp& other) {
    return Overlaps(op.out, other.out) || Reads(op, other.out) || Reads(other, op.out);
  });
}

}  // namespace zi::cuda
