// attention of sequences with a few new tokens: a warp per token and head, contexts cut at multiples of kSplit.
//
// Each split is folded on its own, and splits are merged in order, whether one warp does all of a context or many do:
// a token's result depends on its own context alone.
#include "cuda/attention.h"
#include "cuda/run.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSplit = 256;
/// With fewer warps than this the device idles, and splits run beside each other.
constexpr int64_t kEnoughWarps = 2048;

/// Of one softmax: the maximum, Σ p, and Σ p · v with value d = lane + 32 · i.
template <int kPer>
struct Partial {
  float maximum, total, sums[kPer];
  __device__ void Clear() {
    maximum = -INFINITY;
    total = 0;
    for (int i = 0; i < kPer; ++i) sums[i] = 0;
  }
  __device__ void Merge(const Partial& other) {
    const float larger = fmaxf(maximum, other.maximum);
    if (larger == -INFINITY) return;
    const float mine = expf(maximum - larger), theirs = expf(other.maximum - larger);
    maximum = larger;
    total = total * mine + other.total * theirs;
    for (int i = 0; i < kPer; ++i) sums[i] = sums[i] * mine + other.sums[i] * theirs;
  }
};

/// Folds keys [begin, end) of a split.
template <int kPer>
__device__ void FoldSplit(const AttentionArguments& a, const AttentionArguments::Sequence& sequence, int kv_head,
                          const float* q, float slope, int begin, int end, Partial<kPer>& part) {
  constexpr int kKeys = 4;
  const int lane = threadIdx.x % 32;
  part.Clear();
  for (int chunk = begin; chunk < end; chunk += 32) {
    // Each lane looks up the place of one key of the chunk.
    int page = 0, offset = 0;
    const bool mine = chunk + lane < end && a.Place(sequence, chunk + lane, page, offset);
    const int64_t key_at = page * a.key_page + kv_head * a.key_head + offset * a.key_token;
    const int64_t value_at = page * a.value_page + kv_head * a.value_head + offset * a.value_token;
    const unsigned usable = __ballot_sync(0xffffffffu, mine);
    const int count = end - chunk < 32 ? end - chunk : 32;
    for (int j = 0; j < count; j += kKeys) {
      float scores[kKeys], v[kKeys][kPer];
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        const int key = (j + u) % 32;
        const float* k = a.keys + __shfl_sync(0xffffffffu, key_at, key);
        const float* value = a.values + __shfl_sync(0xffffffffu, value_at, key);
        const bool valid = j + u < count && (usable >> key & 1);
        float product = 0;
#pragma unroll
        for (int i = 0; i < kPer; ++i) {
          const int d = lane + 32 * i;
          const bool inside = valid && d < a.depth;
          product = fmaf(q[i], inside ? k[d] : 0.0f, product);
          v[u][i] = inside ? value[d] : 0.0f;
        }
        scores[u] = product;
      }
      float largest = part.maximum;
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        const bool valid = j + u < count && (usable >> ((j + u) % 32) & 1);
        const float product = WarpSum(scores[u]);
        scores[u] = valid ? a.Score(product, slope, chunk + j + u) : -INFINITY;
        largest = fmaxf(largest, scores[u]);
      }
      if (largest == -INFINITY) continue;
      const float rescale = expf(part.maximum - largest);
      part.maximum = largest;
      part.total *= rescale;
      for (int i = 0; i < kPer; ++i) part.sums[i] *= rescale;
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        const float p = expf(scores[u] - largest);
        part.total += p;
#pragma unroll
        for (int i = 0; i < kPer; ++i) part.sums[i] = fmaf(p, v[u][i], part.sums[i]);
      }
    }
  }
}

/// What a warp works on; false when it has nothing to do.
struct Task {
  int token, head, kv_head, begin, end;
  AttentionArguments::Sequence sequence;
};
__device__ bool FindTask(const AttentionArguments& a, int most_tokens, Task& task) {
  const int index = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  task.token = index / a.heads;
  task.head = index % a.heads;
  if (task.token >= a.tokens) return false;
  const int s = a.LastSequence(task.token, [&](int i) { return a.sequences[i * a.sequences_stride]; });
  if (s < 0 || !a.ReadSequence(s, task.sequence)) return false;
  const auto& sequence = task.sequence;
  if (task.token >= sequence.first + sequence.tokens || sequence.tokens > most_tokens) return false;
  task.kv_head = static_cast<int>(static_cast<int64_t>(task.head) * a.kv_heads / a.heads);
  const int position = a.positions[task.token];
  task.begin = a.FirstKey(position);
  task.end = a.LastKey(sequence, position) + 1;
  return true;
}

template <int kPer>
__device__ void WriteOut(const AttentionArguments& a, const Task& task, const Partial<kPer>& result) {
  // A token that sees nothing gets zeros.
  const float inverse = result.total != 0 ? 1.0f / result.total : 0.0f;
  float* out = a.out + task.token * a.out_token + task.head * a.out_head;
  for (int i = 0; i < kPer; ++i) {
    const int d = threadIdx.x % 32 + 32 * i;
    if (d < a.depth) out[d] = result.sums[i] * inverse;
  }
}

