// Single values and groups of eight as floats, whatever type they are stored in.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "ops/operand.h"

namespace zi::cuda {

template <class T>
__device__ inline float Widen(T value);
template <>
__device__ inline float Widen(float value) {
  return value;
}
template <>
__device__ inline float Widen(__half value) {
  return __half2float(value);
}
template <>
__device__ inline float Widen(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

/// To nearest, ties to even.
template <class T>
__device__ inline T Narrow(float value);
template <>
__device__ inline float Narrow(float value) {
  return value;
}
template <>
__device__ inline __half Narrow(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 Narrow(float value) {
  return __float2bfloat16_rn(value);
}

/// Eight values at a multiple of 16 bytes.
template <class T>
__device__ inline void GetEight(const T* from, float (&to)[8]) {
  uint4 words[sizeof(T) / 2];
#pragma unroll
  for (size_t i = 0; i < sizeof(T) / 2; ++i) words[i] = reinterpret_cast<const uint4*>(from)[i];
  const T* values = reinterpret_cast<const T*>(words);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = Widen(values[i]);
}
template <class T>
__device__ inline void PutEight(T* to, const float (&from)[8]) {
  uint4 words[sizeof(T) / 2];
  T* values = reinterpret_cast<T*>(words);
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = Narrow<T>(from[i]);
#pragma unroll
  for (size_t i = 0; i < sizeof(T) / 2; ++i) reinterpret_cast<uint4*>(to)[i] = words[i];
}

/// Calls `use` with a null pointer of the type, so that its body is compiled for each.
template <class F>
__device__ inline void WithType(DType dtype, F use) {
  switch (dtype) {
    case DType::kF16:
      return use(static_cast<__half*>(nullptr));
    case DType::kBF16:
      return use(static_cast<__nv_bfloat16*>(nullptr));
    case DType::kF32:
      return use(static_cast<float*>(nullptr));
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  __trap();
}

__device__ inline float GetAs(const uint8_t* data, DType dtype, int64_t i) {
  float value = 0;
  WithType(dtype, [&](auto* type) { value = Widen(reinterpret_cast<const std::decay_t<decltype(*type)>*>(data)[i]); });
  return value;
}
__device__ inline void PutAs(uint8_t* data, DType dtype, int64_t i, float value) {
  WithType(dtype, [&](auto* type) {
    using T = std::decay_t<decltype(*type)>;
    reinterpret_cast<T*>(data)[i] = Narrow<T>(value);
  });
}
__device__ inline void GetEightAs(const uint8_t* data, DType dtype, int64_t i, float (&to)[8]) {
  WithType(dtype, [&](auto* type) { GetEight(reinterpret_cast<const std::decay_t<decltype(*type)>*>(data) + i, to); });
}
__device__ inline void PutEightAs(uint8_t* data, DType dtype, int64_t i, const float (&from)[8]) {
  WithType(dtype, [&](auto* type) { PutEight(reinterpret_cast<std::decay_t<decltype(*type)>*>(data) + i, from); });
}

}  // namespace zi::cuda
