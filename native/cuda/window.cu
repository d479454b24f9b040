// window_attention: a warp per token and some heads, lanes over the values of a head, two keys at a time; then another kernel keeps
// the latest keys. Keys are counted from the first that a token sees, so that a text does not depend on where it is cut.
#include <algorithm>

#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/states.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kKeys = 2;

struct WindowArguments {
  RowView out, q;  // rows: token · heads + head
  const uint8_t* k;
  int64_t k_token;
  float* window;
  int64_t window_slot, window_row, window_tokens;
  const float* entries;
  int64_t entry_slot, entry_row, entry_count;
  WeightVector sinks;
  int64_t ratio, heads, depth;
  float scale;
  StateTable table;
};

/// Where a token's keys lie: positions of the window, then entries.
template <class T>
struct SeenKeys {
  const WindowArguments& a;
  StateRow row;
  int64_t first, in_window, count;

  __device__ SeenKeys(const WindowArguments& arguments, const StateRow& sequence, int64_t token) : a(arguments), row(sequence) {
    const int64_t position = row.start + token - row.first;
    first = max(int64_t{0}, position - a.window_tokens + 1);
    in_window = position + 1 - first;
    count = in_window + (a.entries ? (position + 1) / a.ratio : 0);
  }
  /// kValues of a lane, 32 apart.
  template <int kValues>
  __device__ void Load(int64_t i, int lane, float (&to)[kValues]) const {
    if (i < in_window && first + i >= row.start) {
      const T* from = reinterpret_cast<const T*>(a.k) + (row.first + first + i - row.start) * a.k_token;
#pragma unroll
      for (int v = 0; v < kValues; ++v) to[v] = v * 32 + lane < a.depth ? Widen(from[v * 32 + lane]) : 0.0f;
      return;
    }
    const float* from = i < in_window
                            ? a.window + row.slot * a.window_slot + (first + i) % a.window_tokens * a.window_row
                            : a.entries + row.slot * a.entry_slot + (i - in_window) * a.entry_row;
#pragma unroll
    for (int v = 0; v < kValues; ++v) to[v] = v * 32 + lane < a.depth ? from[v * 32 + lane] : 0.0f;
  }
};

