// Rows of stored weights become values in memory, which products of many tokens read instead.
#include "cuda/few_stored.h"
#include "cuda/overlap.h"
#include "cuda/stored_weights.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;

struct ExpandArguments {
  StoredWeight weight;
  int64_t first, rows, eights;  // of rows, and of the inputs, the last perhaps with fewer
  uint8_t* to;
  int64_t stride;
};

/// A thread per eight inputs of a row, neighbours beside each other. Rows of `to` begin at multiples of 16 bytes.
template <WeightFormat kFormat, class T>
__global__ void __launch_bounds__(kThreads) Expand(const __grid_constant__ ExpandArguments a) {
  Begin();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.rows * a.eights) return;
  const int64_t row = at / a.eights, k = at % a.eights * 8;
  const Cursor<kFormat> cursor(a.weight, a.first + row);
  T* const to = reinterpret_cast<T*>(a.to) + row * a.stride + k;
  if (k + 8 <= a.weight.inputs) {
    float values[8];
    cursor.LoadEight(k, values);
    PutEight(to, values);
    return;
  }
  for (int64_t i = 0; k + i < a.weight.inputs; ++i) to[i] = Narrow<T>(cursor.At(k + i));
}

/// The same into [K, rows], a lane per row.
template <WeightFormat kFormat, class T>
__global__ void __launch_bounds__(kThreads) ExpandInputMajor(const __grid_constant__ ExpandArguments a) {
  Begin();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.rows * a.eights) return;
  const int64_t row = at % a.rows, k = at / a.rows * 8;
  const Cursor<kFormat> cursor(a.weight, a.first + row);
  T* const to = reinterpret_cast<T*>(a.to) + k * a.stride + row;
  if (k + 8 <= a.weight.inputs) {
    float values[8];
    cursor.LoadEight(k, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i * a.stride] = Narrow<T>(values[i]);
    return;
  }
  for (int64_t i = 0; k + i < a.weight.inputs; ++i) to[i * a.stride] = Narrow<T>(cursor.At(k + i));
}

template <WeightFormat kFormat, class T>
void LaunchTyped(const ExpandArguments& a, Run& run) {
  const unsigned blocks = Blocks(a.rows * a.eights, kThreads);
  if constexpr (Cursor<kFormat>::kInputMajor) {
    Overlapped(ExpandInputMajor<kFormat, T>, blocks, kThreads, run, a);
  } else {
    Overlapped(Expand<kFormat, T>, blocks, kThreads, run, a);
  }
}

template <WeightFormat kFormat>
void LaunchFormat(const ExpandArguments& a, Run& run) {
  switch (a.weight.type) {
    case DType::kF16:
      return LaunchTyped<kFormat, __half>(a, run);
    case DType::kBF16:
      return LaunchTyped<kFormat, __nv_bfloat16>(a, run);
    case DType::kF32:
      return LaunchTyped<kFormat, float>(a, run);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(a.weight.type);
}

}  // namespace

void LaunchExpand(const Weight& weight, int64_t first, const View& to, Run& run) {
  const int64_t rows = to.shape[ExpandsInputMajor(weight.format) ? 1 : 0];
  const ExpandArguments a{StoredWeight(weight, run.fault()), first, rows, (weight.inputs + 7) / 8, to.data, to.strides[0]};
  if (a.rows * a.eights == 0) return;
  switch (weight.format) {
    case WeightFormat::kE4M3:
      return LaunchFormat<WeightFormat::kE4M3>(a, run);
    case WeightFormat::kInt8:
      return LaunchFormat<WeightFormat::kInt8>(a, run);
    case WeightFormat::kPacked8:
      return LaunchFormat<WeightFormat::kPacked8>(a, run);
    case WeightFormat::kPacked4:
      return LaunchFormat<WeightFormat::kPacked4>(a, run);
    case WeightFormat::kFp4:
      return LaunchFormat<WeightFormat::kFp4>(a, run);
    case WeightFormat::kTable4:
      return LaunchFormat<WeightFormat::kTable4>(a, run);
    case WeightFormat::kAwq:
      return LaunchFormat<WeightFormat::kAwq>(a, run);
    case WeightFormat::kGptq:
      return LaunchFormat<WeightFormat::kGptq>(a, run);
    case WeightFormat::kDense:
    case WeightFormat::kDenseIn:
      break;
  }
  UnknownFormat(weight.format);
}

}  // namespace zi::cuda
