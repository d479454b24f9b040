// hyper_weights: a warp per token; hyper_mix: a thread per token and some values of a stream, which holds those of all streams.
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
/// Values of a stream that a thread mixes, kThreads apart.
constexpr int kEach = 4;
/// What models have: other counts take kernels that are as exact, and slower.
constexpr int kUsualStreams = 4;

struct WeightsArguments {
  RowView gather, spread, mix, logits;  // rows of mix: token · streams + stream
  WeightVector base, scale;
  int64_t tokens;
  int iterations, streams;
  float eps;
};

/// The logits of mixing, each row as its softmax plus eps.
template <class Logit>
__device__ inline void SoftenRow(Logit logit, int n, float eps, float* row) {
  float largest = -INFINITY, sum = 0;
  for (int j = 0; j < n; ++j) {
    row[j] = logit(j);
    largest = fmaxf(largest, row[j]);
  }
  for (int j = 0; j < n; ++j) sum += row[j] = expf(row[j] - largest);
  for (int j = 0; j < n; ++j) row[j] = row[j] / sum + eps;
}

/// Element e of a matrix is over the sum of its row, or of its column.
__device__ inline void DivideBySums(float* mix, int n, bool rows, float eps, int lane) {
  constexpr int kElements = kMostStreams * kMostStreams / 32;
  float sums[kElements];
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int e = lane + 32 * i;
    sums[i] = eps;
    if (e >= n * n) continue;
    for (int j = 0; j < n; ++j) sums[i] += rows ? mix[e / n * n + j] : mix[j * n + e % n];
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    if (lane + 32 * i < n * n) mix[lane + 32 * i] /= sums[i];
  }
  __syncwarp();
}

/// The same of a matrix of four rows, an element in each of 16 lanes: `step` is 1 for sums of rows, 4 for those of columns.
__device__ inline float OverSum(float element, int step, float eps) {
  float sum = element + __shfl_xor_sync(0xffffffffu, element, step);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2 * step);
  return element / (sum + eps);
}

__global__ void __launch_bounds__(kThreads) WeighStreams(const WeightsArguments a) {
  Begin();
  __shared__ float mixes[kWarps][kMostStreams * kMostStreams];
  const int lane = threadIdx.x % 32, n = a.streams;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= a.tokens) return;
  const auto logit = [&](int64_t i, int part) { return fmaf(a.logits.Get(token, i), a.scale.At(part), a.base.At(i)); };
  if (lane < n) a.gather.Put(token, lane, Sigmoid(logit(lane, 0)) + a.eps);
  if (!a.mix.data) return;
  if (lane < n) a.spread.Put(token, lane, 2.0f * Sigmoid(logit(n + lane, 1)));
  float* mix = mixes[threadIdx.x / 32];
  if (lane < n) SoftenRow([&](int j) { return logit(2 * n + lane * n + j, 2); }, n, a.eps, mix + lane * n);
  __syncwarp();
  if (n == kUsualStreams) {
    float element = mix[lane % 16];
    element = OverSum(element, 4, a.eps);
    for (int round = 1; round < a.iterations; ++round) {
      element = OverSum(element, 1, a.eps);
      element = OverSum(element, 4, a.eps);
    }
    if (lane < 16) a.mix.Put(token * n + lane / 4, lane % 4, element);
    return;
  }
  DivideBySums(mix, n, false, a.eps, lane);
  for (int round = 1; round < a.iterations; ++round) {
    DivideBySums(mix, n, true, a.eps, lane);
    DivideBySums(mix, n, false, a.eps, lane);
  }
  for (int e = lane; e < n * n; e += 32) a.mix.Put(token * n + e / n, e % n, mix[e]);
}

struct MixArguments {
  float* x;
  const float *y, *spread, *mix;
  int64_t x_token, x_stream, y_token, spread_token, mix_token, mix_stream;
  int64_t tokens, length;
  int streams;
};

/// kStreams is at least how many there are.
template <int kStreams>
__global__ void __launch_bounds__(kThreads) MixStreams(const MixArguments a) {
  Begin();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kEach + threadIdx.x;
  const int n = kStreams == kUsualStreams ? kStreams : a.streams;
  for (int64_t token = blockIdx.y; token < a.tokens; token += gridDim.y) {
    float mix[kStreams][kStreams], spread[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      spread[j] = j < n ? a.spread[token * a.spread_token + j] : 0.0f;
#pragma unroll
      for (int from = 0; from < kStreams; ++from) {
        mix[from][j] = j < n && from < n ? a.mix[token * a.mix_token + from * a.mix_stream + j] : 0.0f;
      }
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int64_t i = first + e * kThreads;
      if (i >= a.length) break;
      float* x = a.x + token * a.x_token + i;
      const float added = a.y[token * a.y_token + i];
      float before[kStreams];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) before[j] = j < n ? x[j * a.x_stream] : 0.0f;
#pragma unroll
      for (int j = 0; j < kStreams; ++j) {
        if (j >= n) break;
        float sum = spread[j] * added;
#pragma unroll
        for (int from = 0; from < kStreams; ++from) {
          if (from < n) sum = fmaf(mix[from][j], before[from], sum);
        }
        x[j * a.x_stream] = sum;
      }
    }
  }
}

}  // namespace

void Launch(const HyperWeightsOp& op, Run& run) {
  const int64_t tokens = op.gather.shape[0];
  if (tokens == 0) return;
  const auto view = [](const View& from) { return from.data ? RowView(from) : RowView{}; };
  const WeightsArguments a{RowView(op.gather),
                           view(op.spread),
                           view(op.mix),
                           RowView(op.logits),
                           WeightVector(op.base),
                           WeightVector(op.scale),
                           tokens,
                           static_cast<int>(op.iterations),
                           static_cast<int>(op.gather.shape[1]),
                           op.eps};
  Overlapped(WeighStreams, Blocks(tokens, kWarps), kThreads, run, a);
}

void Launch(const HyperMixOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], length = op.x.shape[2];
  if (tokens == 0 || length == 0) return;
  const auto floats = [](const View& view) { return reinterpret_cast<const float*>(view.data); };
  const MixArguments a{reinterpret_cast<float*>(op.x.data),
                       floats(op.y),
                       floats(op.spread),
                       floats(op.mix),
                       op.x.strides[0],
                       op.x.strides[1],
                       op.y.strides[0],
                       op.spread.strides[0],
                       op.mix.strides[0],
                       op.mix.strides[1],
                       tokens,
                       length,
                       static_cast<int>(op.x.shape[1])};
  const dim3 grid(Blocks(length, kThreads * kEach), Blocks(tokens, 1, kMostGridRows));
  if (a.streams == kUsualStreams) {
    Overlapped(MixStreams<kUsualStreams>, grid, kThreads, run, a);
  } else {
    Overlapped(MixStreams<kMostStreams>, grid, kThreads, run, a);
  }
}

}  // namespace zi::cuda
