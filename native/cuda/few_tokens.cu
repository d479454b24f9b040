// linear for a few tokens, where reading the weights rules: one kernel for products of the same inputs.
#include <algorithm>

#include "cuda/dot.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

/// How much the next kernel brings to the L2 cache while the kernel before it ends: less than half of an H100's cache.
constexpr int64_t kPrefetchBytes = 16 << 20;
/// About as many blocks as are on an H100 at once.
constexpr int64_t kBlocksAtOnce = 1024;

/// One of the products.
struct Part {
  const uint8_t* weight;
  int64_t weight_stride, outputs;
  RowView out;
  WeightVector bias;
  Activation activation;
  bool accumulate, aligned;
  unsigned first_block;
  uint32_t prefetch_bytes;  // of each row
};

struct FewArguments {
  Part parts[kMostJoined];
  int count;
  int64_t inputs;
  RowView x;
  int64_t x_stride;
  int tokens, first_token;
};

template <class W, class X, int T>
__global__ void __launch_bounds__(kDotThreads) FewTokens(const __grid_constant__ FewArguments a) {
  __shared__ float sums[kDotRows * T];
  int index = a.count - 1;
  while (index > 0 && blockIdx.x < a.parts[index].first_block) --index;
  const Part& part = a.parts[index];
  const int64_t first = static_cast<int64_t>(blockIdx.x - part.first_block) * kDotRows;
  DenseRow<W> rows[kDotRows];
#pragma unroll
  for (int r = 0; r < kDotRows; ++r) {
    // Rows beyond the last repeat it; their sums are not stored.
    const int64_t row = first + r < part.outputs ? first + r : part.outputs - 1;
    rows[r].data = reinterpret_cast<const W*>(part.weight) + row * part.weight_stride;
    if (threadIdx.x == r && part.prefetch_bytes > 0) Prefetch(rows[r].data, part.prefetch_bytes);
  }
  Begin();
  const int64_t first_token = a.first_token + static_cast<int64_t>(blockIdx.y) * T;
  DotRows<X, T>(rows, a.x.Row<X>(first_token), a.x_stride, a.inputs, part.aligned, sums);
  const int r = threadIdx.x / T, t = threadIdx.x % T;
  if (r >= kDotRows || t >= a.tokens || first + r >= part.outputs) return;
  float value = sums[threadIdx.x];
  if (part.bias.data) value += part.bias.At(first + r);
  value = Activate(part.activation, value);
  if (part.accumulate) value += part.out.Get(first_token + t, first + r);
  part.out.Put(first_token + t, first + r, value);
}

template <class W, class X>
void LaunchTyped(FewArguments a, unsigned blocks, Run& run) {
  // In groups whose size has a kernel; what a token gets does not depend on its group.
  while (a.tokens > 0) {
    int count = 1;
    if (a.tokens >= 8) {
      count = a.tokens / 8 * 8;
      Overlapped(FewTokens<W, X, 8>, dim3(blocks, static_cast<unsigned>(count) / 8), kDotThreads, run, a);
    } else if (a.tokens >= 4) {
      Overlapped(FewTokens<W, X, 4>, blocks, kDotThreads, run, a), count = 4;
    } else if (a.tokens >= 2) {
      Overlapped(FewTokens<W, X, 2>, blocks, kDotThreads, run, a), count = 2;
    } else {
      Overlapped(FewTokens<W, X, 1>, blocks, kDotThreads, run, a);
    }
    a.tokens -= count;
    a.first_token += count;
  }
}

}  // namespace

void LaunchFewTokens(const std::vector<DenseLinearOp>& ops, Run& run) {
  const DenseLinearOp& first = ops.front();
  const View& x = first.x;
  FewArguments arguments{};
  arguments.inputs = first.weight.shape[1];
  arguments.x = RowView(x);
  arguments.x_stride = x.strides[0];
  arguments.tokens = static_cast<int>(x.shape[0]);
  unsigned blocks = 0;
  for (const DenseLinearOp& op : ops) {
    const bool aligned = RowsAligned(op.weight, 16) && RowsAligned(x, 16);
    arguments.parts[arguments.count++] = {op.weight.data, op.weight.strides[0], op.weight.shape[0], RowView(op.out),
                                          WeightVector(op.bias), op.activation, op.accumulate, aligned, blocks, 0};
    blocks += Blocks(op.weight.shape[0], kDotRows);
  }
  const int64_t row_bytes = arguments.inputs * ElementBytes(first.weight.dtype);
  const int64_t each = kPrefetchBytes / (std::min<int64_t>(blocks, kBlocksAtOnce) * kDotRows);
  for (Part& part : arguments.parts) {
    if (part.aligned) part.prefetch_bytes = static_cast<uint32_t>(std::min(row_bytes, each) / 16 * 16);
  }
  const bool same = x.dtype == first.weight.dtype;
  switch (first.weight.dtype) {
    case DType::kF16:
      return same ? LaunchTyped<__half, __half>(arguments, blocks, run) : LaunchTyped<__half, float>(arguments, blocks, run);
    case DType::kBF16:
      return same ? LaunchTyped<__nv_bfloat16, __nv_bfloat16>(arguments, blocks, run)
                  : LaunchTyped<__nv_bfloat16, float>(arguments, blocks, run);
    case DType::kF32:
      return LaunchTyped<float, float>(arguments, blocks, run);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(first.weight.dtype);
}

}  // namespace zi::cuda
