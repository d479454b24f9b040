// linear for a few tokens, where reading the weights rules.
#include "cuda/dot.h"
#include "cuda/run.h"

namespace zi::cuda {
namespace {

struct FewArguments {
  const uint8_t* weight;
  int64_t weight_stride, outputs, inputs;
  const float* x;
  int64_t x_stride;
  int tokens;
  float* out;
  int64_t out_stride;
  WeightVector bias;
  Activation activation;
  bool accumulate, aligned;
};

template <class W, int T>
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
  DotRows<W, T>(rows, a.x, a.x_stride, a.inputs, a.aligned, sums);
  const int r = threadIdx.x / T, t = threadIdx.x % T;
  if (r >= kDotRows || t >= a.tokens || first + r >= a.outputs) return;
  float value = sums[threadIdx.x];
  if (a.bias.data) value += a.bias.At(first + r);
  value = Activate(a.activation, value);
  float* to = a.out + t * a.out_stride + first + r;
  *to = a.accumulate ? value + *to : value;
}

template <class W>
void LaunchTyped(const FewArguments& a, cudaStream_t stream) {
  const unsigned blocks = Blocks(a.outputs, kDotRows);
  FewArguments part = a;
  // In groups whose size has a kernel; what a token gets does not depend on its group.
  while (part.tokens > 0) {
    int count = 1;
    if (part.tokens >= 8) {
      FewTokens<W, 8><<<blocks, kDotThreads, 0, stream>>>(part), count = 8;
    } else if (part.tokens >= 4) {
      FewTokens<W, 4><<<blocks, kDotThreads, 0, stream>>>(part), count = 4;
    } else if (part.tokens >= 2) {
      FewTokens<W, 2><<<blocks, kDotThreads, 0, stream>>>(part), count = 2;
    } else {
      FewTokens<W, 1><<<blocks, kDotThreads, 0, stream>>>(part);
    }
    part.tokens -= count;
    part.x += count * part.x_stride;
    part.out += count * part.out_stride;
  }
}

}  // namespace

void LaunchFewTokens(const LinearOp& op, Run& run) {
  const bool aligned = RowsAligned(op.weight, 16) && RowsAligned(op.x, 16);
  const FewArguments arguments{op.weight.data,
                               op.weight.strides[0],
                               op.weight.shape[0],
                               op.weight.shape[1],
                               reinterpret_cast<const float*>(op.x.data),
                               op.x.strides[0],
                               static_cast<int>(op.x.shape[0]),
                               reinterpret_cast<float*>(op.out.data),
                               op.out.strides[0],
                               WeightVector(op.bias),
                               op.activation,
                               op.accumulate,
                               aligned};
  switch (op.weight.dtype) {
    case DType::kF16:
      return LaunchTyped<__half>(arguments, run.stream);
    case DType::kBF16:
      return LaunchTyped<__nv_bfloat16>(arguments, run.stream);
    default:
      return LaunchTyped<float>(arguments, run.stream);
  }
}

}  // namespace zi::cuda
