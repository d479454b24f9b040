// The host's side of experts that lie in its slots or on the drive: finds those that a device asks for, and reads the others.
#pragma once
#include "cpu/kernels.h"
#include "ops/exchange.h"

namespace zi {

/// Says of each expert where it is as soon as it is there. Throws where reading failed, and where what is asked makes no sense.
void FindExperts(const FindExpertsOp& op, Run& run);

}  // namespace zi
