// What every phase of drawing tokens knows of its row, and how the blocks of a row work together. All sums are of integers, so
// that they do not depend on who comes first.
#pragma once
#include "cuda/sample_scratch.h"
#include "ops/operand.h"

namespace zi::cuda {

struct Fault;

constexpr int kSampleThreads = 512;

/// Columns of `settings` and of `draws`.
enum { kTemperature, kTopP, kMinP, kPenalty };
enum { kTopK, kRandomBits, kHistoryBegin, kHistoryCount };

struct SampleArguments {
  int32_t* out;
  int64_t out_stride;
  const float* logits;
  int64_t stride;
  const float* settings;
  int64_t settings_stride;
  const int32_t* draws;
  int64_t draws_stride;
  const int32_t* history;
  int history_entries, vocabulary, parts;
  /// Null where nothing is added to logits.
  const int32_t* added_of;
  int64_t added_of_stride;
  const int32_t* added_tokens;
  const float* added_values;
  int added_entries;
  /// Null where every token may be drawn.
  const int32_t* mask_of;
  int64_t mask_of_stride;
  const uint32_t* masks;
  int64_t masks_stride;
  int mask_rows;
  /// The largest weight in units, so that those of all tokens together stay below 2^63. Filters count with 40 bits at most, of
  /// which histograms hold halves.
  float filter_units, draw_units;
  SampleScratch scratch;
  Fault* fault;
};

using TokenKey = unsigned long long;

/// Rises with the logit; the two zeros are one. Never zero for a number.
__device__ inline uint32_t Rank(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Rises with the logit; of equal logits, the lowest token has the highest key.
__device__ inline TokenKey Key(float logit, int token) {
  return TokenKey{Rank(logit)} << 32 | (0xffffffffu - static_cast<uint32_t>(token));
}
__device__ inline float LogitOfRank(uint32_t rank) {
  return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}
__device__ inline float LogitOf(TokenKey key) { return LogitOfRank(static_cast<uint32_t>(key >> 32)); }
__device__ inline int TokenOf(TokenKey key) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key)); }

__device__ inline TokenKey WarpMax(TokenKey key) {
  for (int offset = 16; offset > 0; offset /= 2) key = max(key, __shfl_xor_sync(0xffffffffu, key, offset));
  return key;
}

enum class Filter { kLikeliest, kNucleus };

/// The row of a block: blocks of one blockIdx.x share a row, and its parts go round them.
struct SampleRow {
  const SampleArguments& a;
  SampleState& state;
  SampleHistogram* histograms;
  SampleShare* shares;
  const float* settings;
  const int32_t* draw;
  /// Null where every token may be drawn.
  const uint32_t* mask = nullptr;
  /// What is added to logits: entries, of which there are none where they would lie outside.
  int first_added = 0, added = 0;

  __device__ explicit SampleRow(const SampleArguments& arguments)
      : a(arguments),
        state(a.scratch.states[blockIdx.x]),
        histograms(a.scratch.histograms + 2 * int64_t{blockIdx.x}),
        shares(a.scratch.shares + int64_t{blockIdx.x} * a.parts),
        settings(a.settings + blockIdx.x * a.settings_stride),
        draw(a.draws + blockIdx.x * a.draws_stride) {
    const int of = a.masks ? a.mask_of[blockIdx.x * a.mask_of_stride] : -1;
    if (of >= 0 && of < a.mask_rows) mask = a.masks + of * a.masks_stride;
    if (AddedWithin()) first_added = a.added_of ? AddedOf()[0] : 0, added = a.added_of ? AddedOf()[1] : 0;
  }

  __device__ bool Filters(Filter filter) const {
    if (filter == Filter::kNucleus) return settings[kTopP] < 1;
    return draw[kTopK] > 0 && draw[kTopK] < a.vocabulary;
  }
  __device__ bool Penalizes() const { return settings[kPenalty] != 1 && draw[kHistoryCount] > 0; }
  __device__ const int32_t* AddedOf() const { return a.added_of + blockIdx.x * a.added_of_stride; }
  __device__ bool AddedWithin() const {
    return !a.added_of || (AddedOf()[0] >= 0 && AddedOf()[1] >= 0 && int64_t{AddedOf()[0]} + AddedOf()[1] <= a.added_entries);
  }
  __device__ bool Changes() const { return mask || added > 0 || Penalizes(); }
  __device__ bool MayDraw(int token) const { return !mask || mask[token / 32] >> token % 32 & 1; }
  __device__ const float* Given() const { return a.logits + blockIdx.x * a.stride; }
  __device__ float* Changed() const { return a.scratch.logits + int64_t{blockIdx.x} * a.vocabulary; }
  __device__ const float* Logits() const { return Changes() ? Changed() : Given(); }
  __device__ void Put(int token) const { a.out[blockIdx.x * a.out_stride] = token; }

  /// f(token, logit) for the tokens of a part, of which this thread takes some.
  template <class F>
  __device__ void ForPart(const float* from, int part, F f) const {
    constexpr int kEach = kSamplePartTokens / kSampleThreads;
    const int first = part * kSamplePartTokens + static_cast<int>(threadIdx.x);
    float loaded[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) loaded[j] = from[min(first + j * kSampleThreads, a.vocabulary - 1)];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (first + j * kSampleThreads < a.vocabulary) f(first + j * kSampleThreads, loaded[j]);
    }
  }
};

/// exp((logit − maximum) / temperature), of which the largest is 1.
struct Weights {
  float maximum, temperature, units;

  __device__ Weights(const SampleRow& row, float units)
      : maximum(row.state.maximum), temperature(row.settings[kTemperature]), units(units) {}
  __device__ float Of(float logit) const {
    if (maximum == INFINITY) return logit == maximum ? 1.0f : 0.0f;
    return expf((logit - maximum) / temperature);
  }
  /// Below `units`, so that two halves of 20 bits hold 40.
  __device__ SampleCount Units(float weight) const {
    return min(__float2ull_rn(weight * units), __float2ull_rn(units) - 1);
  }
};

/// Sum of the values of this thread and those before it, and of all. `shared` holds a value for each warp.
__device__ inline SampleCount Scan(SampleCount value, SampleCount* shared, SampleCount& total) {
  constexpr int kWarps = kSampleThreads / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int offset = 1; offset < 32; offset *= 2) {
    const SampleCount before = __shfl_up_sync(0xffffffffu, value, offset);
    if (lane >= offset) value += before;
  }
  __syncthreads();  // values of the scan before may still be read
  if (lane == 31) shared[warp] = value;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) value += total;
    total += shared[w];
  }
  return value;
}

/// True in the last block of a row to come here, which then sees what the others wrote before.
__device__ inline bool IsLast(SampleState& state) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&state.arrived, 1u) + 1 == gridDim.y;
    if (last) state.arrived = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

}  // namespace zi::cuda
