// attention of sequences with a few new tokens: a warp per token and head, contexts cut at multiples of kSplit.
//
// Each split is folded on its own, and splits are merged in order, whether one warp does all of a context or many do:
// a token's result depends on its own context alone.
#include "cuda/attention.h"
#include "cuda/overlap.h"

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
template <class T, int kPer>
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
        const T* k = reinterpret_cast<const T*>(a.keys) + __shfl_sync(0xffffffffu, key_at, key);
        const T* value = reinterpret_cast<const T*>(a.values) + __shfl_sync(0xffffffffu, value_at, key);
        const bool valid = j + u < count && (usable >> key & 1);
        float product = 0;
#pragma unroll
        for (int i = 0; i < kPer; ++i) {
          const int d = lane + 32 * i;
          const bool inside = valid && d < a.depth;
          product = fmaf(q[i], inside ? Widen(k[d]) : 0.0f, product);
          v[u][i] = inside ? Widen(value[d]) : 0.0f;
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

/// A warp's place among all tokens and heads, or, where the tiles do the sequences with more than `most_tokens`, among
/// that many tokens of every sequence.
struct Reach {
  int most_tokens;
  bool by_sequence;
};

/// What a warp works on; false when it has nothing to do.
struct Task {
  int token, head, kv_head, begin, end;
  AttentionArguments::Sequence sequence;
};
__device__ bool FindTask(const AttentionArguments& a, const Reach& reach, Task& task) {
  const int index = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  task.head = index % a.heads;
  const auto& sequence = task.sequence;
  if (reach.by_sequence) {
    const int s = index / a.heads / reach.most_tokens, t = index / a.heads % reach.most_tokens;
    if (s >= a.sequence_count || !a.ReadSequence(s, task.sequence)) return false;
    task.token = sequence.first + t;
  } else {
    task.token = index / a.heads;
    if (task.token >= a.tokens) return false;
    const int s = a.LastSequence(task.token, [&](int i) { return a.sequences[i * a.sequences_stride]; });
    if (s < 0 || !a.ReadSequence(s, task.sequence)) return false;
  }
  if (task.token >= sequence.first + sequence.tokens || sequence.tokens > reach.most_tokens) return false;
  task.kv_head = static_cast<int>(static_cast<int64_t>(task.head) * a.kv_heads / a.heads);
  const int position = a.positions[task.token];
  task.begin = a.FirstKey(position);
  task.end = a.LastKey(sequence, position) + 1;
  return true;
}

template <class T, int kPer>
__device__ void WriteOut(const AttentionArguments& a, const Task& task, const Partial<kPer>& result) {
  // A token that sees nothing gets zeros.
  const float inverse = result.total != 0 ? 1.0f / result.total : 0.0f;
  T* out = a.Out<T>(task.token, task.head);
  for (int i = 0; i < kPer; ++i) {
    const int d = threadIdx.x % 32 + 32 * i;
    if (d < a.depth) out[d] = Narrow<T>(result.sums[i] * inverse);
  }
}

/// partials [token · heads + head][split][2 + 32 · kPer]: what MergeSplits takes; null when a warp does all splits.
template <class T, int kPer>
__global__ void __launch_bounds__(kThreads) AttendRows(const AttentionArguments a, const Reach reach, float* partials) {
  Begin();
  Task task;
  if (!FindTask(a, reach, task)) return;
  const int lane = threadIdx.x % 32;
  float q[kPer];
  for (int i = 0; i < kPer; ++i) {
    const int d = lane + 32 * i;
    q[i] = d < a.depth ? Widen(a.Query<T>(task.token, task.head)[d]) : 0.0f;
  }
  const float slope = a.slopes ? a.slopes[task.head] : 0.0f;
  Partial<kPer> total, part;
  total.Clear();
  const int first = task.begin / kSplit, last = (task.end - 1) / kSplit;
  for (int split = partials ? blockIdx.y : first; split <= last && task.begin < task.end; ++split) {
    if (split < first) return;
    const int begin = max(task.begin, split * kSplit), end = min(task.end, (split + 1) * kSplit);
    FoldSplit<T, kPer>(a, task.sequence, task.kv_head, q, slope, begin, end, part);
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
  if (!partials) WriteOut<T>(a, task, total);
}

template <class T, int kPer>
__global__ void __launch_bounds__(kThreads)
    MergeSplits(const AttentionArguments a, const Reach reach, const float* partials, int splits) {
  Begin();
  Task task;
  if (!FindTask(a, reach, task)) return;
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
  WriteOut<T>(a, task, total);
}

template <class T, int kPer>
void LaunchRows(const AttentionArguments& a, const Reach& reach, int64_t max_context, Run& run) {
  const int64_t tokens = reach.by_sequence ? int64_t{a.sequence_count} * reach.most_tokens : a.tokens;
  const int64_t warps = tokens * a.heads;
  const int64_t splits = (max_context + kSplit - 1) / kSplit;
  const unsigned blocks = Blocks(warps, kThreads / 32);
  if (splits <= 1 || warps >= kEnoughWarps || splits > kMostGridRows) {
    Overlapped(AttendRows<T, kPer>, blocks, kThreads, run, a, reach, nullptr);
    return;
  }
  const size_t size = static_cast<size_t>(a.tokens * a.heads * splits * (2 + 32 * kPer)) * sizeof(float);
  float* partials = reinterpret_cast<float*>(run.partials.AtLeast(size));
  const dim3 grid(blocks, static_cast<unsigned>(splits));
  Overlapped(AttendRows<T, kPer>, grid, kThreads, run, a, reach, partials);
  Overlapped(MergeSplits<T, kPer>, blocks, kThreads, run, a, reach, partials, static_cast<int>(splits));
}

template <class T>
void LaunchTyped(const AttentionArguments& a, const Reach& reach, int64_t max_context, Run& run) {
  if (a.depth <= 32) return LaunchRows<T, 1>(a, reach, max_context, run);
  if (a.depth <= 64) return LaunchRows<T, 2>(a, reach, max_context, run);
  if (a.depth <= 128) return LaunchRows<T, 4>(a, reach, max_context, run);
  if (a.depth <= 256) return LaunchRows<T, 8>(a, reach, max_context, run);
  throw std::runtime_error("heads of more than 256 values are not computed on CUDA");
}

}  // namespace

AttentionArguments::AttentionArguments(const AttentionOp& op, Fault* faults)
    : out(op.out.data),
      q(op.q.data),
      out_token(op.out.strides[0]),
      out_head(op.out.strides[1]),
      q_token(op.q.strides[0]),
      q_head(op.q.strides[1]),
      keys(op.keys.data),
      values(op.values.data),
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
  const Reach reach{static_cast<int>(most_tokens), most_tokens < op.q.shape[0]};
  switch (op.q.dtype) {
    case DType::kF16:
      return LaunchTyped<__half>(a, reach, op.max_context, run);
    case DType::kBF16:
      return LaunchTyped<__nv_bfloat16>(a, reach, op.max_context, run);
    default:
      return LaunchTyped<float>(a, reach, op.max_context, run);
  }
}

}  // namespace zi::cuda
