// linear: which way a product goes, by how its weights are stored.
#pragma once
#include "cpu/kernel_linear_columns.h"
#include "cpu/kernel_linear_stored.h"

namespace zi::ZI_ISA {

inline void LinearKernel(const LinearOp& op, Run& run) {
  switch (op.weight.format) {
    case WeightFormat::kDense:
      return LinearRows(DenseOf(op), run);
    case WeightFormat::kDenseIn:
      return LinearColumns(DenseOf(op), run);
    case WeightFormat::kE4M3:
    case WeightFormat::kInt8:
    case WeightFormat::kPacked8:
    case WeightFormat::kPacked4:
    case WeightFormat::kFp4:
    case WeightFormat::kTable4:
    case WeightFormat::kAwq:
    case WeightFormat::kGptq:
    case WeightFormat::kE4M3In:
      return LinearStored(op, run);
  }
}

}  // namespace zi::ZI_ISA
