// Activations and reductions that kernels share. Sums are taken in an order that depends on the block's shape alone.
#pragma once
#include "ops/operand.h"

namespace zi::cuda {

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;  // NaN stays
    case Activation::kRelu2:
      return x < 0.0f ? 0.0f : x * x;
    case Activation::kGelu:
      // From erfc, so that the tail of negative x does not cancel.
      return 0.5f * x * erfcf(-x * 0.70710678f);
    case Activation::kGeluTanh:
      // 0.5·x·(1 + tanh u) = x · sigmoid(2u), which does not cancel.
      return x * Sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
    case Activation::kGeluQuick:
      return x * Sigmoid(1.702f * x);
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kNone:
      return x;
  }
  __trap();
}

__device__ inline float WarpSum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}
__device__ inline float WarpMax(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}
__device__ inline double WarpSum(double value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

/// Over all threads of a block of at most 1024; every thread gets the result. `shared` holds 32 values.
template <class T>
__device__ inline T BlockSum(T value, T* shared) {
  value = WarpSum(value);
  __syncthreads();  // the values of the reduction before may still be read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  T total = 0;
  for (unsigned i = 0; i < (blockDim.x + 31) / 32; ++i) total += shared[i];
  return total;
}
__device__ inline float BlockMax(float value, float* shared) {
  value = WarpMax(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float largest = shared[0];
  for (unsigned i = 1; i < (blockDim.x + 31) / 32; ++i) largest = fmaxf(largest, shared[i]);
  return largest;
}

}  // namespace zi::cuda
