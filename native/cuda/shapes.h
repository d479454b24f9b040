// What kernels ask of views before they are launched: how many rows there are, where they begin, and how many blocks take them.
// Plain C++, so that it is asked where there is no CUDA as well.
#pragma once
#include <cstdint>

#include "ops/operand.h"

namespace zi::cuda {

inline int64_t RowCount(const View& view) {
  int64_t count = 1;
  for (int d = 0; d + 1 < view.rank; ++d) count *= view.shape[d];
  return count;
}
inline int64_t RowLength(const View& view) { return view.shape[view.rank - 1]; }

/// Every row begins at a multiple of `bytes`.
inline bool RowsAligned(const View& view, int64_t bytes) {
  const int64_t element = ElementBytes(view.dtype);
  bool aligned = reinterpret_cast<uintptr_t>(view.data) % bytes == 0;
  for (int d = 0; d + 1 < view.rank; ++d) aligned = aligned && (view.shape[d] <= 1 || view.strides[d] * element % bytes == 0);
  return aligned;
}

/// Whether eight neighbouring inputs of a stored weight share a scale, and their codes lie at a multiple of what they take.
inline bool EightsTogether(const Weight& weight) {
  const View& codes = weight.Part(WeightPart::kCodes);
  if (weight.input_group % 8 != 0 && weight.input_group < weight.inputs) return false;
  if (weight.Part(WeightPart::kGroups).data) return false;
  switch (weight.format) {
    case WeightFormat::kE4M3:
    case WeightFormat::kInt8:
    case WeightFormat::kPacked8:
      return RowsAligned(codes, 8);
    case WeightFormat::kPacked4:
    case WeightFormat::kFp4:
      return RowsAligned(codes, 4);
    case WeightFormat::kTable4:
      return weight.inputs % 8 == 0 && weight.input_group % 8 == 0 && RowsAligned(codes, 4);
    case WeightFormat::kAwq:
    case WeightFormat::kGptq:
    case WeightFormat::kDenseIn:
    case WeightFormat::kE4M3In:
      return true;
    case WeightFormat::kDense:
      break;
  }
  return false;
}

inline unsigned Blocks(int64_t work, int64_t each, int64_t most = 0x7fffffff) {
  const int64_t blocks = (work + each - 1) / each;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}
constexpr int64_t kMostGridRows = 65535;  // of a grid's second and third dimension

}  // namespace zi::cuda
