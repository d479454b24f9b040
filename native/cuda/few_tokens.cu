// linear for a few tokens, where reading the weights rules.
#include "cuda/dot.h"
#include "cuda/run.h"

namespace zi::cuda {
namespace {

struct FewArguments {
  const uint8_t* weight;
  int64_t weight_stride, outputs, inputs;
  RowView x;
  int64_t x_stride;
  int tokens, first_token;
  RowView out;
  WeightVector bias;
  Activation activation;
  bool accumulate, aligned;
};

template <class W, class X, int T>
__global__ void __launch_bounds__(kDotThreads) FewTokens(const FewArguments a) {
  __shared__ float sums[kDotRows * T];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kDotRows;
  const W* rows[kDotRows];
#pragma unroll
  for (int r = 0; r < kDotRows; ++r) {
    // Rows beyond the last repeat it; their sums are not stored.
    const int64_t row = first + r < a.outputs ? first + r : a.outputs - 1;
    rows[r] = reinterpret_cast<const W*>(a.weight) + row * a.weight_stride;
  }
  DotRows<W, X, T>(rows, a.x.Row<X>(a.first_token), a.x_stride, a.inputs, a.aligned, sums);
  const int r = threadIdx.x / T, t = threadIdx.x % T;
  if (r >= kDotRows || t >= a.tokens || first + r >= a.outputs) return;
  float value = sums[threadIdx.x];
  if (a.bias.data) value += a.bias.At(first + r);
  value = Activate(a.activation, value);
  if (a.accumulate) value += a.out.Get(a.first_token + t, first + r);
  a.out.Put(a.first_token + t, first + r, value);
}

template <class W, class X>
void LaunchTyped(const FewArguments& a, cudaStream_t stream) {
  const unsigned blocks = Blocks(a.outputs, kDotRows);
  FewArguments part = a;
  // In groups whose size has a kernel; what a token gets does not depend on its group.
  while (part.tokens > 0) {
    int count = 1;
    if (part.tokens >= 8) {
      FewTokens<W, X, 8><<<blocks, kDotThreads, 0, stream>>>(part), count = 8;
    } else if (part.tokens >= 4) {
      FewTokens<W, X, 4><<<blocks, kDotThreads, 0, stream>>>(part), count = 4;
    } else if (part.tokens >= 2) {
      FewTokens<W, X, 2><<<blocks, kDotThreads, 0, stream>>>(part), count = 2;
    } else {
      FewTokens<W, X, 1><<<blocks, kDotThreads, 0, stream>>>(part);
    }
    part.tokens -= count;
    part.first_token += count;
  }
}

}  // namespace

void LaunchFewTokens(const LinearOp& op, Run& run) {
  const bool aligned = RowsAligned(op.weight, 16) && RowsAligned(op.x, 16);
  const FewArguments arguments{op.weight.data,
                               op.weight.strides[0],
                               op.weight.shape[0],
                               op.weight.shape[1],
                               RowView(op.x),
                               op.x.strides[0],
                               static_cast<int>(op.x.shape[0]),
                               0,
                               RowView(op.out),
                               WeightVector(op.bias),
                               op.activation,
                               op.accumulate,
                               aligned};
  const bool same = op.x.dtype == op.weight.dtype;
  switch (op.weight.dtype) {
    case DType::kF16:
      return same ? LaunchTyped<__half, __half>(arguments, run.stream) : LaunchTyped<__half, float>(arguments, run.stream);
    case DType::kBF16:
      return same ? LaunchTyped<__nv_bfloat16, __nv_bfloat16>(arguments, run.stream)
                  : LaunchTyped<__nv_bfloat16, float>(arguments, run.stream);
    default:
      return LaunchTyped<float, float>(arguments, run.stream);
  }
}

}  // namespace zi::cuda
