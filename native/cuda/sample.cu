// sample: one block draws the token of a row. Which tokens stay is found by bisection over the bits of logits, so
// nothing is sorted; sums are taken in double, in an order that depends on the vocabulary's size alone.
#include "cuda/math.h"
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 512;

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
  int history_entries, vocabulary;
  float* scratch;  // [rows, vocabulary]
  Fault* fault;
};

/// Rises with the logit; the two zeros are one.
__device__ uint32_t Rank(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// The logits of a row after the penalty, their weights, and sums over those that a condition keeps.
struct Row {
  float* logits;
  int count;
  float maximum, temperature;
  double* shared;

  /// exp((logit − maximum) / temperature): the largest is 1.
  __device__ float Weight(int token) const {
    if (maximum == INFINITY) return logits[token] == maximum ? 1.0f : 0.0f;
    return expf((logits[token] - maximum) / temperature);
  }
  /// Sum of value(token) over the tokens that keep(token).
  template <class K, class V>
  __device__ double Sum(K keep, V value) const {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if (keep(i)) sum += value(i);
    }
    return BlockSum(sum, shared);
  }
};

/// Largest value of `bits` bits for which enough(value) holds; enough(0) does, and it never holds again once it fails.
template <class F>
__device__ uint32_t Bisect(int bits, F enough) {
  uint32_t value = 0;
  for (int bit = bits - 1; bit >= 0; --bit) {
    if (enough(value | 1u << bit)) value |= 1u << bit;
  }
  return value;
}

/// The row's logits, those of the history moved away from being chosen. False when there is nothing to draw from: then
/// that has been written or reported.
__device__ bool Penalize(const SampleArguments& a, int row, float* to) {
  const float* from = a.logits + row * a.stride;
  float nothing = 0;
  for (int i = threadIdx.x; i < a.vocabulary; i += kThreads) {
    nothing += from[i] * 0.0f;  // NaN once one is no finite number
    to[i] = from[i];
  }
  if (__syncthreads_or(nothing != 0)) {
    if (threadIdx.x == 0) a.out[row * a.out_stride] = kNoToken;
    return false;
  }
  const int32_t* draw = a.draws + row * a.draws_stride;
  const int begin = draw[kHistoryBegin], count = draw[kHistoryCount];
  if (begin < 0 || count < 0 || begin + count > a.history_entries) {
    if (threadIdx.x == 0) Report(a.fault, kHistoryOutside, row, begin + count, a.history_entries);
    return false;
  }
  const float penalty = a.settings[row * a.settings_stride + kPenalty];
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int token = a.history[begin + i];
    if (token < 0 || token >= a.vocabulary) {
      Report(a.fault, kHistoryOutside, row, token, a.vocabulary);
      continue;
    }
    // From the original, so that a token that occurs twice is penalized once.
    const float logit = from[token];
    if (penalty != 1) to[token] = logit > 0 ? logit / penalty : logit * penalty;
  }
  __syncthreads();
  return true;
}

/// Lowest column of the largest logit.
__device__ int Largest(const Row& row, int* shared) {
  if (threadIdx.x == 0) *shared = row.count;
  __syncthreads();
  for (int i = threadIdx.x; i < row.count; i += kThreads) {
    if (row.logits[i] == row.maximum) atomicMin(shared, i);
  }
  __syncthreads();
  return *shared;
}

/// Tokens of higher rank than `rank` stay, those of lower rank do not, and those of `rank` stay up to `last_token`.
struct Cut {
  uint32_t rank;
  int last_token;
  __device__ bool Keeps(uint32_t other, int token) const {
    return other > rank || (other == rank && token <= last_token);
  }
};

__device__ Cut FindCut(const Row& row, int top_k, float top_p) {
  Cut cut{0, row.count};
  const auto rank = [&](int i) { return Rank(row.logits[i]); };
  const auto weight = [&](int i) { return static_cast<double>(row.Weight(i)); };
  const auto one = [](int) { return 1.0; };
  if (top_k > 0 && top_k < row.count) {
    cut.rank = Bisect(32, [&](uint32_t r) { return row.Sum([&](int i) { return rank(i) >= r; }, one) >= top_k; });
  }
  if (top_p >= 1) return cut;
  const Cut largest = cut;
  const auto kept = [&](int i) { return largest.Keeps(rank(i), i); };
  // Above zero, since the likeliest token stays in any case.
  const double wanted = fmax(row.Sum(kept, weight) * static_cast<double>(top_p), 1e-300);
  const auto above = [&](uint32_t r) { return row.Sum([&](int i) { return kept(i) && rank(i) >= r; }, weight); };
  cut.rank = max(largest.rank, Bisect(32, [&](uint32_t r) { return r <= largest.rank || above(r) >= wanted; }));
  // Among equal logits the lowest tokens come first: as many of them stay as are still wanted.
  const uint32_t at = cut.rank;
  const double higher = row.Sum([&](int i) { return kept(i) && rank(i) > at; }, weight);
  const auto missing = [&](uint32_t token) {
    const auto before = [&](int i) { return rank(i) == at && i < static_cast<int>(token); };
    return higher + row.Sum(before, weight) < wanted;
  };
  const int bits = 32 - __clz(row.count);
  cut.last_token = static_cast<int>(Bisect(bits, [&](uint32_t t) { return t <= row.count && missing(t); }));
  return cut;
}

