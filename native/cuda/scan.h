// What the ways of state_scan share: its operands, and the numbers of a token.
#pragma once
#include "cuda/math.h"
#include "cuda/run.h"
#include "cuda/states.h"
#include "cuda/views.h"

namespace zi::cuda {

struct ScanArguments {
  const uint8_t *q, *k, *v;
  uint8_t* out;
  DType q_type, k_type, v_type, out_type;
  int64_t q_token, q_group, k_token, k_group, v_token, v_head, out_token, out_head;  // strides
  const uint8_t *step, *beta;
  DType step_type, beta_type;
  int64_t step_token, step_group, beta_token, beta_group;  // strides
  bool delta;
  WeightVector step_bias, decay, skip;
  float* state;
  int64_t state_slot, state_head, state_row;
  int64_t depth, length, each;
  float min_step, max_step, norm_eps, query_scale;
  StateTable table;
  /// New tokens of the sequences that a launch is for.
  int64_t least_tokens, most_tokens;

  __device__ bool Takes(const StateRow& row) const { return row.tokens >= least_tokens && row.tokens <= most_tokens; }
};

/// What every token of a head is scaled with.
struct HeadNumbers {
  float step_bias, decay, skip;
  __device__ HeadNumbers(const ScanArguments& a, int64_t head)
      : step_bias(a.step_bias.At(head)), decay(a.decay.At(head)), skip(a.skip.data ? a.skip.At(head) : 0.0f) {}
};

/// `kept`: γ; `weight`: what δ is scaled by; `product`: k · q.
struct TokenNumbers {
  float kept, weight, product;
};

/// softplus of the raw step, within its limits.
__device__ inline float StepOf(const ScanArguments& a, const HeadNumbers& head, float step) {
  const float raw = step + head.step_bias;
  // Beyond, the difference is lost in a float. Comparisons with NaN do not hold, so it stays.
  float size = raw > 20.0f ? raw : log1pf(expf(raw));
  if (size < a.min_step) size = a.min_step;
  if (size > a.max_step) size = a.max_step;
  return size;
}
/// @param step, beta raw; @param product k · q
__device__ inline TokenNumbers NumbersOf(const ScanArguments& a, const HeadNumbers& head, float step, float beta, float product) {
  const float size = StepOf(a, head, step);
  return {expf(-expf(head.decay) * size), a.delta ? Sigmoid(beta) : size, product};
}

/// What q and k are multiplied by, from their sums of squares.
__device__ inline float ScaleOf(const ScanArguments& a, float squares, float scale) {
  return a.norm_eps != 0 ? scale / sqrtf(squares + a.norm_eps) : scale;
}

struct ScanShape {
  int64_t heads, sequences;
};
/// Token by token, states of up to 256 rows that lie in groups of four values.
void LaunchFew(const ScanArguments& a, const ScanShape& shape, Run& run);
/// In chunks on tensor cores. False where the GPU has too little shared memory for a block, and nothing is launched.
bool LaunchChunks(const ScanArguments& a, const ScanWay& way, const ScanShape& shape, Run& run);

}  // namespace zi::cuda
