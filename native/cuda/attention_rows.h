// attention by rows, for any cache: a block per token and head, contexts cut at multiples of kSplit.
//
// A warp folds 32 keys at fixed positions, a split is merged from its warps in order, and a context from its splits in
// order, whether one block does all of them or many do: a token's result depends on its own context alone.
#pragma once
#include <type_traits>

#include "cuda/attention.h"
#include "cuda/overlap.h"

namespace zi::cuda::rows {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kChunk = 32, kSplit = kWarps * kChunk;
static_assert(kSplit == kSplitTokens, "scratch is provided for the parts that there are");
/// Values of most heads, each of which a thread merges; of wider ones it merges several.
constexpr int kUsualDepth = 256, kMostDepth = 576;
static_assert(kUsualDepth <= kThreads);

/// A part of one softmax: its maximum, Σ p, and Σ p · v of one value. Parts are merged alike for each value.
struct Partial {
  float maximum = -INFINITY, total = 0, sum = 0;
  __device__ void Merge(const Partial& other) {
    const float larger = fmaxf(maximum, other.maximum);
    if (larger == -INFINITY) {
      // Zeros, or NaN, which must not be lost.
      total += other.total;
      sum += other.sum;
      return;
    }
    const float mine = expf(maximum - larger), theirs = expf(other.maximum - larger);
    maximum = larger;
    total = total * mine + other.total * theirs;
    sum = sum * mine + other.sum * theirs;
  }
};

[[noreturn]] void HeadTooLarge();

/// What the warps of a block found in their keys, for heads of up to so many values.
template <int kDepth>
struct Folded {
  float maximum[kWarps], total[kWarps], sums[kWarps][kDepth];
};

/// Which tokens the rows of the grid are: every token, or, where the tiles do the sequences with more than
/// `most_tokens`, that many tokens of every sequence.
struct Reach {
  int most_tokens;
  bool by_sequence;
  /// Heads of floats lie at multiples of 16 bytes and are whole groups of 16 bytes, keys and values alike.
  bool groups;
};

/// What a block works on; false when it has nothing to do.
struct Task {
  int token, head, kv_head, begin, end;
  AttentionArguments::Sequence sequence;
};
/// Where `row` counts tokens, or as many of every sequence as `reach` says.
__device__ inline bool FindToken(const AttentionArguments& a, const Reach& reach, int row, Task& task) {
  const auto& sequence = task.sequence;
  if (reach.by_sequence) {
    const int s = row / reach.most_tokens, t = row % reach.most_tokens;
    if (s >= a.sequence_count || !a.ReadSequence(s, task.sequence)) return false;
    task.token = sequence.first + t;
  } else {
    task.token = row;
    if (task.token >= a.tokens) return false;
    // In a step of decoding each token is a sequence's only one.
    const int32_t* const entry = a.sequences + task.token * a.sequences_stride;
    const bool alone = a.tokens == a.sequence_count && entry[0] == task.token && entry[1] == 1;
    const int s = alone ? task.token : a.LastSequence(task.token, [&](int i) { return a.sequences[i * a.sequences_stride]; });
    if (s < 0 || !a.ReadSequence(s, task.sequence)) return false;
  }
  if (task.token >= sequence.first + sequence.tokens || sequence.tokens > reach.most_tokens) return false;
  const int position = a.positions[task.token];
  task.begin = a.FirstKey(position);
  task.end = a.LastKey(sequence, position) + 1;
  return true;
}
__device__ inline bool FindTask(const AttentionArguments& a, const Reach& reach, Task& task) {
  const int index = blockIdx.x;
  task.head = index % a.heads;
  task.kv_head = task.head * a.kv_heads / a.heads;
  return FindToken(a, reach, index / a.heads, task);
}

/// Up to 16 bytes of values, at any address, and zeros behind them. Called, not inlined: unrolled loops would hold it many times.
template <class T>
__noinline__ __device__ uint4 LoadAnywhere(const T* from, int count) {
  uint4 word{};
  T* values = reinterpret_cast<T*>(&word);
#pragma unroll
  for (int i = 0; i < static_cast<int>(16 / sizeof(T)); ++i) {
    if (i < count) values[i] = from[i];
  }
  return word;
}

/// A key's or value's head of floats spread over kLanes lanes, each with kEach groups of 16 bytes. kPlain: heads are read in
/// such groups, and scores have neither slopes nor a cap. That is a tenth of the instructions, whose fetching is most of what
/// a short context takes.
template <class T, int kLanes, int kEach, bool kPlain = false>
struct FloatHead {
  static constexpr int kWidth = 16 / sizeof(T), kValues = kEach * kWidth, kBlocks = 0;
  static constexpr int kDepth = kLanes * kValues > kUsualDepth ? kMostDepth : kUsualDepth;