/// The first kept token, in order of ids, whose cumulative weight exceeds a share of the total.
__device__ int Draw(const Row& row, const Cut& cut, float min_p, uint32_t random_bits, double* parts, int* shared) {
  const auto kept = [&](int i) { return row.Weight(i) >= min_p && cut.Keeps(Rank(row.logits[i]), i); };
  // Thread t adds up a run of neighbouring tokens.
  const int each = (row.count + kThreads - 1) / kThreads, begin = threadIdx.x * each;
  const int end = min(row.count, begin + each);
  double mine = 0;
  for (int i = begin; i < end; ++i) mine += kept(i) ? static_cast<double>(row.Weight(i)) : 0.0;
  __syncthreads();
  parts[threadIdx.x] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0;
    for (int t = 0; t < kThreads; ++t) total += parts[t];
    const double wanted = total * ((static_cast<double>(random_bits) + 0.5) / 4294967296.0);
    double sum = 0;
    int run = 0, last = 0;
    for (int t = 0; t < kThreads; ++t) {
      if (parts[t] > 0) last = t;
    }
    while (run < last && sum + parts[run] <= wanted) sum += parts[run++];
    int drawn = 0;
    for (int i = run * each; i < min(row.count, (run + 1) * each); ++i) {
      if (!kept(i)) continue;
      sum += static_cast<double>(row.Weight(i));
      drawn = i;
      if (sum > wanted) break;
    }
    *shared = drawn;
  }
  __syncthreads();
  return *shared;
}

__global__ void __launch_bounds__(kThreads) SampleRows(const SampleArguments a) {
  __shared__ double sums[32], parts[kThreads];
  __shared__ float maxima[32];
  __shared__ int token;
  const int r = blockIdx.x;
  float* logits = a.scratch + static_cast<int64_t>(r) * a.vocabulary;
  if (!Penalize(a, r, logits)) return;
  float largest = -INFINITY;
  for (int i = threadIdx.x; i < a.vocabulary; i += kThreads) largest = fmaxf(largest, logits[i]);
  const float* settings = a.settings + r * a.settings_stride;
  const Row row{logits, a.vocabulary, BlockMax(largest, maxima), settings[kTemperature], sums};
  const int32_t* draw = a.draws + r * a.draws_stride;
  int drawn;
  if (row.temperature == 0 || row.maximum == -INFINITY) {
    drawn = Largest(row, &token);
  } else {
    const Cut cut = FindCut(row, draw[kTopK], settings[kTopP]);
    drawn = Draw(row, cut, settings[kMinP], static_cast<uint32_t>(draw[kRandomBits]), parts, &token);
  }
  if (threadIdx.x == 0) a.out[r * a.out_stride] = drawn;
}

}  // namespace

void Launch(const SampleOp& op, Run& run) {
  const int64_t rows = op.logits.shape[0], vocabulary = op.logits.shape[1];
  if (rows == 0) return;
  const size_t size = static_cast<size_t>(rows * vocabulary) * sizeof(float);
  const SampleArguments arguments{reinterpret_cast<int32_t*>(op.out.data),
                                  op.out.strides[0],
                                  reinterpret_cast<const float*>(op.logits.data),
                                  op.logits.strides[0],
                                  reinterpret_cast<const float*>(op.settings.data),
                                  op.settings.strides[0],
                                  reinterpret_cast<const int32_t*>(op.draws.data),
                                  op.draws.strides[0],
                                  reinterpret_cast<const int32_t*>(op.history.data),
                                  static_cast<int>(op.history.shape[0]),
                                  static_cast<int>(vocabulary),
                                  reinterpret_cast<float*>(run.scratch().At(ScratchUse::kPartials, size)),
                                  run.fault()};
  SampleRows<<<Blocks(rows, 1), kThreads, 0, run.stream()>>>(arguments);
}

}  // namespace zi::cuda
