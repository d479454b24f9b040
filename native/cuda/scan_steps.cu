// state_scan of a few tokens of a sequence: a block has 64 columns of one head's state in registers, all of which are on their way
// at once, so that reading and writing states is all that a token takes. Sums are taken in an order that depends on nothing else.
#include "cuda/overlap.h"
#include "cuda/scan.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kLanes = 16;  // of four columns each
constexpr int kColumns = 4 * kLanes, kRowStep = kThreads / kLanes;

__device__ void Add(float4& sum, float factor, const float4& x) {
  sum.x = fmaf(factor, x.x, sum.x);
  sum.y = fmaf(factor, x.y, sum.y);
  sum.z = fmaf(factor, x.z, sum.z);
  sum.w = fmaf(factor, x.w, sum.w);
}
__device__ float4 Plus(const float4& a, const float4& b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
/// What two lanes of a warp, which have the same columns, have of them.
__device__ float4 OverPair(const float4& x) {
  constexpr unsigned kAll = 0xffffffffu;
  return Plus(x, make_float4(__shfl_xor_sync(kAll, x.x, kLanes), __shfl_xor_sync(kAll, x.y, kLanes),
                             __shfl_xor_sync(kAll, x.z, kLanes), __shfl_xor_sync(kAll, x.w, kLanes)));
}

template <int kRows>
__global__ void __launch_bounds__(kThreads, kRows > 8 ? 2 : 3) ScanFew(const ScanArguments a) {
  Begin();
  constexpr int kDepth = kRows * kRowStep;
  __shared__ float keys[kDepth], queries[kDepth], squares[3][kWarps];
  __shared__ float4 sums[2][kWarps][kLanes];
  StateRow row;
  if (!a.table.Read(blockIdx.z, row) || !a.Takes(row)) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % kLanes, first_row = threadIdx.x / kLanes;
  const int64_t head = blockIdx.y, group = head / a.each, within = head % a.each;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + lane * 4;
  const bool inside = column < a.length;
  float* const stored = a.state + row.slot * a.state_slot + head * a.state_head + column;
  float4 state[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int r = first_row + i * kRowStep;
    state[i] = make_float4(0, 0, 0, 0);
    if (!row.begins && inside && r < a.depth) state[i] = __ldcs(reinterpret_cast<const float4*>(stored + r * a.state_row));
  }
  const HeadNumbers numbers(a, head);
  for (int64_t token = row.first; token < row.first + row.tokens; ++token) {
    if (token > row.first) __syncthreads();  // what the token before read is written now
    const bool has = threadIdx.x < a.depth;
    const float k = has ? GetAs(a.k, a.k_type, token * a.k_token + group * a.k_group + threadIdx.x) : 0.0f;
    const float q = has ? GetAs(a.q, a.q_type, token * a.q_token + group * a.q_group + threadIdx.x) : 0.0f;
    const float step = GetAs(a.step, a.step_type, token * a.step_token + group * a.step_group + within);
    const float beta = a.delta ? GetAs(a.beta, a.beta_type, token * a.beta_token + group * a.beta_group + within) : 0.0f;
    float value[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (inside) value[i] = GetAs(a.v, a.v_type, token * a.v_token + head * a.v_head + column + i);
    }
    if (threadIdx.x < kDepth) keys[threadIdx.x] = k, queries[threadIdx.x] = q;
    const float of_k = WarpSum(k * k), of_q = WarpSum(q * q), of_both = WarpSum(k * q);
    if (threadIdx.x % 32 == 0) squares[0][warp] = of_k, squares[1][warp] = of_q, squares[2][warp] = of_both;
    __syncthreads();
    float total[3] = {};
#pragma unroll
    for (int i = 0; i < kDepth / 32; ++i) {
#pragma unroll
      for (int j = 0; j < 3; ++j) total[j] += squares[j][i];
    }
    const float scale_k = ScaleOf(a, total[0], 1.0f), scale_q = ScaleOf(a, total[1], a.query_scale);
    const TokenNumbers here = NumbersOf(a, numbers, step, beta, total[2] * (scale_k * scale_q));

    float4 along_k = make_float4(0, 0, 0, 0), along_q = along_k;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int r = first_row + i * kRowStep;
      Add(along_k, keys[r] * scale_k, state[i]);
      Add(along_q, queries[r] * scale_q, state[i]);
    }
    along_k = OverPair(along_k);
    along_q = OverPair(along_q);
    if (threadIdx.x % 32 < kLanes) sums[0][warp][lane] = along_k, sums[1][warp][lane] = along_q;
    __syncthreads();
    along_k = sums[0][0][lane];
    along_q = sums[1][0][lane];
#pragma unroll
    for (int i = 1; i < kWarps; ++i) along_k = Plus(along_k, sums[0][i][lane]), along_q = Plus(along_q, sums[1][i][lane]);

    const float before[4] = {along_k.x, along_k.y, along_k.z, along_k.w};
    const float read[4] = {along_q.x, along_q.y, along_q.z, along_q.w};
    float delta[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) delta[i] = here.weight * (a.delta ? fmaf(-here.kept, before[i], value[i]) : value[i]);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float written = keys[first_row + i * kRowStep] * scale_k;
      state[i].x = fmaf(written, delta[0], here.kept * state[i].x);
      state[i].y = fmaf(written, delta[1], here.kept * state[i].y);
      state[i].z = fmaf(written, delta[2], here.kept * state[i].z);
      state[i].w = fmaf(written, delta[3], here.kept * state[i].w);
    }
    if (first_row != 0 || !inside) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float result = fmaf(numbers.skip, value[i], fmaf(here.product, delta[i], here.kept * read[i]));
      PutAs(a.out, a.out_type, token * a.out_token + head * a.out_head + column + i, result);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int r = first_row + i * kRowStep;
    if (inside && r < a.depth) __stcs(reinterpret_cast<float4*>(stored + r * a.state_row), state[i]);
  }
}

}  // namespace

void LaunchFew(const ScanArguments& a, const ScanShape& shape, Run& run) {
  const dim3 grid(Blocks(a.length, kColumns), static_cast<unsigned>(shape.heads), static_cast<unsigned>(shape.sequences));
  Overlapped(a.depth > 8 * kRowStep ? ScanFew<16> : ScanFew<8>, grid, kThreads, run, a);
}

}  // namespace zi::cuda
