// hyper_weights: a warp per token; hyper_mix: a thread per token and value of a stream, which holds that of all streams.
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

struct WeightsArguments {
  RowView gather, spread, mix, logits;  // rows of mix: token · streams + stream
  WeightVector base, scale;
  int64_t tokens, iterations;
  int streams;
  float eps;
};

/// Element e of a matrix is over the sum of its row, or of its column.
__device__ inline void DivideBySums(float* mix, int n, bool rows, float eps, int lane) {
  constexpr int kEach = kMostStreams * kMostStreams / 32;
  float sums[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + 32 * i;
    sums[i] = eps;
    if (e >= n * n) continue;
    for (int j = 0; j < n; ++j) sums[i] += rows ? mix[e / n * n + j] : mix[j * n + e % n];
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (lane + 32 * i < n * n) mix[lane + 32 * i] /= sums[i];
  }
  __syncwarp();
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
  if (lane < n) {
    float* row = mix + lane * n;
    float largest = -INFINITY, sum = 0;
    for (int j = 0; j < n; ++j) {
      row[j] = logit(2 * n + lane * n + j, 2);
      largest = fmaxf(largest, row[j]);
    }
    for (int j = 0; j < n; ++j) sum += row[j] = expf(row[j] - largest);
    for (int j = 0; j < n; ++j) row[j] = row[j] / sum + a.eps;
  }
  __syncwarp();
  DivideBySums(mix, n, false, a.eps, lane);
  for (int64_t round = 1; round < a.iterations; ++round) {
    DivideBySums(mix, n, true, a.eps, lane);
    DivideBySums(mix, n, false, a.eps, lane);
  }
  for (int e = lane; e < n * n; e += 32) a.mix.Put(token * n + e / n, e % n, mix[e]);
}

struct MixArguments {
  RowView x, y, spread, mix;  // rows of x and mix: token · streams + stream
  int64_t tokens, length;
  int streams;
};

__global__ void __launch_bounds__(kThreads) MixStreams(const MixArguments a) {
  Begin();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.length) return;
  const int n = a.streams;
  for (int64_t token = blockIdx.y; token < a.tokens; token += gridDim.y) {
    const float added = a.y.Get(token, i);
    float before[kMostStreams];
#pragma unroll
    for (int j = 0; j < kMostStreams; ++j) before[j] = j < n ? a.x.Row<float>(token * n + j)[i] : 0.0f;
    for (int j = 0; j < n; ++j) {
      float sum = a.spread.Row<float>(token)[j] * added;
#pragma unroll
      for (int from = 0; from < kMostStreams; ++from) {
        if (from < n) sum = fmaf(a.mix.Row<float>(token * n + from)[j], before[from], sum);
      }
      a.x.Row<float>(token * n + j)[i] = sum;
    }
  }
}

}  // namespace

void Launch(const HyperWeightsOp& op, Run& run) {
  const int64_t tokens = op.gather.shape[0];
  if (tokens == 0) return;
  const auto view = [](const View& from) { return from.data ? RowView(from) : RowView{}; };
  const WeightsArguments a{RowView(op.gather),     view(op.spread),        view(op.mix), RowView(op.logits),
                           WeightVector(op.base),  WeightVector(op.scale), tokens,       op.iterations,
                           static_cast<int>(op.gather.shape[1]), op.eps};
  Overlapped(WeighStreams, Blocks(tokens, kWarps), kThreads, run, a);
}

void Launch(const HyperMixOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], length = op.x.shape[2];
  if (tokens == 0 || length == 0) return;
  const MixArguments a{RowView(op.x), RowView(op.y), RowView(op.spread), RowView(op.mix), tokens, length,
                       static_cast<int>(op.x.shape[1])};
  Overlapped(MixStreams, dim3(Blocks(length, kThreads), Blocks(tokens, 1, kMostGridRows)), kThreads, run, a);
}

}  // namespace zi::cuda
