// What becomes of the sums of a product: bias, activation, and what was there before.
#pragma once
#include "cuda/math.h"
#include "cuda/views.h"

namespace zi::cuda {

struct Finish {
  RowView out;
  WeightVector bias;
  Activation activation;
  bool accumulate;

  Finish() = default;
  explicit Finish(const LinearOp& op)
      : out(op.out), bias(op.bias), activation(op.activation), accumulate(op.accumulate) {}
  /// What is added to a sum, which may be read before the sum is known.
  struct Added {
    float bias, before;
  };
  __device__ Added Read(int64_t token, int64_t output) const {
    return {bias.data ? bias.At(output) : 0.0f, accumulate ? out.Get(token, output) : 0.0f};
  }
  __device__ void Put(int64_t token, int64_t output, float value, const Added& added) const {
    if (bias.data) value += added.bias;
    value = Activate(activation, value);
    if (accumulate) value += added.before;
    out.Put(token, output, value);
  }
  __device__ void Put(int64_t token, int64_t output, float value) const { Put(token, output, value, Read(token, output)); }
};

}  // namespace zi::cuda
