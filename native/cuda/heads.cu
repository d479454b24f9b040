// head_linear: a product per head with its own rows of one weight. A few tokens meet the weight in one kernel of ours; for many
// each head is a product of its own. Weights that are no values become values in scratch first.
#include "cuda/few_stored.h"
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
/// Tokens that a block has sums of, inputs that it brings to shared memory at once, and rows of a warp.
constexpr int kTokens = 8, kInputs = 512, kRows = 4;

struct HeadArguments {
  RowView out, x;
  const uint8_t* values;
  DType type;
  int64_t row_stride, input_stride, head_rows, first_row;
  int tokens, heads, inputs, outputs;  // inputs and outputs of a head's product
};

using Inputs = float[kTokens][kInputs];

__device__ void LoadInputs(const HeadArguments& a, int head, int token, int begin, Inputs& to) {
  const int length = min(kInputs, a.inputs - begin);
  for (int i = threadIdx.x; i < kTokens * kInputs; i += kThreads) {
    const int t = i / kInputs, k = i % kInputs;
    const bool inside = token + t < a.tokens && k < length;
    to[t][k] = inside ? a.x.Get(static_cast<int64_t>(token + t) * a.heads + head, begin + k) : 0.0f;
  }
}

/// A warp per kRows outputs, its lanes over inputs.
__global__ void __launch_bounds__(kThreads) HeadRows(const HeadArguments a) {
  __shared__ Inputs x;
  Begin();
  const int head = blockIdx.y, token = blockIdx.z * kTokens, lane = threadIdx.x % 32;
  const int row = (blockIdx.x * kWarps + threadIdx.x / 32) * kRows;
  const int64_t first = head * a.head_rows + a.first_row + row;
  float sums[kRows][kTokens] = {};
  for (int begin = 0; begin < a.inputs; begin += kInputs) {
    __syncthreads();
    LoadInputs(a, head, token, begin, x);
    __syncthreads();
    WithType(a.type, [&](auto* type) {
      using T = std::decay_t<decltype(*type)>;
      const T* const values = reinterpret_cast<const T*>(a.values);
      for (int k = lane; k < min(kInputs, a.inputs - begin); k += 32) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (row + r >= a.outputs) break;
          const float w = Widen(values[(first + r) * a.row_stride + (begin + k) * a.input_stride]);
#pragma unroll
          for (int t = 0; t < kTokens; ++t) sums[r][t] = fmaf(w, x[t][k], sums[r][t]);
        }
      }
    });
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float sum = WarpSum(sums[r][t]);
      if (lane == 0 && row + r < a.outputs && token + t < a.tokens) {
        a.out.Put(static_cast<int64_t>(token + t) * a.heads + head, row + r, sum);
      }
    }
  }
}

/// A thread per output, which is an input of the weight.
__global__ void __launch_bounds__(kThreads) HeadColumns(const HeadArguments a) {
  __shared__ Inputs x;
  Begin();
  const int head = blockIdx.y, token = blockIdx.z * kTokens;
  const int column = blockIdx.x * kThreads + threadIdx.x;
  const int64_t first = head * a.head_rows + a.first_row;
  float sums[kTokens] = {};
  for (int begin = 0; begin < a.inputs; begin += kInputs) {
    __syncthreads();
    LoadInputs(a, head, token, begin, x);
    __syncthreads();
    if (column >= a.outputs) continue;
    WithType(a.type, [&](auto* type) {
      using T = std::decay_t<decltype(*type)>;
      const T* const values = reinterpret_cast<const T*>(a.values) + (first + begin) * a.row_stride + column * a.input_stride;
#pragma unroll 8
      for (int k = 0; k < min(kInputs, a.inputs - begin); ++k) {
        const float w = Widen(values[k * a.row_stride]);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) sums[t] = fmaf(w, x[t][k], sums[t]);
      }
    });
  }
  if (column >= a.outputs) return;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (token + t < a.tokens) a.out.Put(static_cast<int64_t>(token + t) * a.heads + head, column, sums[t]);
  }
}

void LaunchFew(const HeadLinearOp& op, const View& values, bool input_major, Run& run) {
  const HeadArguments a{RowView(op.out),
                        RowView(op.x),
                        values.data,
                        values.dtype,
                        input_major ? 1 : values.strides[0],
                        input_major ? values.strides[0] : 1,
                        op.head_rows,
                        op.first_row,
                        static_cast<int>(op.x.shape[0]),
                        static_cast<int>(op.x.shape[1]),
                        static_cast<int>(op.x.shape[2]),
                        static_cast<int>(op.out.shape[2])};
  const unsigned across = Blocks(a.outputs, op.transposed ? kThreads : kWarps * kRows);
  const dim3 grid(across, static_cast<unsigned>(a.heads), Blocks(a.tokens, kTokens));
  Overlapped(op.transposed ? HeadColumns : HeadRows, grid, kThreads, run, a);
}

}  // namespace

void Launch(const HeadLinearOp& op, Run& run) {
  if (op.x.shape[0] == 0 || op.x.shape[1] == 0 || op.out.shape[2] == 0) return;
  View values = op.weight.Part(WeightPart::kCodes);
  if (!op.weight.dense()) {
    values = ExpandedHeads(op.weight, nullptr);
    values.data = run.scratch().At(ScratchUse::kWeights, ExpandedBytes(values));
    LaunchExpand(op.weight, 0, values, run);
  }
  const bool input_major = HeadsInputMajor(op.weight);
  if (op.x.shape[0] <= kFewHeadTokens) return LaunchFew(op, values, input_major, run);
  for (int64_t head = 0; head < op.x.shape[1]; ++head) {
    const DenseLinearOp one = HeadOf(op, values, head);
    one.x.shape[1] == 0 ? LaunchPlainProduct(one, run) : LaunchMany(one, run);
  }
}

}  // namespace zi::cuda
