// Brings chosen experts into slots as stream work.
#pragma once
#include "cpu/kernels.h"
#include "ops/weights.h"

namespace zi {

void BringExperts(const BringExpertsOp& op, Run& run);
/// The same product with experts at the places where they lie now. Throws where a chosen one lies in no slot.
ExpertLinearOp Placed(const ExpertLinearOp& op, const ExpertParts& places);
using ExpertKernel = void (*)(const ExpertLinearOp&, Run&);
/// The same product where experts may still be on their way from files: of one token each is taken when it is there, so that the
/// drive reads on meanwhile. Throws where reading failed.
void MultiplyAsTheyCome(const ExpertLinearOp& op, Run& run, ExpertKernel kernel);

}  // namespace zi