  __device__ static int First(int group) { return (group * kLanes + static_cast<int>(threadIdx.x) % kLanes) * kWidth; }
  /// Which value of the head is a lane's i-th.
  __device__ static int Index(int i) { return First(i / kWidth) + i % kWidth; }
  __device__ static void Load(const T* head, int depth, bool groups, bool valid, float (&to)[kValues]) {
#pragma unroll
    for (int group = 0; group < kEach; ++group) {
      const int first = First(group);
      const int count = valid ? depth - first : 0;
      const uint4 word = kPlain || groups ? (count > 0 ? *reinterpret_cast<const uint4*>(head + first) : uint4{})
                                          : LoadAnywhere(head + first, count);
      const T* values = reinterpret_cast<const T*>(&word);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) to[group * kWidth + i] = Widen(values[i]);
    }
  }
  /// Folds keys [chunk, chunk + 32) ∩ [begin, end) into this warp's place.
  __device__ static void FoldChunk(const AttentionArguments& a, const Task& task, const Reach& reach,
                                  const float (&q)[kValues], float slope, int chunk, Folded<kDepth>& folded) {
    // So many keys side by side, in so many steps.
    constexpr int kBeside = 32 / kLanes, kSteps = kLanes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, beside = lane / kLanes;
    // Each lane looks up the place of one key.
    int page = 0, offset = 0;
    const int mine = chunk + lane;
    const bool usable = mine >= task.begin && mine < task.end && a.Place(task.sequence, mine, page, offset);
    const unsigned valid = __ballot_sync(0xffffffffu, usable);
    if (valid == 0) {
      if (lane == 0) folded.maximum[warp] = -INFINITY, folded.total[warp] = 0;
      return;
    }
    const int64_t key_at = page * a.key_page + task.kv_head * a.key_head + offset * a.key_token;
    const int64_t value_at = page * a.value_page + task.kv_head * a.value_head + offset * a.value_token;
    float scores[kSteps], maximum = -INFINITY;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int key = step * kBeside + beside;
      const T* head = reinterpret_cast<const T*>(a.keys) + __shfl_sync(0xffffffffu, key_at, key);
      float values[kValues];
      Load(head, a.depth, reach.groups, valid >> key & 1, values);
      float product = 0;
#pragma unroll
      for (int i = 0; i < kValues; ++i) product = fmaf(q[i], values[i], product);
      scores[step] = product;
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      float product = scores[step];
#pragma unroll
      for (int apart = kLanes / 2; apart > 0; apart /= 2) product += __shfl_xor_sync(0xffffffffu, product, apart);
      const int key = step * kBeside + beside;
      const float score = kPlain ? product * a.scale : a.Score(product, slope, chunk + key);
      scores[step] = valid >> key & 1 ? score : -INFINITY;
      maximum = fmaxf(maximum, scores[step]);
    }
    maximum = WarpMax(maximum);
    float total = 0, sums[kValues] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int key = step * kBeside + beside;
      const T* head = reinterpret_cast<const T*>(a.values) + __shfl_sync(0xffffffffu, value_at, key);
      float values[kValues];
      Load(head, a.value_depth, reach.groups, valid >> key & 1, values);
      const float p = scores[step] == -INFINITY ? 0.0f : expf(scores[step] - maximum);
      total += p;
#pragma unroll
      for (int i = 0; i < kValues; ++i) sums[i] = fmaf(p, values[i], sums[i]);
    }
#pragma unroll
    for (int apart = kLanes; apart < 32; apart *= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, apart);
