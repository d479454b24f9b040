// The device's side of experts that lie in the host's slots or on the drive, where the device is the processor as well: see
// ops/exchange.h.
#pragma once
#include "cpu/kernels.h"

namespace zi {

/// Who comes and who leaves for that, which is negative where nobody does.
struct Exchanged {
  int32_t comes, comes_uses, leaves, leaves_uses, leaves_stamp;
};

/// Asks for all that come, whose slots op.list says. Then exchanges their bytes with those that leave, each as soon as it is there.
/// Call AwaitHost before.
void ExchangeExperts(const BringExpertsOp& op, const Exchanged* all, int32_t count, Run& run);

}  // namespace zi
