// Products of a few tokens that wait for others of the same inputs, so that one kernel computes them together, and norms these
// inputs itself.
#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "cuda/ways.h"
#include "ops/operand.h"

namespace zi::cuda {

constexpr size_t kMostJoined = 3;
/// With more tokens it takes longer that every block norms them than that one kernel does for all.
constexpr int64_t kMostNormedTokens = 2;

/// A layer_norm, which centers, or an rms_norm.
struct NormOp {
  View out, x, weight, bias;
  float eps, weight_offset;
  bool centers;
};
/// Whether it is of rows of the residual stream, which norm.cu has a kernel for: longer than this, and at most so long.
constexpr int64_t kLeastHiddenLength = 512, kMostHiddenLength = 8 * 1024;
bool IsHiddenNorm(const NormOp& op);

/// How kernels whose blocks stay (few_streamed.h) take its weight and inputs, where they do.
std::optional<FragmentKind> StreamedKindOf(const LinearOp& op);

/// Products of the same inputs, and the norm that makes these.
struct Joined {
  std::optional<NormOp> norm;
  std::vector<LinearOp> products;
};

class JoinedProducts {
 public:
  /// False where one kernel cannot compute it with those that wait: inputs differ, or something of the others is overwritten.
  bool Add(const LinearOp& op);
  /// False where something waits, or products cannot norm their inputs so.
  bool Add(const NormOp& op);
  /// Those that wait, which then wait no longer: there may be nothing, or a norm alone.
  Joined Take() { return std::exchange(waiting_, {}); }

 private:
  bool Fits(const LinearOp& op) const;

  Joined waiting_;
};

}  // namespace zi::cuda