#pragma unroll
      for (int i = 0; i < kValues; ++i) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], apart);
    }
    if (lane == 0) folded.maximum[warp] = maximum, folded.total[warp] = total;
    if (beside != 0) return;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int d = Index(i);
      if (d < kDepth) folded.sums[warp][d] = sums[i];
    }
  }
};

/// How q comes and out goes where they are of the cache's type.
template <class T>
struct OneType {
  using Arguments = AttentionArguments;
  template <class Head>
  __device__ static void LoadQuery(const Arguments& a, const Task& task, float (&q)[Head::kValues]) {
    Head::Load(a.Query<T>(task.token, task.head), a.depth, false, true, q);
  }
  __device__ static void Put(const Arguments& a, const Task& task, int d, float value) {
    a.Out<T>(task.token, task.head)[d] = Narrow<T>(value);
  }
};

/// Values that a thread merges of heads of up to kDepth: d of them are threadIdx.x + i · kThreads.
template <int kDepth>
constexpr int kMerges = (kDepth + kThreads - 1) / kThreads;
__device__ inline int MergedValue(int i) { return static_cast<int>(threadIdx.x) + i * kThreads; }

template <class Type, int kDepth>
__device__ void WriteOut(const typename Type::Arguments& a, const Task& task, const Partial (&result)[kMerges<kDepth>]) {
#pragma unroll
  for (int i = 0; i < kMerges<kDepth>; ++i) {
    const float inverse = a.Inverse(task.head, result[i].maximum, result[i].total, task.begin < task.end);
    const int d = MergedValue(i);
    if (d < a.value_depth) Type::Put(a, task, d, result[i].sum * inverse);
  }
}

/// partials [block][split][2 + value depth]: what MergeSplits takes; null when a block does all splits.
template <class Type, class Head>
__global__ void __launch_bounds__(kThreads, Head::kBlocks)
    AttendRows(const typename Type::Arguments a, const Reach reach, float* partials) {
  constexpr int kDepth = Head::kDepth;
  __shared__ Folded<kDepth> folded;
  Begin();
  Task task;
  if (!FindTask(a, reach, task)) return;
  float q[Head::kValues];
  Type::template LoadQuery<Head>(a, task, q);
  const float slope = a.slopes ? a.slopes[task.head] : 0.0f;
  Partial total[kMerges<kDepth>];
  const int first = task.begin / kSplit, last = (task.end - 1) / kSplit;
  for (int split = partials ? blockIdx.y : first; split <= last && task.begin < task.end; ++split) {
    if (split < first) return;
    Head::FoldChunk(a, task, reach, q, slope, split * kSplit + static_cast<int>(threadIdx.x) / 32 * kChunk, folded);
    __syncthreads();
    Partial part[kMerges<kDepth>];
    for (int warp = 0; warp < kWarps; ++warp) {
      if (folded.maximum[warp] == -INFINITY && folded.total[warp] == 0) continue;
#pragma unroll
      for (int i = 0; i < kMerges<kDepth>; ++i) {
        const float sum = MergedValue(i) < kDepth ? folded.sums[warp][MergedValue(i)] : 0.0f;
        part[i].Merge({folded.maximum[warp], folded.total[warp], sum});
      }
    }
    __syncthreads();
    if (!partials) {
#pragma unroll
      for (int i = 0; i < kMerges<kDepth>; ++i) total[i].Merge(part[i]);
      continue;
    }
    float* to = partials + (static_cast<int64_t>(blockIdx.x) * gridDim.y + split) * (2 + a.value_depth);
    if (threadIdx.x == 0) to[0] = part[0].maximum, to[1] = part[0].total;
#pragma unroll
    for (int i = 0; i < kMerges<kDepth>; ++i) {
      if (MergedValue(i) < a.value_depth) to[2 + MergedValue(i)] = part[i].sum;
    }
    return;
  }
  if (!partials) WriteOut<Type, kDepth>(a, task, total);
}

