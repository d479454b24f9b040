// linear without the library: any types, strides and addresses, in full precision. Each result is one sum over the inputs in
// their order, however large the tiles are.
#include "cuda/math.h"
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

/// Tokens and outputs in a small tile, and inputs at a time.
constexpr int kTile = 16;
/// A large tile: 128 tokens × 64 outputs, of which a thread has eight by four.
constexpr int kTokens = 128, kOutputs = 64, kThreads = 256, kOwnTokens = 8, kOwnOutputs = 4;
/// From so many large tiles on they keep a device busy.
constexpr int64_t kEnoughTiles = 64;

struct PlainArguments {
  WeightVector weight, bias;
  int64_t output_stride, input_stride;  // of the weight, in elements
  int64_t tokens, outputs, inputs;
  RowView x, out;
  Activation activation;
  bool accumulate;
};

__device__ inline float XAt(const PlainArguments& a, int64_t token, int64_t k) {
  return token < a.tokens && k < a.inputs ? a.x.Get(token, k) : 0.0f;
}
__device__ inline float WeightAt(const PlainArguments& a, int64_t output, int64_t k) {
  return output < a.outputs && k < a.inputs ? a.weight.At(output * a.output_stride + k * a.input_stride) : 0.0f;
}
__device__ inline void Finish(const PlainArguments& a, int64_t token, int64_t output, float sum) {
  if (token >= a.tokens || output >= a.outputs) return;
  if (a.bias.data) sum += a.bias.At(output);
  sum = Activate(a.activation, sum);
  if (a.accumulate) sum += a.out.Get(token, output);
  a.out.Put(token, output, sum);
}

/// A tile of 16 tokens × 16 outputs per block, inputs 16 at a time.
__global__ void Plain(const PlainArguments a) {
  __shared__ float xs[kTile][kTile + 1], ws[kTile][kTile + 1];
  const int i = threadIdx.x, j = threadIdx.y;
  const int64_t first_output = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kTile; first < a.tokens;
       first += static_cast<int64_t>(gridDim.y) * kTile) {
    float sum = 0;
    for (int64_t k = 0; k < a.inputs; k += kTile) {
      xs[j][i] = XAt(a, first + j, k + i);
      ws[j][i] = WeightAt(a, first_output + j, k + i);
      __syncthreads();
      for (int d = 0; d < kTile; ++d) sum = fmaf(xs[j][d], ws[i][d], sum);
      __syncthreads();
    }
    Finish(a, first + j, first_output + i, sum);
  }
}

/// The same for many tokens: what a thread reads of shared memory serves 32 sums. The next inputs are read while these are
/// multiplied.
__global__ void __launch_bounds__(kThreads) PlainTiles(const __grid_constant__ PlainArguments a) {
  constexpr int kXShare = kTokens * kTile / kThreads, kWeightShare = kOutputs * kTile / kThreads;
  __shared__ __align__(16) float xs[kTile][kTokens + 4], ws[kTile][kOutputs + 4];
  const int k_of = threadIdx.x % kTile, row_of = threadIdx.x / kTile;
  const int own_token = threadIdx.x / (kOutputs / kOwnOutputs) * kOwnTokens;
  const int own_output = threadIdx.x % (kOutputs / kOwnOutputs) * kOwnOutputs;
  const int64_t first_output = static_cast<int64_t>(blockIdx.x) * kOutputs;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kTokens; first < a.tokens;
       first += static_cast<int64_t>(gridDim.y) * kTokens) {
    float sums[kOwnTokens][kOwnOutputs] = {}, next_x[kXShare], next_weight[kWeightShare];
    const auto read = [&](int64_t k) {
#pragma unroll
      for (int i = 0; i < kXShare; ++i) next_x[i] = XAt(a, first + row_of + i * (kThreads / kTile), k + k_of);
#pragma unroll
      for (int i = 0; i < kWeightShare; ++i) {
        next_weight[i] = WeightAt(a, first_output + row_of + i * (kThreads / kTile), k + k_of);
      }
    };
    read(0);
    for (int64_t k = 0; k < a.inputs; k += kTile) {
#pragma unroll
      for (int i = 0; i < kXShare; ++i) xs[k_of][row_of + i * (kThreads / kTile)] = next_x[i];
#pragma unroll
      for (int i = 0; i < kWeightShare; ++i) ws[k_of][row_of + i * (kThreads / kTile)] = next_weight[i];
      __syncthreads();
      if (k + kTile < a.inputs) read(k + kTile);
#pragma unroll
      for (int d = 0; d < kTile; ++d) {
        float x[kOwnTokens], weight[kOwnOutputs];
#pragma unroll
        for (int i = 0; i < kOwnTokens; i += 4) *reinterpret_cast<float4*>(x + i) = *reinterpret_cast<const float4*>(&xs[d][own_token + i]);
        *reinterpret_cast<float4*>(weight) = *reinterpret_cast<const float4*>(&ws[d][own_output]);
#pragma unroll
        for (int i = 0; i < kOwnTokens; ++i) {
#pragma unroll
          for (int j = 0; j < kOwnOutputs; ++j) sums[i][j] = fmaf(x[i], weight[j], sums[i][j]);
        }
      }
      __syncthreads();
    }
    for (int i = 0; i < kOwnTokens; ++i) {
      for (int j = 0; j < kOwnOutputs; ++j) Finish(a, first + own_token + i, first_output + own_output + j, sums[i][j]);
    }
  }
}

}  // namespace

void LaunchPlainProduct(const DenseLinearOp& op, Run& run) {
  const int64_t stride = op.weight.strides[0];
  const PlainArguments arguments{WeightVector(op.weight),
                                 WeightVector(op.bias),
                                 op.input_major ? 1 : stride,
                                 op.input_major ? stride : 1,
                                 op.x.shape[0],
                                 op.out.shape[1],
                                 op.x.shape[1],
                                 RowView(op.x),
                                 RowView(op.out),
                                 op.activation,
                                 op.accumulate};
  const auto blocks_of = [](int64_t count, int64_t each) { return (count + each - 1) / each; };
  if (blocks_of(arguments.outputs, kOutputs) * blocks_of(arguments.tokens, kTokens) >= kEnoughTiles) {
    const dim3 tiles(Blocks(arguments.outputs, kOutputs), Blocks(arguments.tokens, kTokens, kMostGridRows));
    PlainTiles<<<tiles, kThreads, 0, run.stream()>>>(arguments);
    return;
  }
  const dim3 grid(Blocks(arguments.outputs, kTile), Blocks(arguments.tokens, kTile, kMostGridRows));
  Plain<<<grid, dim3(kTile, kTile), 0, run.stream()>>>(arguments);
}

}  // namespace zi::cuda
