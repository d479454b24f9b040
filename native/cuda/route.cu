// route: which experts of a mixture each token goes to, and how much each of them counts; a warp per token.
#include "cuda/fault.h"
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kWarps = 8;
constexpr unsigned kAll = 0xffffffffu;
/// Dynamic shared memory that kernels get without asking for more.
constexpr int64_t kSharedBytes = 48 << 10;

struct RouteArguments {
  int32_t* experts;
  float* weights;
  const float* logits;
  int64_t experts_stride, weights_stride, logits_stride, tokens;
  WeightVector bias, expert_scale;
  const int32_t *table, *rows;
  int64_t table_stride, rows_stride;
  int table_rows, table_width, count, choices;
  RouteScore score;
  int groups, groups_kept, group_best;
  bool normalize;
  float added_to_sum, least_sum, scale, sparse_mixer;
  Fault* fault;

  /// Experts are chosen by their scores; without bias and groups their logits have the same order, and do not become equal
  /// where scores are near one.
  __host__ __device__ bool OrderedByScore() const { return bias.data || groups > 1; }
  /// Floats of shared memory for a warp.
  __host__ __device__ int64_t Floats() const { return table || !OrderedByScore() ? 0 : int64_t{count} + groups; }
};

/// `total` counts in units of what the largest logit weighs.
__device__ double ScoreOf(RouteScore score, float logit, float maximum, double total) {
  const double x = static_cast<double>(logit);
  switch (score) {
    case RouteScore::kSoftmax:
      return exp(x - static_cast<double>(maximum)) / total;
    case RouteScore::kSigmoid:
      return 1 / (1 + exp(-x));
    case RouteScore::kSqrtSoftplus:
      return sqrt(x > 20 ? x : log1p(exp(x)));
  }
  __trap();
}

/// The larger value, or of equal ones the one that comes first.
struct Best {
  float value = -INFINITY;
  int at = 0x7fffffff;
  __device__ void Take(float other, int other_at) {
    if (other > value || (other == value && other_at < at)) value = other, at = other_at;
  }
  __device__ bool Before(float other, int other_at) const { return other < value || (other == value && other_at > at); }
};

/// The best of `values` that come after `before` in the order of falling value and rising place, for every lane.
__device__ Best NextBest(const float* values, int count, const Best* before) {
  Best best;
  for (int i = threadIdx.x % 32; i < count; i += 32) {
    if (!before || before->Before(values[i], i)) best.Take(values[i], i);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const float value = __shfl_xor_sync(kAll, best.value, offset);
    const int at = __shfl_xor_sync(kAll, best.at, offset);
    best.Take(value, at);
  }
  return best;
}

/// Experts of all but the best groups become −inf in `order`; a lane takes whole groups.
__device__ void KeepGroups(const RouteArguments& a, float* order, float* groups) {
  const int lane = threadIdx.x % 32, size = a.count / a.groups;
  for (int g = lane; g < a.groups; g += 32) {
    float first = -INFINITY, second = -INFINITY;
    for (int i = g * size; i < (g + 1) * size; ++i) {
      const float value = order[i];
      if (value > first) {
        second = first;
        first = value;
      } else if (value > second) {
        second = value;
      }
    }
    groups[g] = a.group_best > 1 ? first + second : first;
  }
  __syncwarp();
  Best last = NextBest(groups, a.groups, nullptr);
  for (int kept = 1; kept < a.groups_kept; ++kept) last = NextBest(groups, a.groups, &last);
  for (int i = lane; i < a.count; i += 32) {
    if (last.Before(groups[i / size], i / size)) order[i] = -INFINITY;
  }
  __syncwarp();
}

__device__ void SayNothing(const RouteArguments& a, int32_t* experts, float* weights) {
  for (int j = threadIdx.x % 32; j < a.choices; j += 32) {
    experts[j] = j;
    weights[j] = NAN;
  }
}

/// Each of two experts in turn is the best of those left, and weighs what it has of a softmax over those near it.
__device__ void MixSparsely(const RouteArguments& a, const float* logits, int32_t* experts, float* weights) {
  Best best;
  for (int j = 0; j < a.choices; ++j) {
    const Best before = best;
    best = NextBest(logits, a.count, j > 0 ? &before : nullptr);
    double total = 0;
    for (int e = threadIdx.x % 32; e < a.count; e += 32) {
      const bool taken = e != best.at && !best.Before(logits[e], e);
      if (taken || (best.value - logits[e]) / fmaxf(fabsf(logits[e]), best.value) > a.sparse_mixer) continue;
      total += exp(static_cast<double>(logits[e]) - static_cast<double>(best.value));
    }
    total = WarpSum(total);
    if (threadIdx.x % 32 != 0) continue;
    experts[j] = best.at;
    weights[j] = static_cast<float>(1 / total);
  }
}

/// Whether the table names experts that there are; the first of a token's that are none is reported.
__device__ bool TakeNamed(const RouteArguments& a, int64_t t, int32_t* experts) {
  const int row = a.rows[t * a.rows_stride];
  bool found = row >= 0 && row < a.table_rows;
  if (!found && threadIdx.x % 32 == 0) Report(a.fault, kRowOutside, t, row, a.table_rows);
  for (int j = threadIdx.x % 32; found && j < a.choices; j += 32) {
    const int expert = a.table[row * a.table_stride + static_cast<int64_t>(j) * a.table_width];
    experts[j] = expert;
    if (expert >= 0 && expert < a.count) continue;
    Report(a.fault, kExpertOutside, t, expert, a.count);
    experts[j] = 0;
  }
  __syncwarp();
  return found;
}

