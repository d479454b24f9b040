// Experts that lie in the host's slots, or on the drive, exchange places with those that leave the device: see ops/exchange.h.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

/// Behind the kernel that decides who comes and asks the host for it.
void LaunchExchange(const BringExpertsOp& op, Run& run);

}  // namespace zi::cuda
