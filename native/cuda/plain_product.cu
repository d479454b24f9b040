// linear without the library: any types, strides and addresses, at a fraction of the speed.
#include "cuda/math.h"
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kTile = 16;

struct PlainArguments {
  WeightVector weight, bias;
  int64_t output_stride, input_stride;  // of the weight, in elements
  int64_t tokens, outputs, inputs;
  RowView x, out;
  Activation activation;
  bool accumulate;
};

/// A tile of 16 tokens × 16 outputs per block, inputs 16 at a time.
__global__ void Plain(const PlainArguments a) {
  __shared__ float xs[kTile][kTile + 1], ws[kTile][kTile + 1];
  const int i = threadIdx.x, j = threadIdx.y;
  const int64_t first_output = static_cast<int64_t>(blockIdx.x) * kTile, output = first_output + i;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kTile; first < a.tokens;
       first += static_cast<int64_t>(gridDim.y) * kTile) {
    const int64_t token = first + j;
    float sum = 0;
    for (int64_t k = 0; k < a.inputs; k += kTile) {
      xs[j][i] = token < a.tokens && k + i < a.inputs ? a.x.Get(token, k + i) : 0.0f;
      const int64_t row = first_output + j;
      ws[j][i] = row < a.outputs && k + i < a.inputs ? a.weight.At(row * a.output_stride + (k + i) * a.input_stride) : 0.0f;
      __syncthreads();
      for (int d = 0; d < kTile; ++d) sum = fmaf(xs[j][d], ws[i][d], sum);
      __syncthreads();
    }
    if (token < a.tokens && output < a.outputs) {
      if (a.bias.data) sum += a.bias.At(output);
      sum = Activate(a.activation, sum);
      if (a.accumulate) sum += a.out.Get(token, output);
      a.out.Put(token, output, sum);
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
  const dim3 grid(Blocks(arguments.outputs, kTile), Blocks(arguments.tokens, kTile, kMostGridRows));
  Plain<<<grid, dim3(kTile, kTile), 0, run.stream()>>>(arguments);
}

}  // namespace zi::cuda