__global__ void Route(const __grid_constant__ RouteArguments a) {
  Begin();
  extern __shared__ float shared[];
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * warps + warp;
  if (t >= a.tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* logits = a.logits + t * a.logits_stride;
  int32_t* experts = a.experts + t * a.experts_stride;
  float* weights = a.weights + t * a.weights_stride;
  // Zero times a value that is no finite number is NaN, so a sum of such products tells whether there was one.
  float maximum = -INFINITY, nothing = 0;
  for (int e = lane; e < a.count; e += 32) {
    nothing += logits[e] * 0.0f;
    maximum = fmaxf(maximum, logits[e]);
  }
  if (__any_sync(kAll, nothing != 0)) return SayNothing(a, experts, weights);
  if (a.sparse_mixer > 0) return MixSparsely(a, logits, experts, weights);
  maximum = WarpMax(maximum);
  double total = 1;
  // The sum of all cancels where weights are divided by that of the chosen ones, and nothing else is asked of it.
  const bool cancels = a.normalize && a.least_sum == 0 && a.added_to_sum == 0 && !a.OrderedByScore();
  if (a.score == RouteScore::kSoftmax && !cancels) {
    total = 0;
    for (int e = lane; e < a.count; e += 32) total += static_cast<double>(expf(logits[e] - maximum));
    total = WarpSum(total);
  }
  // Whom the lane's choice goes to, of the first 32.
  int mine = 0;
  if (a.table) {
    if (!TakeNamed(a, t, experts)) return;
    if (lane < a.choices) mine = experts[lane];
  } else {
    const float* order = logits;
    if (a.OrderedByScore()) {
      float* scores = shared + warp * a.Floats();
      for (int e = lane; e < a.count; e += 32) {
        scores[e] = static_cast<float>(ScoreOf(a.score, logits[e], maximum, total));
        if (a.bias.data) scores[e] += a.bias.At(e);
        nothing += scores[e] * 0.0f;
      }
      if (__any_sync(kAll, nothing != 0)) return SayNothing(a, experts, weights);
      __syncwarp();
      if (a.groups > 1) KeepGroups(a, scores, scores + a.count);
      order = scores;
    }
    Best best;
    for (int j = 0; j < a.choices; ++j) {
      const Best before = best;
      best = NextBest(order, a.count, j > 0 ? &before : nullptr);
      if (lane == j) mine = best.at;
      if (lane == 0) experts[j] = best.at;
    }
    __syncwarp();
  }
  // Each lane makes a score, and all of them sum these in their order.
  const auto score_of = [&](int j) { return ScoreOf(a.score, logits[j == lane ? mine : experts[j]], maximum, total); };
  const double own = lane < a.choices ? score_of(lane) : 0;
  double sum = 0;
  for (int first = 0; first < a.choices; first += 32) {
    const double score = first == 0 ? own : first + lane < a.choices ? score_of(first + lane) : 0;
    for (int i = 0; i < min(32, a.choices - first); ++i) sum += __shfl_sync(kAll, score, i);
  }
  const double divisor =
      a.normalize ? fmax(sum, static_cast<double>(a.least_sum)) + static_cast<double>(a.added_to_sum) : 1.0;
  for (int j = lane; j < a.choices; j += 32) {
    double weight = (j == lane ? own : score_of(j)) / divisor * static_cast<double>(a.scale);
    if (a.expert_scale.data) weight *= static_cast<double>(a.expert_scale.At(j == lane ? mine : experts[j]));
    weights[j] = static_cast<float>(weight);
  }
}

}  // namespace

void Launch(const RouteOp& op, Run& run) {
  const int64_t tokens = op.logits.shape[0];
  if (tokens == 0) return;
  RouteArguments a{};
  a.experts = reinterpret_cast<int32_t*>(op.experts.data);
  a.weights = reinterpret_cast<float*>(op.weights.data);
  a.logits = reinterpret_cast<const float*>(op.logits.data);
  a.experts_stride = op.experts.strides[0];
  a.weights_stride = op.weights.strides[0];
  a.logits_stride = op.logits.strides[0];
  a.tokens = tokens;
  a.bias = WeightVector(op.bias);
  a.expert_scale = WeightVector(op.expert_scale);
  a.count = static_cast<int>(op.logits.shape[1]);
  a.choices = static_cast<int>(op.experts.shape[1]);
  if (op.table.data) {
    a.table = reinterpret_cast<const int32_t*>(op.table.data);
    a.rows = reinterpret_cast<const int32_t*>(op.rows.data);
    a.table_stride = op.table.strides[0];
    a.rows_stride = op.rows.strides[0];
    a.table_rows = static_cast<int>(op.table.shape[0]);
    a.table_width = static_cast<int>(op.table.shape[1]) / a.choices;
  }
  a.score = op.score;
  a.groups = static_cast<int>(op.groups);
  a.groups_kept = static_cast<int>(op.groups_kept);
  a.group_best = static_cast<int>(op.group_best);
  a.normalize = op.normalize;
  a.added_to_sum = op.added_to_sum;
  a.least_sum = op.least_sum;
  a.scale = op.scale;
  a.sparse_mixer = op.sparse_mixer;
  a.fault = run.fault();
  const int64_t bytes = a.Floats() * static_cast<int64_t>(sizeof(float));
  if (bytes > kSharedBytes) throw std::runtime_error("more experts than a block's shared memory holds scores of");
  int64_t warps = kWarps;
  while (warps * bytes > kSharedBytes) warps /= 2;
  OverlappedWith(static_cast<size_t>(warps * bytes), Route, Blocks(tokens, warps), static_cast<unsigned>(warps * 32), run, a);
}

}  // namespace zi::cuda
