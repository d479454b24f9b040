// window_attention: a warp has some heads of a token, its lanes over the values of a head, and takes two keys at a time; then another
// kernel keeps the latest keys. Keys are counted from the first that a token sees, so a text does not depend on where it is cut. For
// a few tokens the warps of a block share a token's keys and add up what they have seen; for many, each has other heads.
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/states.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kHeads = 4, kKeys = 2, kScores = kHeads * kKeys;
/// Blocks of warps that share keys: beyond so many, the device is busy without. On an H200's 132 processors, 1,024 of them took 201 µs
/// of what apart took 142, and 16 took 26 of 118, where each token saw 144 keys.
constexpr int64_t kMostShared = 512;
constexpr unsigned kAll = 0xffffffffu;

struct WindowArguments {
  uint8_t *out, *q;  // of one type
  DType dtype;
  const float* k;
  int64_t out_token, out_head, q_token, q_head, k_token;
  float* window;
  int64_t window_slot, window_row, window_tokens;
  const float* entries;
  int64_t entry_slot, entry_row, entry_count;
  WeightVector sinks;
  int64_t ratio;
  int heads, depth;
  float scale;
  StateTable table;
};

/// Where a token's keys lie: positions of the window, then entries.
struct SeenKeys {
  const WindowArguments& a;
  StateRow row;
  int64_t first;
  int in_window, count;

  __device__ SeenKeys(const WindowArguments& arguments, const StateRow& sequence, int64_t token) : a(arguments), row(sequence) {
    const int64_t position = row.start + token - row.first;
    first = max(int64_t{0}, position - a.window_tokens + 1);
    in_window = static_cast<int>(position + 1 - first);
    count = in_window + (a.entries ? static_cast<int>((position + 1) / a.ratio) : 0);
  }
  __device__ const float* Key(int i) const {
    const int64_t at = first + i;
    if (i >= in_window) return a.entries + row.slot * a.entry_slot + (i - in_window) * a.entry_row;
    if (at >= row.start) return a.k + (row.first + at - row.start) * a.k_token;
    return a.window + row.slot * a.window_slot + at % a.window_tokens * a.window_row;
  }
};

/// kValues of a lane, 32 apart.
template <int kValues>
__device__ inline void LoadValues(const float* from, int depth, float (&to)[kValues]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int v = 0; v < kValues; ++v) to[v] = v * 32 + lane < depth ? from[v * 32 + lane] : 0.0f;
}

/// Lane l gets the sum over lanes of value l % 8.
__device__ inline float SumsByLane(const float (&values)[kScores]) {
  const int lane = threadIdx.x % 32;
  float four[4], two[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool high = lane & 4;
    four[i] = (high ? values[i + 4] : values[i]) + __shfl_xor_sync(kAll, high ? values[i] : values[i + 4], 4);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool high = lane & 2;
    two[i] = (high ? four[i + 2] : four[i]) + __shfl_xor_sync(kAll, high ? four[i] : four[i + 2], 2);
  }
  const bool high = lane & 1;
  float sum = (high ? two[1] : two[0]) + __shfl_xor_sync(kAll, high ? two[0] : two[1], 1);
  sum += __shfl_xor_sync(kAll, sum, 8);
  return sum + __shfl_xor_sync(kAll, sum, 16);
}

/// What a warp has seen of its heads: sums of values by lane, and in lane l the largest score and the total of head l % 8 / 2, of
/// every second key.
template <int kValues>
struct SeenSums {
  float sums[kHeads][kValues], largest, total;

  /// Everything is now over another largest score.
  __device__ void Scale(float kept) {
    total *= kept;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float factor = __shfl_sync(kAll, kept, h * kKeys);
#pragma unroll
      for (int v = 0; v < kValues; ++v) sums[h][v] *= factor;
    }
  }
};

template <int kValues>
__device__ inline void SeeKeys(const SeenKeys& keys, const float (&q)[kHeads][kValues], int begin, int step,
                               SeenSums<kValues>& seen) {
  const bool odd = threadIdx.x & 1;
  for (int i = begin; i < keys.count; i += step) {
    const bool both = i + 1 < keys.count;
    float key[kKeys][kValues], scores[kScores];
    LoadValues(keys.Key(i), keys.a.depth, key[0]);
    LoadValues(keys.Key(both ? i + 1 : i), keys.a.depth, key[1]);
#pragma unroll
    for (int s = 0; s < kScores; ++s) {
      scores[s] = 0;
#pragma unroll
      for (int v = 0; v < kValues; ++v) scores[s] = fmaf(q[s / kKeys][v], key[s % kKeys][v], scores[s]);
    }
    float score = SumsByLane(scores);
    if (odd && !both) score = -INFINITY;
    const float most = fmaxf(seen.largest, fmaxf(score, __shfl_xor_sync(kAll, score, 1)));
    if (__any_sync(kAll, most != seen.largest)) {
      seen.Scale(most == seen.largest ? 1.0f : expf(seen.largest - most));
      seen.largest = most;
    }
    const float part = odd && !both ? 0.0f : expf(score - most);
    seen.total += part;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float p0 = __shfl_sync(kAll, part, h * kKeys), p1 = __shfl_sync(kAll, part, h * kKeys + 1);
#pragma unroll
      for (int v = 0; v < kValues; ++v) seen.sums[h][v] = fmaf(p1, both ? key[1][v] : 0.0f, fmaf(p0, key[0][v], seen.sums[h][v]));
    }
  }
}

