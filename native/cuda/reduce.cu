// argmax, top_tokens, nll_fold and note_not_finite: reductions over rows.
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/sample_row.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// A row of a whole vocabulary belongs to one block, so that many loads have to be under way at once.
constexpr int kRowThreads = 1024;
constexpr int kLoads = 8;
constexpr float kLowest = -INFINITY;

// Zero times a value that is no finite number is NaN, so a sum of such products tells whether there was one.

/// The larger value, or of equal ones the lower column.
__device__ void Better(float& value, int& column, float other, int other_column) {
  if (other > value || (other == value && other_column < column)) value = other, column = other_column;
}

__device__ void WarpBest(float& value, int& column) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, offset);
    const int other_column = __shfl_xor_sync(0xffffffffu, column, offset);
    Better(value, column, other, other_column);
  }
}

__global__ void __launch_bounds__(kRowThreads) Argmax(int32_t* out, int64_t out_stride, const float* logits, int64_t stride,
                                                     int columns) {
  Begin();
  __shared__ float values[kRowThreads / 32];
  __shared__ int at[kRowThreads / 32];
  const float* row = logits + blockIdx.x * stride;
  float best = kLowest, nothing = 0;
  int column = 0;
  for (int first = threadIdx.x; first < columns; first += kRowThreads * kLoads) {
    float loaded[kLoads];
    // Beyond the end the last one again, which changes nothing.
#pragma unroll
    for (int j = 0; j < kLoads; ++j) loaded[j] = row[min(first + j * kRowThreads, columns - 1)];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      nothing += loaded[j] * 0.0f;
      if (loaded[j] > best) best = loaded[j], column = min(first + j * kRowThreads, columns - 1);
    }
  }
  if (best == kLowest) column = 0;
  WarpBest(best, column);
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, at[threadIdx.x / 32] = column;
  const bool finite = !__syncthreads_or(nothing != 0);
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kRowThreads / 32; ++i) Better(best, column, values[i], at[i]);
  out[blockIdx.x * out_stride] = finite ? column : kNoToken;
}

/// One token after the other: each time the largest key below the last one's, so that a row is read as often as tokens are wanted.
__global__ void __launch_bounds__(kRowThreads) TopTokens(int32_t* tokens, int64_t tokens_stride, float* values, int64_t values_stride,
                                                        const float* logits, int64_t stride, int columns, int wanted) {
  Begin();
  __shared__ TokenKey keys[kRowThreads / 32];
  const float* row = logits + blockIdx.x * stride;
  TokenKey last = ~TokenKey{0};
  for (int place = 0; place < wanted; ++place) {
    TokenKey best = 0;
    for (int first = threadIdx.x; first < columns; first += kRowThreads * kLoads) {
      float loaded[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) loaded[j] = row[min(first + j * kRowThreads, columns - 1)];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const TokenKey key = Key(loaded[j], min(first + j * kRowThreads, columns - 1));
        if (loaded[j] == loaded[j] && key < last) best = max(best, key);
      }
    }
    best = WarpMax(best);
    __syncthreads();  // keys of the place before may still be read
    if (threadIdx.x % 32 == 0) keys[threadIdx.x / 32] = best;
    __syncthreads();
    for (int i = 0; i < kRowThreads / 32; ++i) best = max(best, keys[i]);
    last = best;
    if (threadIdx.x != 0) continue;
    tokens[blockIdx.x * tokens_stride + place] = best ? TokenOf(best) : kNoToken;
    values[blockIdx.x * values_stride + place] = best ? LogitOf(best) : kLowest;
  }
}

__global__ void NllFold(float* states, int64_t state_stride, const float* logits, int64_t stride,
                        const int32_t* targets, int64_t first_column, int columns, bool first) {
  Begin();
  __shared__ float shared[32];
  __shared__ double sums[32];
  float* state = states + blockIdx.x * state_stride;
  const float* row = logits + blockIdx.x * stride;
  const float before = first ? kLowest : state[0];
  const double sum_before = first ? 0.0 : static_cast<double>(state[1]);
  float here = kLowest, nothing = 0;
  for (int i = threadIdx.x; i < columns; i += kThreads) {
    nothing += row[i] * 0.0f;
    here = row[i] > here ? row[i] : here;
  }
  if (__syncthreads_or(nothing != 0 || before != before)) {
    if (threadIdx.x < 3) state[threadIdx.x] = NAN;
    return;
  }
  const float maximum = fmaxf(BlockMax(here, shared), before);
  double sum = 0;
  if (maximum != kLowest) {
    for (int i = threadIdx.x; i < columns; i += kThreads) sum += static_cast<double>(expf(row[i] - maximum));
  }
  sum = BlockSum(sum, sums);
  if (threadIdx.x != 0) return;
  if (sum_before > 0) sum += sum_before * exp(static_cast<double>(before) - static_cast<double>(maximum));
  const int64_t target = targets[blockIdx.x] - first_column;
  if (first) state[2] = 0;
  if (target >= 0 && target < columns) state[2] = row[target];
  state[0] = maximum;
  state[1] = static_cast<float>(sum);
}

/// A warp per row.
__global__ void NoteNotFinite(int32_t* found, int64_t found_stride, RowView x, int64_t tokens, int64_t length, int place,
                              bool first) {
  Begin();
  const int64_t t = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (t >= tokens) return;
  float nothing = 0;
  for (int64_t i = threadIdx.x % 32; i < length; i += 32) nothing += x.Get(t, i) * 0.0f;
  const bool finite = !__any_sync(0xffffffffu, nothing != 0);
  if (threadIdx.x % 32 != 0) return;
  int32_t& at = found[t * found_stride];
  if (first) at = -1;
  if (at < 0 && !finite) at = place;
}

const float* Floats(const View& view) { return reinterpret_cast<const float*>(view.data); }

}  // namespace

void Launch(const ArgmaxOp& op, Run& run) {
  if (op.logits.shape[0] == 0) return;
  Overlapped(Argmax, Blocks(op.logits.shape[0], 1), kRowThreads, run,
      reinterpret_cast<int32_t*>(op.out.data), op.out.strides[0], Floats(op.logits), op.logits.strides[0],
      static_cast<int>(op.logits.shape[1]));
}

void Launch(const TopTokensOp& op, Run& run) {
  if (op.logits.shape[0] == 0) return;
  Overlapped(TopTokens, Blocks(op.logits.shape[0], 1), kRowThreads, run, reinterpret_cast<int32_t*>(op.tokens.data),
      op.tokens.strides[0], reinterpret_cast<float*>(op.values.data), op.values.strides[0], Floats(op.logits), op.logits.strides[0],
      static_cast<int>(op.logits.shape[1]), static_cast<int>(op.tokens.shape[1]));
}

void Launch(const NllFoldOp& op, Run& run) {
  if (op.logits.shape[0] == 0) return;
  Overlapped(NllFold, Blocks(op.logits.shape[0], 1), kThreads, run,
      reinterpret_cast<float*>(op.state.data), op.state.strides[0], Floats(op.logits), op.logits.strides[0],
      reinterpret_cast<const int32_t*>(op.targets.data), op.first_column, static_cast<int>(op.logits.shape[1]),
      op.first);
}

void Launch(const NoteNotFiniteOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0];
  if (tokens == 0) return;
  Overlapped(NoteNotFinite, Blocks(tokens, kThreads / 32), kThreads, run, reinterpret_cast<int32_t*>(op.found.data),
      op.found.strides[0], RowView(op.x), tokens, op.x.shape[1], op.place, op.first);
}

}  // namespace zi::cuda
