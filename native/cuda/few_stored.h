// Products with weights that are stored in parts: the kernels that linear.cc chooses from.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

/// A few tokens on tensor cores, which take inputs in the values' 16-bit type; one kernel for up to kMostJoined products of one x.
void LaunchFewOnCores(const std::vector<LinearOp>& ops, Run& run);
/// The same by blocks that stay, for dense weights of 16 bits and normed inputs too; false where it has no kernel for them.
bool LaunchFewStreamed(const Joined& joined, Run& run);
/// A few tokens value by value from inputs that are f32, for everything that cores do not take.
void LaunchFewDots(const LinearOp& op, const View& x, Run& run);
/// Rows (outputs) from `first` on become values of the weight's type: [rows, K] of `to`, or [K, rows] of input-major formats.
void LaunchExpand(const Weight& weight, int64_t first, const View& to, Run& run);

}  // namespace zi::cuda
