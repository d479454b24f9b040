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
  /// Eight neighbours from a multiple of eight on, but for those past the last of `outputs`. Together: rows begin at multiples of 16 bytes.
  __device__ void PutEight(int64_t token, int64_t output, int64_t outputs, float (&values)[8], bool together) const {
    if (bias.data) {
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] += output + i < outputs ? bias.At(output + i) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = Activate(activation, values[i]);
    if (together && output + 8 <= outputs) {
      if (accumulate) {
        float before[8];
        out.GetEight(token, output, before);
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] += before[i];
      }
      out.PutEight(token, output, values);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (output + i < outputs) out.Put(token, output + i, accumulate ? values[i] + out.Get(token, output + i) : values[i]);
    }
  }
};

}  // namespace zi::cuda
