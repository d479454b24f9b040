// How chosen experts come to a device, behind the kernel that decides who comes to which slot.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

/// Parts of an expert that these kernels take.
constexpr int kMostParts = 64;

/// From page-locked host memory that holds all of them.
void LaunchBringing(const BringExpertsOp& op, Run& run);
/// Where they lie in the host's slots, or on the drive, and change places with those that leave: the kernel before has asked the host
/// for it. See ops/exchange.h.
void LaunchExchange(const BringExpertsOp& op, Run& run);

}  // namespace zi::cuda
