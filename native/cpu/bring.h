// Brings chosen experts into slots as stream work.
#pragma once
#include "cpu/kernels.h"
#include "ops/weights.h"

namespace zi {

void BringExperts(const BringExpertsOp& op, Run& run);
/// The same product with experts at the places where they lie now. Throws where a chosen one lies in no slot.
ExpertLinearOp Placed(const ExpertLinearOp& op, const ExpertParts& places);

}  // namespace zi
