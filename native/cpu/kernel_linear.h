// linear: which way a product goes, by how its weights are stored.
#pragma once
#include "cpu/kernel_linear_columns.h"
#include "cpu/kernel_linear_rows.h"

namespace zi::ZI_ISA {

inline void LinearKernel(const LinearOp& op, Run& run) {
  if (op.input_major) {
    LinearColumns(op, run);
  } else {
    LinearRows(op, run);
  }
}

}  // namespace zi::ZI_ISA
