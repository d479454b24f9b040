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
  __device__ void Put(int64_t token, int64_t output, float value) const {
    if (bias.data) value += bias.At(output);
    value = Activate(activation, value);
    if (accumulate) value += out.Get(token, output);
    out.Put(token, output, value);
  }
};

}  // namespace zi::cuda
