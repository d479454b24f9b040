// layer_norm and rms_norm: a warp per short row, a block per long one, which keeps the row in registers where it can.
//
// With few rows, most of a norm's time passes before its first value: instructions and weights are fetched.
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// Up to this length (heads, small models) a warp does a row.
constexpr int64_t kWarpLength = kLeastHiddenLength;

struct NormArguments {
  RowView out, x;
  WeightVector weight, bias;
  float eps, weight_offset;
  int64_t rows, length;
  /// Rows of a weight, one per head, and the bytes from one to the next; 1 and 0 where all rows share it.
  int64_t heads, head_bytes;

  __device__ const uint8_t* WeightOf(int64_t row) const {
    return weight.data ? weight.data + row % heads * head_bytes : nullptr;
  }
};

/// Sum over the threads of a row: 32 of them, or the whole block.
template <int kRowThreads>
__device__ float RowSum(float value, float* shared) {
  if constexpr (kRowThreads == 32) {
    return WarpSum(value);
  } else {
    return BlockSum(value, shared);
  }
}

/// Any length and alignment.
template <int kRowThreads, bool kCenter>
__global__ void Norm(const NormArguments a) {
  Begin();
  __shared__ float shared[32];
  const int lane = threadIdx.x % kRowThreads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= a.rows) return;  // whole warps or whole blocks
  float mean = 0;
  if constexpr (kCenter) {
    float sum = 0;
    for (int64_t i = lane; i < a.length; i += kRowThreads) sum += a.x.Get(row, i);
    mean = RowSum<kRowThreads>(sum, shared) / static_cast<float>(a.length);
  }
  float squares = 0;
  for (int64_t i = lane; i < a.length; i += kRowThreads) {
    const float apart = a.x.Get(row, i) - mean;
    squares = fmaf(apart, apart, squares);
  }
  squares = RowSum<kRowThreads>(squares, shared);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(a.length) + a.eps);
  const WeightVector weight(a.WeightOf(row), a.weight.dtype);
  for (int64_t i = lane; i < a.length; i += kRowThreads) {
    const float factor = weight.data ? weight.At(i) + a.weight_offset : 1.0f;
    const float value = (a.x.Get(row, i) - mean) * inverse * factor;
    a.out.Put(row, i, a.bias.data ? value + a.bias.At(i) : value);
  }
}

/// A block per row of at most 8 · kThreads · kGroups values, in groups of eight, read once.
template <int kGroups, bool kCenter>
__global__ void __launch_bounds__(kThreads) NormInRegisters(const NormArguments a) {
  Begin();
  __shared__ float shared[32];
  const int64_t row = blockIdx.x;
  float values[kGroups][8];
  float sum = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t at = 8 * (static_cast<int64_t>(g) * kThreads + threadIdx.x);
    if (at < a.length) {
      a.x.GetEight(row, at, values[g]);
    } else {
      for (float& value : values[g]) value = 0;
    }
    for (const float value : values[g]) sum += value;
  }
  const float mean = kCenter ? BlockSum(sum, shared) / static_cast<float>(a.length) : 0.0f;
  float squares = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (8 * (static_cast<int64_t>(g) * kThreads + threadIdx.x) >= a.length) continue;
    for (const float value : values[g]) squares = fmaf(value - mean, value - mean, squares);
  }
  squares = BlockSum(squares, shared);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(a.length) + a.eps);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t at = 8 * (static_cast<int64_t>(g) * kThreads + threadIdx.x);
    if (at >= a.length) continue;
    float weight[8], bias[8] = {};
    if (const uint8_t* data = a.WeightOf(row)) {
      GetEightAs(data, a.weight.dtype, at, weight);
#pragma unroll
      for (float& one : weight) one += a.weight_offset;
    } else {
#pragma unroll
      for (float& one : weight) one = 1.0f;
    }
    if (a.bias.data) GetEightAs(a.bias.data, a.bias.dtype, at, bias);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[g][i] = fmaf((values[g][i] - mean) * inverse, weight[i], bias[i]);
    }
    a.out.PutEight(row, at, values[g]);
  }
}

/// What blocks' norms of the residual stream have: rows of f32, a weight, and a bias of its type or none.
template <class W, class O>
struct HiddenArguments {
  O* out;
  const float* x;
  const W *weight, *bias;
  int64_t out_stride, x_stride;
  float eps, weight_offset;
  int length;
};

