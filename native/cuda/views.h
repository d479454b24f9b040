// Views as kernels take them: rows of the innermost dimension, and vectors of weights, of three types each.
#pragma once
#include "cuda/shapes.h"
#include "cuda/values.h"
#include "ops/operand.h"

namespace zi::cuda {

/// All dimensions but the innermost, as one index of rows. The type is the same for all threads, so asking is cheap.
struct RowView {
  uint8_t* data;
  DType dtype;
  int64_t middle, inner;            // sizes of the last two of three outer dimensions
  int64_t stride0, stride1, stride2;  // in elements

  RowView() = default;
  explicit RowView(const View& view)
      : data(view.data), dtype(view.dtype), middle(1), inner(1), stride0(0), stride1(0), stride2(0) {
    const int outer = view.rank - 1;
    if (outer > 0) inner = view.shape[outer - 1], stride2 = view.strides[outer - 1];
    if (outer > 1) middle = view.shape[outer - 2], stride1 = view.strides[outer - 2];
    if (outer > 2) stride0 = view.strides[0];
  }
  __host__ __device__ int64_t Offset(int64_t row) const {
    if (middle == 1 && row < inner) return row * stride2;
    const int64_t i = row % inner, rest = row / inner;
    return rest / middle * stride0 + rest % middle * stride1 + i * stride2;
  }
  template <class T>
  __device__ T* Row(int64_t row) const {
    return reinterpret_cast<T*>(data) + Offset(row);
  }
  __device__ float Get(int64_t row, int64_t i) const { return GetAs(data, dtype, Offset(row) + i); }
  __device__ void Put(int64_t row, int64_t i, float value) const { PutAs(data, dtype, Offset(row) + i, value); }
  // Eight neighbours from a multiple of eight on; rows begin at multiples of 16 bytes.
  __device__ void GetEight(int64_t row, int64_t i, float (&to)[8]) const { GetEightAs(data, dtype, Offset(row) + i, to); }
  __device__ void PutEight(int64_t row, int64_t i, const float (&from)[8]) const {
    PutEightAs(data, dtype, Offset(row) + i, from);
  }
};

/// A vector of weights of any type; `data` may be null.
struct WeightVector {
  const uint8_t* data;
  DType dtype;
  WeightVector() = default;
  explicit WeightVector(const View& view) : data(view.data), dtype(view.dtype) {}
  __host__ __device__ WeightVector(const uint8_t* at, DType type) : data(at), dtype(type) {}
  __device__ float At(int64_t i) const { return GetAs(data, dtype, i); }
};

}  // namespace zi::cuda