/// partials [token · heads + head][split][2 + 32 · kPer]: what MergeSplits takes; null when a warp does all splits.
template <int kPer>
__global__ void __launch_bounds__(kThreads) AttendRows(const AttentionArguments a, int most_tokens, float* partials) {
  Task task;
  if (!FindTask(a, most_tokens, task)) return;
  const int lane = threadIdx.x % 32;
  float q[kPer];
  for (int i = 0; i < kPer; ++i) {
    const int d = lane + 32 * i;
    q[i] = d < a.depth ? a.q[task.token * a.q_token + task.head * a.q_head + d] : 0.0f;
  }
  const float slope = a.slopes ? a.slopes[task.head] : 0.0f;
  Partial<kPer> total, part;
  total.Clear();
  const int first = task.begin / kSplit, last = (task.end - 1) / kSplit;
  for (int split = partials ? blockIdx.y : first; split <= last && task.begin < task.end; ++split) {
    if (split < first) return;
    const int begin = max(task.begin, split * kSplit), end = min(task.end, (split + 1) * kSplit);
    FoldSplit<kPer>(a, task.sequence, task.kv_head, q, slope, begin, end, part);
    if (!partials) {
      total.Merge(part);
      continue;
    }
    const int64_t at = (static_cast<int64_t>(task.token) * a.heads + task.head) * gridDim.y + split;
    float* to = partials + at * (2 + 32 * kPer);
    if (lane == 0) to[0] = part.maximum, to[1] = part.total;
    for (int i = 0; i < kPer; ++i) to[2 + lane + 32 * i] = part.sums[i];
    return;
  }
  if (!partials) WriteOut(a, task, total);
}

template <int kPer>
__global__ void __launch_bounds__(kThreads)
    MergeSplits(const AttentionArguments a, int most_tokens, const float* partials, int splits) {
  Task task;
  if (!FindTask(a, most_tokens, task)) return;
  Partial<kPer> total, part;
  total.Clear();
  const int64_t row = static_cast<int64_t>(task.token) * a.heads + task.head;
  for (int split = task.begin / kSplit; split * kSplit < task.end; ++split) {
    const float* from = partials + (row * splits + split) * (2 + 32 * kPer);
    part.maximum = from[0];
    part.total = from[1];
    for (int i = 0; i < kPer; ++i) part.sums[i] = from[2 + threadIdx.x % 32 + 32 * i];
    total.Merge(part);
  }
  WriteOut(a, task, total);
}

template <int kPer>
void LaunchRows(const AttentionArguments& a, int64_t most_tokens, int64_t max_context, Run& run) {
  const int64_t warps = static_cast<int64_t>(a.tokens) * a.heads;
  const int64_t splits = (max_context + kSplit - 1) / kSplit;
  const unsigned blocks = Blocks(warps, kThreads / 32);
  const int most = static_cast<int>(most_tokens);
  if (splits <= 1 || warps >= kEnoughWarps || splits > kMostGridRows) {
    AttendRows<kPer><<<blocks, kThreads, 0, run.stream>>>(a, most, nullptr);
    return;
  }
  const size_t size = static_cast<size_t>(warps * splits * (2 + 32 * kPer)) * sizeof(float);
  float* partials = reinterpret_cast<float*>(run.partials.AtLeast(size));
  const dim3 grid(blocks, static_cast<unsigned>(splits));
  AttendRows<kPer><<<grid, kThreads, 0, run.stream>>>(a, most, partials);
  MergeSplits<kPer><<<blocks, kThreads, 0, run.stream>>>(a, most, partials, static_cast<int>(splits));
}

}  // namespace

AttentionArguments::AttentionArguments(const AttentionOp& op, Fault* faults)
    : out(reinterpret_cast<float*>(op.out.data)),
      q(reinterpret_cast<const float*>(op.q.data)),
      out_token(op.out.strides[0]),
      out_head(op.out.strides[1]),
      q_token(op.q.strides[0]),
      q_head(op.q.strides[1]),
      keys(reinterpret_cast<const float*>(op.keys.data)),
      values(reinterpret_cast<const float*>(op.values.data)),
      key_page(op.keys.strides[0]),
      key_head(op.keys.strides[1]),
      key_token(op.keys.strides[2]),
      value_page(op.values.strides[0]),
      value_head(op.values.strides[1]),
      value_token(op.values.strides[2]),
      sequences(reinterpret_cast<const int32_t*>(op.sequences.data)),
      pages(reinterpret_cast<const int32_t*>(op.pages.data)),
      positions(reinterpret_cast<const int32_t*>(op.positions.data)),
      sequences_stride(op.sequences.strides[0]),
      slopes(reinterpret_cast<const float*>(op.alibi_slopes.data)),
      sequence_count(static_cast<int>(op.sequences.shape[0])),
      page_entries(static_cast<int>(op.pages.shape[0])),
      page_count(static_cast<int>(op.keys.shape[0])),
      page_tokens(static_cast<int>(op.keys.shape[2])),
      tokens(static_cast<int>(op.q.shape[0])),
      heads(static_cast<int>(op.q.shape[1])),
      kv_heads(static_cast<int>(op.keys.shape[1])),
      depth(static_cast<int>(op.q.shape[2])),
      scale(op.scale),
      soft_cap(op.soft_cap),
      window(static_cast<int>(op.window_tokens)),
      fault(faults) {}

void LaunchAttentionRows(const AttentionOp& op, int64_t most_tokens, Run& run) {
  const AttentionArguments a(op, run.fault);
  const int64_t depth = op.q.shape[2];
  if (depth <= 32) return LaunchRows<1>(a, most_tokens, op.max_context, run);
  if (depth <= 64) return LaunchRows<2>(a, most_tokens, op.max_context, run);
  if (depth <= 128) return LaunchRows<4>(a, most_tokens, op.max_context, run);
  if (depth <= 256) return LaunchRows<8>(a, most_tokens, op.max_context, run);
  throw std::runtime_error("heads of more than 256 values are not computed on CUDA");
}

}  // namespace zi::cuda