/// The first warp gets what all warps of the block have seen.
template <int kValues>
__device__ inline void AddUp(SeenSums<kValues>& seen) {
  __shared__ float largest[kWarps][kScores], totals[kWarps][kScores];
  __shared__ float sums[kWarps / 2][kHeads][kValues * 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane < kScores) largest[warp][lane] = seen.largest;
  __syncthreads();
  float most = -INFINITY;
  for (int w = 0; w < kWarps; ++w) most = fmaxf(most, largest[w][lane % kScores]);
  seen.Scale(most == seen.largest ? 1.0f : expf(seen.largest - most));
  if (lane < kScores) totals[warp][lane] = seen.total;
  __syncthreads();
  seen.total = 0;
  for (int w = 0; w < kWarps; ++w) seen.total += totals[w][lane % kScores];
  for (int half = kWarps / 2; half > 0; half /= 2) {
    __syncthreads();
    if (warp >= half && warp < 2 * half) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int v = 0; v < kValues; ++v) sums[warp - half][h][v * 32 + lane] = seen.sums[h][v];
      }
    }
    __syncthreads();
    if (warp >= half) continue;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int v = 0; v < kValues; ++v) seen.sums[h][v] += sums[warp][h][v * 32 + lane];
    }
  }
}

template <int kValues, bool kShared>
__global__ void __launch_bounds__(kThreads) AttendWindow(const WindowArguments a) {
  Begin();
  const int groups = (a.heads + kHeads - 1) / kHeads, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t task = kShared ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int64_t token = task / groups;
  const int first_head = static_cast<int>(task % groups) * kHeads;
  StateRow row;
  if (token >= a.table.tokens || !a.table.ReadOf(token, row)) return;  // whole warps, and whole blocks that share
  const SeenKeys keys(a, row, token);
  if (keys.count - keys.in_window > a.entry_count && a.entries) {
    if (lane == 0) Report(a.table.fault, kStateTokensOutside, token, keys.count - keys.in_window, a.entry_count);
    return;
  }
  float q[kHeads][kValues];
  SeenSums<kValues> seen{};
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int64_t from = token * a.q_token + min(first_head + h, a.heads - 1) * a.q_head;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int d = v * 32 + lane;
      q[h][v] = d < a.depth ? a.scale * GetAs(a.q, a.dtype, from + d) : 0.0f;
    }
  }
  const bool sinks = a.sinks.data && (!kShared || warp == 0);
  seen.largest = sinks ? a.sinks.At(min(first_head + lane % kScores / kKeys, a.heads - 1)) : -INFINITY;
  seen.total = sinks && lane % kKeys == 0 ? 1.0f : 0.0f;
  SeeKeys(keys, q, kShared ? warp * kKeys : 0, kShared ? kWarps * kKeys : kKeys, seen);
  if constexpr (kShared) {
    AddUp(seen);
    if (warp > 0) return;
  }
  const float total = seen.total + __shfl_xor_sync(kAll, seen.total, 1);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float divisor = __shfl_sync(kAll, total, h * kKeys);
    if (first_head + h >= a.heads) continue;
    const int64_t to = token * a.out_token + (first_head + h) * a.out_head;
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const int d = v * 32 + lane;
      if (d < a.depth) PutAs(a.out, a.dtype, to + d, seen.sums[h][v] / divisor);
    }
  }
}

__global__ void __launch_bounds__(kThreads) KeepWindow(const WindowArguments a) {
  Begin();
  for (int s = blockIdx.y; s < a.table.count; s += gridDim.y) {
    StateRow row;
    if (!a.table.Read(s, row)) return;
    for (int64_t t = max(int64_t{0}, row.tokens - a.window_tokens) + blockIdx.x; t < row.tokens; t += gridDim.x) {
      float* to = a.window + row.slot * a.window_slot + (row.start + t) % a.window_tokens * a.window_row;
      const float* from = a.k + (row.first + t) * a.k_token;
      for (int d = threadIdx.x; d < a.depth; d += kThreads) to[d] = from[d];
    }
  }
}

template <int kValues>
void Attend(const WindowArguments& a, Run& run) {
  const int64_t tasks = a.table.tokens * ((a.heads + kHeads - 1) / kHeads);
  if (tasks <= kMostShared) {
    Overlapped(AttendWindow<kValues, true>, Blocks(tasks, 1), kThreads, run, a);
  } else {
    Overlapped(AttendWindow<kValues, false>, Blocks(tasks, kWarps), kThreads, run, a);
  }
}

const float* FloatsOf(const View& view) { return reinterpret_cast<const float*>(view.data); }

}  // namespace

void Launch(const WindowAttentionOp& op, Run& run) {
  const int64_t tokens = op.q.shape[0], heads = op.q.shape[1], depth = op.q.shape[2], window = op.window.shape[1];
  if (tokens == 0 || heads == 0 || depth == 0 || op.sequences.shape[0] == 0) return;
  const WindowArguments a{op.out.data,
                          op.q.data,
                          op.q.dtype,
                          FloatsOf(op.k),
                          op.out.strides[0],
                          op.out.strides[1],
                          op.q.strides[0],
                          op.q.strides[1],
                          op.k.strides[0],
                          reinterpret_cast<float*>(op.window.data),
                          op.window.strides[0],
                          op.window.strides[1],
                          window,
                          FloatsOf(op.entries),
                          op.entries.strides[0],
                          op.entries.strides[1],
                          op.entries.shape[1],
                          WeightVector(op.sinks),
                          op.ratio,
                          static_cast<int>(heads),
                          static_cast<int>(depth),
                          op.scale,
                          StateTable(op.sequences, op.slots, tokens, op.window.shape[0], run.fault())};
  if (depth <= 128) {
    Attend<4>(a, run);
  } else {
    Attend<kMostWindowDepth / 32>(a, run);
  }
  const int64_t kept = tokens < window ? tokens : window;
  Overlapped(KeepWindow, dim3(Blocks(kept, 1), Blocks(a.table.count, 1, kMostGridRows)), kThreads, run, a);
}

}  // namespace zi::cuda
