// causal_conv: a thread per channel and some tokens, which keeps the latest inputs; then another kernel brings the states up to date.
// Taps are summed from the oldest to the latest, so that a token's result does not depend on where work is cut.
#include <algorithm>

#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/states.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
/// What nearly all models have; other widths read their inputs and taps again for every token.
constexpr int kUsualWidth = 4;
constexpr int64_t kMostTokensEach = 16, kEnoughTiles = 128;

struct ConvArguments {
  uint8_t *out, *x;
  int64_t out_token, out_group, x_token, x_group;  // strides
  int64_t channels, depth, width, tokens_each;
  const uint8_t* weight;
  DType weight_type;
  int64_t weight_stride;
  WeightVector bias;
  float* state;
  int64_t state_slot, state_row;
  Activation activation;
  StateTable table;

  __device__ float Weight(int64_t channel, int64_t tap) const { return GetAs(weight, weight_type, channel * weight_stride + tap); }
  /// The last row of a state is the latest input.
  __device__ float& State(int64_t slot, int64_t row, int64_t channel) const {
    return state[slot * state_slot + row * state_row + channel];
  }
};

template <class T>
struct Channel {
  const ConvArguments& a;
  const int64_t channel;
  const T* x;
  T* out;

  __device__ Channel(const ConvArguments& arguments, int64_t at)
      : a(arguments),
        channel(at),
        x(reinterpret_cast<const T*>(a.x) + at / a.depth * a.x_group + at % a.depth),
        out(reinterpret_cast<T*>(a.out) + at / a.depth * a.out_group + at % a.depth) {}

  /// The input at a token of the sequence, counted from its first one here: negative ones are in the state.
  __device__ float Input(const StateRow& row, int64_t token) const {
    if (token >= 0) return Widen(x[(row.first + token) * a.x_token]);
    return row.begins ? 0.0f : a.State(row.slot, a.width - 1 + token, channel);
  }
  __device__ void Put(int64_t token, float sum) const { out[token * a.out_token] = Narrow<T>(Activate(a.activation, sum)); }

  /// Tokens [from, to) of the sequence with taps in registers.
  __device__ void ConvolveUsual(const StateRow& row, int64_t from, int64_t to, const float (&taps)[kUsualWidth], float bias) const {
    float before[kUsualWidth - 1];
#pragma unroll
    for (int j = 0; j < kUsualWidth - 1; ++j) before[j] = Input(row, from - (kUsualWidth - 1) + j);
    for (int64_t t = from; t < to; ++t) {
      const float latest = Widen(x[(row.first + t) * a.x_token]);
      float sum = bias;
#pragma unroll
      for (int j = 0; j < kUsualWidth - 1; ++j) sum = fmaf(before[j], taps[j], sum);
      Put(row.first + t, fmaf(latest, taps[kUsualWidth - 1], sum));
#pragma unroll
      for (int j = 0; j + 1 < kUsualWidth - 1; ++j) before[j] = before[j + 1];
      before[kUsualWidth - 2] = latest;
    }
  }
  __device__ void Convolve(const StateRow& row, int64_t from, int64_t to, float bias) const {
    for (int64_t t = from; t < to; ++t) {
      float sum = bias;
      for (int64_t j = 0; j < a.width; ++j) sum = fmaf(Input(row, t - (a.width - 1) + j), a.Weight(channel, j), sum);
      Put(row.first + t, sum);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) ConvolveTokens(const ConvArguments a) {
  Begin();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.channels) return;
  const Channel<T> channel(a, at);
  const bool usual = a.width == kUsualWidth;
  float taps[kUsualWidth] = {};
  if (usual) {
#pragma unroll
    for (int j = 0; j < kUsualWidth; ++j) taps[j] = a.Weight(at, j);
  }
  const float bias = a.bias.data ? a.bias.At(at) : 0.0f;
  const int64_t begin = blockIdx.y * a.tokens_each, end = min(begin + a.tokens_each, a.table.tokens);
  for (int s = max(a.table.Find(begin), 0); s < a.table.count; ++s) {
    StateRow row;
    if (!a.table.Read(s, row)) return;
    if (row.first >= end) return;
    const int64_t from = max(begin - row.first, int64_t{0}), to = min(end - row.first, row.tokens);
    if (usual) {
      if (from < to) channel.ConvolveUsual(row, from, to, taps, bias);
    } else {
      channel.Convolve(row, from, to, bias);
    }
  }
}

/// Rows of the state that are read lie behind those that are written.
template <class T>
__global__ void __launch_bounds__(kThreads) KeepInputs(const ConvArguments a) {
  Begin();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.channels) return;
  const Channel<T> channel(a, at);
  for (int s = blockIdx.y; s < a.table.count; s += gridDim.y) {
    StateRow row;
    if (!a.table.Read(s, row)) return;
    if (row.tokens == 0) continue;
    for (int64_t j = 0; j < a.width - 1; ++j) {
      a.State(row.slot, j, at) = channel.Input(row, row.tokens - (a.width - 1) + j);
    }
  }
}

template <class T>
void LaunchConv(const ConvArguments& a, Run& run) {
  const unsigned blocks = Blocks(a.channels, kThreads);
  Overlapped(ConvolveTokens<T>, dim3(blocks, Blocks(a.table.tokens, a.tokens_each)), kThreads, run, a);
  if (a.width > 1) Overlapped(KeepInputs<T>, dim3(blocks, Blocks(a.table.count, 1, kMostGridRows)), kThreads, run, a);
}

}  // namespace

void Launch(const CausalConvOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], channels = op.x.shape[1] * op.x.shape[2];
  if (tokens == 0 || channels == 0 || op.sequences.shape[0] == 0) return;
  const int64_t fitting = std::clamp(tokens / kEnoughTiles, int64_t{1}, kMostTokensEach);
  const ConvArguments a{op.out.data,
                        op.x.data,
                        op.out.strides[0],
                        op.out.strides[1],
                        op.x.strides[0],
                        op.x.strides[1],
                        channels,
                        op.x.shape[2],
                        op.weight.shape[1],
                        std::max(fitting, (tokens + kMostGridRows - 1) / kMostGridRows),
                        op.weight.data,
                        op.weight.dtype,
                        op.weight.strides[0],
                        WeightVector(op.bias),
                        reinterpret_cast<float*>(op.state.data),
                        op.state.strides[0],
                        op.state.strides[1],
                        op.activation,
                        StateTable(op.sequences, op.slots, tokens, op.state.shape[0], run.fault())};
  switch (op.x.dtype) {
    case DType::kF32:
      return LaunchConv<float>(a, run);
    case DType::kF16:
      return LaunchConv<__half>(a, run);
    case DType::kBF16:
      return LaunchConv<__nv_bfloat16>(a, run);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(op.x.dtype);
}

}  // namespace zi::cuda