/// kHeads · kValues · 32 values of queries are in a warp's registers, and as many sums.
template <class T, int kHeads, int kValues>
__global__ void __launch_bounds__(kThreads) AttendWindow(const WindowArguments a) {
  Begin();
  const int lane = threadIdx.x % 32;
  const int64_t groups = (a.heads + kHeads - 1) / kHeads;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int64_t token = task / groups, first_head = task % groups * kHeads;
  StateRow row;
  if (token >= a.table.tokens || !a.table.ReadOf(token, row)) return;
  const SeenKeys<T> keys(a, row, token);
  if (keys.count - keys.in_window > a.entry_count) {
    if (lane == 0) Report(a.table.fault, kStateTokensOutside, token, keys.count - keys.in_window, a.entry_count);
    return;
  }
  float q[kHeads][kValues], sums[kHeads][kValues], largest[kHeads], total[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int64_t head = min(first_head + h, a.heads - 1);
    const T* from = a.q.Row<T>(token * a.heads + head);
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      q[h][v] = v * 32 + lane < a.depth ? a.scale * Widen(from[v * 32 + lane]) : 0.0f;
      sums[h][v] = 0;
    }
    largest[h] = a.sinks.data ? a.sinks.At(head) : -INFINITY;
    total[h] = largest[h] == -INFINITY ? 0.0f : 1.0f;
  }
  for (int64_t i = 0; i < keys.count; i += kKeys) {
    float key[kKeys][kValues], scores[kKeys][kHeads];
    const bool both = i + 1 < keys.count;
    keys.Load(i, lane, key[0]);
    keys.Load(both ? i + 1 : i, lane, key[1]);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float sum = 0;
#pragma unroll
        for (int v = 0; v < kValues; ++v) sum = fmaf(q[h][v], key[j][v], sum);
        scores[j][h] = WarpSum(sum);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (!both) scores[1][h] = -INFINITY;
      const float most = fmaxf(largest[h], fmaxf(scores[0][h], scores[1][h]));
      if (most != largest[h]) {  // all lanes agree
        const float kept = expf(largest[h] - most);
        total[h] *= kept;
#pragma unroll
        for (int v = 0; v < kValues; ++v) sums[h][v] *= kept;
        largest[h] = most;
      }
      const float p0 = expf(scores[0][h] - most), p1 = both ? expf(scores[1][h] - most) : 0.0f;
      total[h] += p0 + p1;
#pragma unroll
      for (int v = 0; v < kValues; ++v) sums[h][v] = fmaf(p0, key[0][v], sums[h][v]);
      if (!both) continue;
#pragma unroll
      for (int v = 0; v < kValues; ++v) sums[h][v] = fmaf(p1, key[1][v], sums[h][v]);
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (first_head + h >= a.heads) continue;
    T* to = a.out.Row<T>(token * a.heads + first_head + h);
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      if (v * 32 + lane < a.depth) to[v * 32 + lane] = Narrow<T>(sums[h][v] / total[h]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) KeepWindow(const WindowArguments a) {
  Begin();
  for (int s = blockIdx.y; s < a.table.count; s += gridDim.y) {
    StateRow row;
    if (!a.table.Read(s, row)) return;
    for (int64_t t = max(int64_t{0}, row.tokens - a.window_tokens) + blockIdx.x; t < row.tokens; t += gridDim.x) {
      float* to = a.window + row.slot * a.window_slot + (row.start + t) % a.window_tokens * a.window_row;
      const T* from = reinterpret_cast<const T*>(a.k) + (row.first + t) * a.k_token;
      for (int64_t d = threadIdx.x; d < a.depth; d += kThreads) to[d] = Widen(from[d]);
    }
  }
}

template <class T, int kHeads, int kValues>
void Attend(const WindowArguments& a, Run& run) {
  const int64_t tasks = a.table.tokens * ((a.heads + kHeads - 1) / kHeads);
  Overlapped(AttendWindow<T, kHeads, kValues>, Blocks(tasks, kThreads / 32), kThreads, run, a);
}

template <class T>
void LaunchWindow(const WindowArguments& a, Run& run) {
  if (a.depth <= 128) {
    Attend<T, 4, 4>(a, run);
  } else {
    Attend<T, 4, 16>(a, run);
  }
  const int64_t kept = std::min(a.table.tokens, a.window_tokens);
  Overlapped(KeepWindow<T>, dim3(Blocks(kept, 1), Blocks(a.table.count, 1, kMostGridRows)), kThreads, run, a);
}

}  // namespace

void Launch(const WindowAttentionOp& op, Run& run) {
  const int64_t tokens = op.q.shape[0], heads = op.q.shape[1], depth = op.q.shape[2];
  if (tokens == 0 || heads == 0 || depth == 0 || op.sequences.shape[0] == 0) return;
  const WindowArguments a{RowView(op.out),
                          RowView(op.q),
                          op.k.data,
                          op.k.strides[0],
                          reinterpret_cast<float*>(op.window.data),
                          op.window.strides[0],
                          op.window.strides[1],
                          op.window.shape[1],
                          reinterpret_cast<const float*>(op.entries.data),
                          op.entries.strides[0],
                          op.entries.strides[1],
                          op.entries.shape[1],
                          WeightVector(op.sinks),
                          op.ratio,
                          heads,
                          depth,
                          op.scale,
                          StateTable(op.sequences, op.slots, tokens, op.window.shape[0], run.fault())};
  switch (op.q.dtype) {
    case DType::kF32:
      return LaunchWindow<float>(a, run);
    case DType::kF16:
      return LaunchWindow<__half>(a, run);
    case DType::kBF16:
      return LaunchWindow<__nv_bfloat16>(a, run);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(op.q.dtype);
}

}  // namespace zi::cuda