/// A block per row, and a thread per eight values of it.
template <class W, class O, bool kCenter>
__global__ void __launch_bounds__(1024) NormOfHidden(const HiddenArguments<W, O> a) {
  __shared__ float shared[32];
  const int at = 8 * threadIdx.x;
  const bool there = at < a.length;
  float weight[8] = {}, bias[8] = {}, values[8] = {};
  if (there) GetEight(a.weight + at, weight);
  if (there && a.bias) GetEight(a.bias + at, bias);
  Begin();
  if (there) GetEight(a.x + blockIdx.x * a.x_stride + at, values);
  const auto count = static_cast<float>(a.length);
  float mean = 0;
  if constexpr (kCenter) {
    float sum = 0;
    for (const float value : values) sum += value;
    mean = BlockSum(sum, shared) / count;
  }
  float squares = 0;
  for (const float value : values) squares = fmaf(value - mean, value - mean, squares);
  const float inverse = 1.0f / sqrtf(BlockSum(there ? squares : 0.0f, shared) / count + a.eps);
  if (!there) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = fmaf((values[i] - mean) * inverse, weight[i] + a.weight_offset, bias[i]);
  PutEight(a.out + blockIdx.x * a.out_stride + at, values);
}

bool Aligned(const uint8_t* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

template <class W, class O, bool kCenter>
void LaunchHidden(const View& out, const NormArguments& a, const View& x, Run& run) {
  const HiddenArguments<W, O> hidden{reinterpret_cast<O*>(out.data),
                                     reinterpret_cast<const float*>(x.data),
                                     reinterpret_cast<const W*>(a.weight.data),
                                     reinterpret_cast<const W*>(a.bias.data),
                                     out.strides[0],
                                     x.strides[0],
                                     a.eps,
                                     a.weight_offset,
                                     static_cast<int>(a.length)};
  const auto threads = static_cast<unsigned>((a.length / 8 + 31) / 32 * 32);
  Overlapped(NormOfHidden<W, O, kCenter>, Blocks(a.rows, 1), threads, run, hidden);
}

template <bool kCenter>
void LaunchHidden(const NormOp& op, const NormArguments& a, Run& run) {
  const View &out = op.out, &x = op.x;
  const bool floats = out.dtype == DType::kF32;
  if (a.weight.dtype == DType::kF16) {
    floats ? LaunchHidden<__half, float, kCenter>(out, a, x, run) : LaunchHidden<__half, __half, kCenter>(out, a, x, run);
  } else if (a.weight.dtype == DType::kBF16) {
    floats ? LaunchHidden<__nv_bfloat16, float, kCenter>(out, a, x, run)
           : LaunchHidden<__nv_bfloat16, __nv_bfloat16, kCenter>(out, a, x, run);
  } else {
    LaunchHidden<float, float, kCenter>(out, a, x, run);
  }
}

template <bool kCenter>
void LaunchCentered(const NormOp& op, Run& run) {
  const auto& [out, x, weight, bias, eps, offset, centers] = op;
  const bool per_head = weight.data && weight.rank == 2;
  const NormArguments a{RowView(out),
                        RowView(x),
                        WeightVector(weight),
                        WeightVector(bias),
                        eps,
                        offset,
                        RowCount(x),
                        RowLength(x),
                        per_head ? weight.shape[0] : 1,
                        per_head ? weight.strides[0] * ElementBytes(weight.dtype) : 0};
  if (a.rows == 0 || a.length == 0) return;
  const unsigned blocks = Blocks(a.rows, 1);
  const bool eights = a.length % 8 == 0 && RowsAligned(out, 16) && RowsAligned(x, 16) && Aligned(weight.data) &&
                      (!per_head || RowsAligned(weight, 16)) && Aligned(bias.data);
  if (IsHiddenNorm(op)) return LaunchHidden<kCenter>(op, a, run);
  if (a.length <= kWarpLength) {
    Overlapped(Norm<32, kCenter>, Blocks(a.rows, kThreads / 32), kThreads, run, a);
  } else if (eights && a.length <= 8 * kThreads) {
    Overlapped(NormInRegisters<1, kCenter>, blocks, kThreads, run, a);
  } else if (eights && a.length <= 16 * kThreads) {
    Overlapped(NormInRegisters<2, kCenter>, blocks, kThreads, run, a);
  } else if (eights && a.length <= 32 * kThreads) {
    Overlapped(NormInRegisters<4, kCenter>, blocks, kThreads, run, a);
  } else if (eights && a.length <= 64 * kThreads) {
    Overlapped(NormInRegisters<8, kCenter>, blocks, kThreads, run, a);
  } else {
    Overlapped(Norm<kThreads, kCenter>, blocks, kThreads, run, a);
  }
}

}  // namespace

void LaunchNorm(const NormOp& op, Run& run) { op.centers ? LaunchCentered<true>(op, run) : LaunchCentered<false>(op, run); }

void Launch(const LayerNormOp& op, Run& run) {
  run.Join(NormOp{op.out, op.x, op.weight, op.bias, op.eps, op.weight_offset, true});
}

void Launch(const RmsNormOp& op, Run& run) {
  run.Join(NormOp{op.out, op.x, op.weight, View{}, op.eps, op.weight_offset, false});
}

}  // namespace zi::cuda
