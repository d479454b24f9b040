// What operations on bytes receive, which no kernel computes with. Plain data only, as in operand.h.
#pragma once
#include <cstddef>
#include <cstdint>

namespace zi {

struct CopyOp {
  uint8_t* to;
  const uint8_t* from;
  size_t size;
  /// Kernels reach both sides where they lie.
  bool in_reach;
};
/// Rows of `row` bytes each, that far apart on either side.
struct CopyRowsOp {
  uint8_t* to;
  size_t to_stride;
  const uint8_t* from;
  size_t from_stride;
  size_t row, rows;
  /// Where the two memories are: a device, or kHostPlace.
  int to_place, from_place;
};
struct FillOp {
  uint8_t* to;
  size_t size;
  uint8_t value;
};

}  // namespace zi
