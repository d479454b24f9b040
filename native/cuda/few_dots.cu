// linear for a few tokens with weights stored in any format, value by value in f32: what tensor cores do not take. Stored bytes
// are read once, by neighbouring lanes where they are neighbours.
#include <algorithm>

#include "cuda/dot.h"
#include "cuda/few_stored.h"
#include "cuda/finish.h"
#include "cuda/overlap.h"
#include "cuda/stored_weights.h"

namespace zi::cuda {
namespace {

struct DotArguments {
  StoredWeight weight;
  Finish finish;
  const float* x;
  int64_t x_stride;
  bool aligned;
  int tokens, first_token;
};

/// Tokens beyond the last repeat it; their sums are not stored.
__device__ const float* Token(const DotArguments& a, const float* x, int t) { return x + min(t, a.tokens - 1) * a.x_stride; }

/// Lanes along the inputs, a few rows per block.
template <WeightFormat kFormat, int T>
__global__ void __launch_bounds__(kDotThreads) DotsAlongInputs(const __grid_constant__ DotArguments a) {
  __shared__ float sums[kDotRows * T];
  static_assert(kDotRows == 4);
  Begin();
  const int64_t outputs = a.weight.outputs, first = static_cast<int64_t>(blockIdx.x) * kDotRows;
  // Rows beyond the last repeat it; their sums are not stored.
  const auto row = [&](int r) { return min(first + r, outputs - 1); };
  const Cursor<kFormat> rows[kDotRows] = {{a.weight, row(0)}, {a.weight, row(1)}, {a.weight, row(2)}, {a.weight, row(3)}};
  DotRows<float, T>(rows, a.x + a.first_token * a.x_stride, a.x_stride, a.weight.inputs, a.aligned, sums,
                    min(a.tokens, T) - 1);
  const int r = threadIdx.x / T, t = threadIdx.x % T;
  if (r < kDotRows && t < a.tokens && first + r < outputs) a.finish.Put(a.first_token + t, first + r, sums[threadIdx.x]);
}

constexpr int kWarps = 8;

/// Lanes along the outputs, each warp some of the inputs, eight at a time.
template <WeightFormat kFormat, int T>
__global__ void __launch_bounds__(32 * kWarps) DotsAlongOutputs(const __grid_constant__ DotArguments a) {
  __shared__ float parts[kWarps][T][32];
  Begin();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t outputs = a.weight.outputs, inputs = a.weight.inputs, output = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  const Cursor<kFormat> row(a.weight, min(output, outputs - 1));
  const float* const x = a.x + a.first_token * a.x_stride;
  float sums[T] = {};
  const int64_t whole = inputs / 8 * 8;
#pragma unroll 2
  for (int64_t k = warp * 8; k < whole; k += kWarps * 8) {
    float weights[8];
    row.LoadEight(k, weights);
#pragma unroll
    for (int t = 0; t < T; ++t) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[t] = fmaf(weights[i], Token(a, x, t)[k + i], sums[t]);
    }
  }
  for (int64_t k = whole + warp; k < inputs; k += kWarps) {
    const float weight = row.At(k);
#pragma unroll
    for (int t = 0; t < T; ++t) sums[t] = fmaf(weight, Token(a, x, t)[k], sums[t]);
  }
#pragma unroll
  for (int t = 0; t < T; ++t) parts[warp][t][lane] = sums[t];
  __syncthreads();
  const int t = warp;
  if (t >= a.tokens || t >= T || output >= outputs) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += parts[w][t][lane];
  a.finish.Put(a.first_token + t, output, sum);
}

template <WeightFormat kFormat, int T>
void LaunchSome(const DotArguments& a, Run& run) {
  static_assert(T <= kWarps);
  if constexpr (Cursor<kFormat>::kInputMajor) {
    Overlapped(DotsAlongOutputs<kFormat, T>, Blocks(a.weight.outputs, 32), 32 * kWarps, run, a);
  } else {
    Overlapped(DotsAlongInputs<kFormat, T>, Blocks(a.weight.outputs, kDotRows), kDotThreads, run, a);
  }
}

template <WeightFormat kFormat>
void LaunchFormat(DotArguments a, int tokens, Run& run) {
  a.tokens = tokens;
  if (tokens == 1) return LaunchSome<kFormat, 1>(a, run);
  for (; a.tokens > 0; a.tokens -= 8, a.first_token += 8) LaunchSome<kFormat, 8>(a, run);
}

}  // namespace

void LaunchFewDots(const LinearOp& op, const View& x, Run& run) {
  DotArguments a{};
  a.weight = StoredWeight(op.weight, run.fault());
  a.finish = Finish(op);
  a.x = reinterpret_cast<const float*>(x.data);
  a.x_stride = x.strides[0];
  a.aligned = RowsAligned(x, 16);
  const auto tokens = static_cast<int>(x.shape[0]);
  switch (op.weight.format) {
    case WeightFormat::kE4M3:
      return LaunchFormat<WeightFormat::kE4M3>(a, tokens, run);
    case WeightFormat::kInt8:
      return LaunchFormat<WeightFormat::kInt8>(a, tokens, run);
    case WeightFormat::kPacked8:
      return LaunchFormat<WeightFormat::kPacked8>(a, tokens, run);
    case WeightFormat::kPacked4:
      return LaunchFormat<WeightFormat::kPacked4>(a, tokens, run);
    case WeightFormat::kFp4:
      return LaunchFormat<WeightFormat::kFp4>(a, tokens, run);
    case WeightFormat::kTable4:
      return LaunchFormat<WeightFormat::kTable4>(a, tokens, run);
    case WeightFormat::kAwq:
      return LaunchFormat<WeightFormat::kAwq>(a, tokens, run);
    case WeightFormat::kGptq:
      return LaunchFormat<WeightFormat::kGptq>(a, tokens, run);
    case WeightFormat::kE4M3In:
      return LaunchFormat<WeightFormat::kE4M3In>(a, tokens, run);
    case WeightFormat::kDense:
    case WeightFormat::kDenseIn:
      break;
  }
  UnknownFormat(op.weight.format);
}

}  // namespace zi::cuda
