// Products of a few tokens that wait for others of the same inputs, so that one kernel computes them together.
#pragma once
#include <utility>
#include <vector>

#include "ops/operand.h"

namespace zi::cuda {

constexpr size_t kMostJoined = 3;

class JoinedProducts {
 public:
  /// False where one kernel cannot compute it with those that wait: inputs differ, or something of the others is overwritten.
  bool Add(const LinearOp& op);
  /// Those that wait, which then wait no longer.
  std::vector<LinearOp> Take() { return std::exchange(waiting_, {}); }

 private:
  bool Fits(const LinearOp& op) const;

  std::vector<LinearOp> waiting_;
};

}  // namespace zi::cuda
