// Rows of a dense matrix to codes of fewer bits and scales: what `pack` writes. Nothing here knows files.
#pragma once
#include <cstdint>

#include "ops/operand.h"

namespace zi {

struct Kernels;
class ThreadPool;

/// What a value becomes. A row of codes is `code_stride` bytes long, and what no value fills is zero.
enum class QuantiseTo : uint8_t {
  kInt4,  // nibbles, lowest first, that hold q + 8
  kInt8,  // bytes that hold q + 128
  kE4M3,
};

/// Values [rows, inputs] at any address; codes; scales [rows, ⌈inputs / group⌉].
struct QuantiseJob {
  const uint8_t* values;
  DType dtype;
  QuantiseTo to;
  DType scale_dtype;
  int64_t rows, inputs, group;
  uint8_t* codes;
  int64_t code_stride;
  uint8_t* scales;
};

/// What was lost: sums of squares of the values and of the differences to what readers will make of the codes.
struct QuantiseLoss {
  double squares = 0;
  double lost_squares = 0;
  float largest = 0;
  /// The first value that is no finite number, counted from the job's first one; −1 where there is none.
  int64_t not_finite = -1;

  void Add(const QuantiseLoss& other);
};

/// Bytes of a row of codes.
int64_t CodeStride(QuantiseTo to, int64_t inputs);

/// Runs the whole job on the pool. Rows with values that are no finite numbers are not written.
QuantiseLoss Quantise(const QuantiseJob& job, const Kernels& kernels, ThreadPool& pool);

}  // namespace zi