template <class Type, int kDepth>
__global__ void __launch_bounds__(kThreads)
    MergeSplits(const typename Type::Arguments a, const Reach reach, const float* partials, int splits) {
  Begin();
  Task task;
  if (!FindTask(a, reach, task)) return;
  Partial total[kMerges<kDepth>];
  for (int split = task.begin / kSplit; split * kSplit < task.end; ++split) {
    const float* from = partials + (static_cast<int64_t>(blockIdx.x) * splits + split) * (2 + a.value_depth);
#pragma unroll
    for (int i = 0; i < kMerges<kDepth>; ++i) {
      total[i].Merge({from[0], from[1], MergedValue(i) < a.value_depth ? from[2 + MergedValue(i)] : 0.0f});
    }
  }
  WriteOut<Type, kDepth>(a, task, total);
}

template <class Type, class Head>
void LaunchRows(const typename Type::Arguments& a, const Reach& reach, const AttentionWay& way, Run& run) {
  const unsigned blocks = Blocks(way.blocks, 1);
  if (way.splits == 1) {
    Overlapped(AttendRows<Type, Head>, blocks, kThreads, run, a, reach, nullptr);
    return;
  }
  const size_t size = static_cast<size_t>(way.blocks * way.splits * (2 + a.value_depth)) * sizeof(float);
  float* partials = reinterpret_cast<float*>(run.scratch().At(ScratchUse::kPartials, size));
  const dim3 grid(blocks, static_cast<unsigned>(way.splits));
  Overlapped(AttendRows<Type, Head>, grid, kThreads, run, a, reach, partials);
  Overlapped(MergeSplits<Type, Head::kDepth>, blocks, kThreads, run, a, reach, partials, static_cast<int>(way.splits));
}

/// Heads of floats of type T.
template <class Type, class T>
void LaunchFloatHeads(const typename Type::Arguments& a, Reach reach, const AttentionWay& way, Run& run) {
  constexpr int kWidth = 16 / sizeof(T);
  const auto whole = [](int64_t stride) { return stride % kWidth == 0; };
  reach.groups = a.depth % kWidth == 0 && a.value_depth % kWidth == 0 && reinterpret_cast<uintptr_t>(a.keys) % 16 == 0 &&
                 reinterpret_cast<uintptr_t>(a.values) % 16 == 0 && whole(a.key_page) && whole(a.key_head) &&
                 whole(a.key_token) && whole(a.value_page) && whole(a.value_head) && whole(a.value_token);
  const int depth = a.depth > a.value_depth ? a.depth : a.value_depth;
  if constexpr (std::is_same_v<Type, OneType<T>>) {
    // Queries are read as keys are.
    const bool queries = reinterpret_cast<uintptr_t>(a.q) % 16 == 0 && whole(a.q_token) && whole(a.q_head);
    if (reach.groups && queries && !a.slopes && a.soft_cap == 0) {
      if (depth <= 8 * kWidth) return LaunchRows<Type, FloatHead<T, 8, 1, true>>(a, reach, way, run);
      if (depth <= 16 * kWidth) return LaunchRows<Type, FloatHead<T, 16, 1, true>>(a, reach, way, run);
      if (depth <= 32 * kWidth) return LaunchRows<Type, FloatHead<T, 32, 1, true>>(a, reach, way, run);
    }
  }
  if (depth <= 4 * kWidth) return LaunchRows<Type, FloatHead<T, 4, 1>>(a, reach, way, run);
  if (depth <= 8 * kWidth) return LaunchRows<Type, FloatHead<T, 8, 1>>(a, reach, way, run);
  if (depth <= 16 * kWidth) return LaunchRows<Type, FloatHead<T, 16, 1>>(a, reach, way, run);
  if (depth <= 32 * kWidth) return LaunchRows<Type, FloatHead<T, 32, 1>>(a, reach, way, run);
  if constexpr (sizeof(T) == 4) {
    if (depth <= kUsualDepth) return LaunchRows<Type, FloatHead<T, 32, 2>>(a, reach, way, run);
    if (depth <= kMostDepth) return LaunchRows<Type, FloatHead<T, 32, 5>>(a, reach, way, run);
  } else {
    if (depth <= kMostDepth) return LaunchRows<Type, FloatHead<T, 32, 3>>(a, reach, way, run);
  }
  HeadTooLarge();
}

}  // namespace zi::cuda::rows
