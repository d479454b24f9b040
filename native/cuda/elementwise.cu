// add, gated, scale_cap and combine; and what goes before and after products: conversion of inputs, bias, activation.
#include "cuda/math.h"
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;

/// f(row, column) for every element; rows beyond the grid's limit are taken in turns.
template <class F>
__global__ void ForEach(F f, int64_t rows, int64_t columns) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) f(row, column);
}

/// `f.template operator()` takes V neighbouring columns at once; V is 4 where every operand allows it.
template <class F>
void LaunchForEach(F f, int64_t rows, int64_t columns, Run& run) {
  if (rows == 0 || columns == 0) return;
  const dim3 grid(Blocks(columns, kThreads), Blocks(rows, 1, kMostGridRows));
  ForEach<<<grid, kThreads, 0, run.stream>>>(f, rows, columns);
}

struct AddF {
  RowView out, a, b;
  __device__ void operator()(int64_t r, int64_t c) const { out.Row(r)[c] = a.Row(r)[c] + b.Row(r)[c]; }
};
struct Add4F {
  RowView out, a, b;
  __device__ void operator()(int64_t r, int64_t c) const {
    const float4 x = reinterpret_cast<const float4*>(a.Row(r))[c], y = reinterpret_cast<const float4*>(b.Row(r))[c];
    reinterpret_cast<float4*>(out.Row(r))[c] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
  }
};
struct GatedF {
  RowView out, gate, up;
  Activation activation;
  __device__ void operator()(int64_t r, int64_t c) const {
    out.Row(r)[c] = Activate(activation, gate.Row(r)[c]) * up.Row(r)[c];
  }
};
struct ScaleCapF {
  RowView x;
  float scale, cap;
  __device__ void operator()(int64_t r, int64_t c) const {
    float& value = x.Row(r)[c];
    value = cap == 0 ? value * scale : cap * tanhf(value * (scale / cap));
  }
};
struct CombineF {
  RowView x, y, weights;
  int64_t each;
  __device__ void operator()(int64_t t, int64_t c) const {
    float sum = x.Row(t)[c];
    for (int64_t j = 0; j < each; ++j) sum = fmaf(weights.Row(t)[j], y.Row(t * each + j)[c], sum);
    x.Row(t)[c] = sum;
  }
};
struct FinishF {
  RowView out;
  const float* from;
  int64_t from_stride;
  WeightVector bias;
  Activation activation;
  bool accumulate;
  __device__ void operator()(int64_t r, int64_t c) const {
    float value = from[r * from_stride + c];
    if (bias.data) value += bias.At(c);
    value = Activate(activation, value);
    float* to = out.Row(r) + c;
    *to = accumulate ? value + *to : value;
  }
};
template <class T>
__device__ T Narrow(float value);
template <>
__device__ __half Narrow(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __nv_bfloat16 Narrow(float value) {
  return __float2bfloat16_rn(value);
}
/// Pairs, so that stores are of 4 bytes; the stride is even.
template <class T>
struct ConvertF {
  RowView x;
  T* to;
  int64_t stride, columns;
  __device__ void operator()(int64_t r, int64_t pair) const {
    const float* from = x.Row(r) + 2 * pair;
    T* at = to + r * stride + 2 * pair;
    at[0] = Narrow<T>(from[0]);
    if (2 * pair + 1 < columns) at[1] = Narrow<T>(from[1]);
  }
};

}  // namespace

void Launch(const AddOp& op, Run& run) {
  const int64_t length = RowLength(op.out);
  if (length % 4 == 0 && RowsAligned(op.out, 16) && RowsAligned(op.a, 16) && RowsAligned(op.b, 16)) {
    return LaunchForEach(Add4F{RowView(op.out), RowView(op.a), RowView(op.b)}, RowCount(op.out), length / 4, run);
  }
  LaunchForEach(AddF{RowView(op.out), RowView(op.a), RowView(op.b)}, RowCount(op.out), length, run);
}

void Launch(const GatedOp& op, Run& run) {
  LaunchForEach(GatedF{RowView(op.out), RowView(op.gate), RowView(op.up), op.activation}, RowCount(op.out),
                RowLength(op.out), run);
}

void Launch(const ScaleCapOp& op, Run& run) {
  LaunchForEach(ScaleCapF{RowView(op.x), op.scale, op.soft_cap}, RowCount(op.x), RowLength(op.x), run);
}

void Launch(const CombineOp& op, Run& run) {
  LaunchForEach(CombineF{RowView(op.x), RowView(op.y), RowView(op.weights), op.weights.shape[1]}, op.x.shape[0],
                op.x.shape[1], run);
}

void LaunchFinish(const LinearOp& op, const float* from, int64_t from_stride, Run& run) {
  LaunchForEach(FinishF{RowView(op.out), from, from_stride, WeightVector(op.bias), op.activation, op.accumulate},
                op.out.shape[0], op.out.shape[1], run);
}

void LaunchConvert(const View& x, DType to_type, uint8_t* to, int64_t stride, Run& run) {
  const int64_t columns = x.shape[1], pairs = (columns + 1) / 2;
  if (to_type == DType::kF16) {
    LaunchForEach(ConvertF<__half>{RowView(x), reinterpret_cast<__half*>(to), stride, columns}, x.shape[0], pairs, run);
  } else {
    LaunchForEach(ConvertF<__nv_bfloat16>{RowView(x), reinterpret_cast<__nv_bfloat16*>(to), stride, columns},
                  x.shape[0], pairs, run);
  }
}

}  // namespace zi::cuda
