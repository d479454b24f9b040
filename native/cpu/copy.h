// Moving and setting bytes of host memory as stream work.
#pragma once
#include "cpu/kernels.h"
#include "ops/operand_bytes.h"

namespace zi {

void CopyBytes(const CopyOp& op, Run& run);
void CopyByteRows(const CopyRowsOp& op, Run& run);
void FillBytes(const FillOp& op, Run& run);

}  // namespace zi
