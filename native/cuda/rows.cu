// gather_rows, token_rows, rotary and kv_store: rows picked by index. Tables may lie in page-locked host memory.
#include <algorithm>

#include "cuda/overlap.h"
#include "cuda/rows.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;

struct GatherArguments {
  RowView out;
  const uint8_t* table;
  DType dtype;
  int64_t table_rows, table_stride;
  const int32_t* rows;
  int64_t columns;
  /// Rows of `out` are groups of eight at multiples of 16 bytes.
  bool accumulate, groups;
  float scale;
  Fault* fault;
};

/// A row in groups of eight values, some of which are on their way at once: where the table lies beyond the link, each
/// load takes microseconds.
template <class T>
__device__ void GatherGroups(const GatherArguments& a, const T* from, int64_t token) {
  constexpr int kAhead = 4, kStep = kThreads * 8;
  for (int64_t begin = threadIdx.x * 8; begin < a.columns; begin += kAhead * kStep) {
    float values[kAhead][8];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (begin + u * kStep < a.columns) GetEight(from + begin + u * kStep, values[u]);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int64_t at = begin + u * kStep;
      if (at >= a.columns) break;
      float before[8] = {};
      if (a.accumulate) a.out.GetEight(token, at, before);
#pragma unroll
      for (int i = 0; i < 8; ++i) values[u][i] = fmaf(values[u][i], a.scale, before[i]);
      a.out.PutEight(token, at, values[u]);
    }
  }
}

/// Four values of a row of two-byte ones, or two of a float row, per access: the table may lie beyond the link, which
/// wants few and large reads.
__global__ void GatherRows(const GatherArguments a) {
  Begin();
  const int64_t token = blockIdx.x, row = a.rows[token];
  if (row < 0 || row >= a.table_rows) {
    if (threadIdx.x == 0) Report(a.fault, kRowOutside, token, row, a.table_rows);
    return;
  }
  const int64_t offset = row * a.table_stride;
  const auto put = [&](int64_t i, float read) {
    a.out.Put(token, i, fmaf(read, a.scale, a.accumulate ? a.out.Get(token, i) : 0.0f));
  };
  WithType(a.dtype, [&](auto* type) {
    using T = std::decay_t<decltype(*type)>;
    const T* from = reinterpret_cast<const T*>(a.table) + offset;
    if (a.groups && reinterpret_cast<uintptr_t>(from) % 16 == 0) return GatherGroups(a, from, token);
    constexpr int kEach = 8 / sizeof(T);
    int64_t done = 0;
    if (reinterpret_cast<uintptr_t>(from) % 8 == 0) {
      const int64_t whole = a.columns / kEach * kEach;
#pragma unroll 4
      for (int64_t i = threadIdx.x * kEach; i < whole; i += kThreads * kEach) {
        const uint2 word = *reinterpret_cast<const uint2*>(from + i);
        const T* values = reinterpret_cast<const T*>(&word);
#pragma unroll
        for (int j = 0; j < kEach; ++j) put(i + j, Widen(values[j]));
      }
      done = whole;
    }
    for (int64_t i = done + threadIdx.x; i < a.columns; i += kThreads) put(i, Widen(from[i]));
  });
}

__global__ void TokenRows(int32_t* rows, int64_t stride, const int32_t* tokens, int64_t tokens_stride, int64_t count) {
  Begin();
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= count) return;
  const int32_t token = tokens[at * tokens_stride];
  rows[at * stride] = token == kNoToken ? 0 : token;
}

/// A block per token: its sines and cosines are computed once, for all heads.
__global__ void __launch_bounds__(kThreads) Rotary(const __grid_constant__ TurnArguments a, const RowView x, const int heads,
                                                   const bool eights) {
  extern __shared__ float turns[];
  Begin();
  const int64_t token = blockIdx.x;
  FindTurns(a, token, turns);
  const int pairs = a.pairs, step = eights ? 8 : 1, steps = pairs / step;
  for (int at = threadIdx.x; at < heads * steps; at += kThreads) {
    const int64_t row = token * heads + at / steps;
    const int i = at % steps * step;
    if (!eights) {
      const int first = a.interleaved ? 2 * i : i, second = a.interleaved ? 2 * i + 1 : i + pairs;
      const float one = x.Get(row, first), other = x.Get(row, second), cosine = turns[i], sine = turns[pairs + i];
      x.Put(row, first, one * cosine - other * sine);
      x.Put(row, second, other * cosine + one * sine);
      continue;
    }
    float low[8], high[8];
    x.GetEight(row, a.First(i), low);
    x.GetEight(row, a.Second(i), high);
    TurnEight(a, turns, i, low, high);
    x.PutEight(row, a.First(i), low);
    x.PutEight(row, a.Second(i), high);
  }
}

struct CacheView {
  uint8_t* data;
  DType dtype;
  int64_t page_stride, head_stride, token_stride;
  explicit CacheView(const View& view)
      : data(view.data),
        dtype(view.dtype),
        page_stride(view.strides[0]),
        head_stride(view.strides[1]),
        token_stride(view.strides[2]) {}
};

struct StoreArguments {
  RowView k, v;
  CacheView keys, values;
  const int32_t* slots;
  int64_t slot_count, page_tokens, heads;
  /// Values of a head of k, and of v: 0 where values lie in keys.
  int64_t depth, value_depth;
  Fault* fault;
  /// Magnitudes from here on are none in the cache's type.
  float limit;
};

__device__ float Within(float value, float limit) { return fabsf(value) < limit ? value : NAN; }

/// W neighbours of a head at once: 8 where everything is aligned, else 1. In a cache of another type what that cannot hold
/// becomes NaN: an infinite key may make a score that nobody notices.
template <int W, bool kOtherType>
__global__ void KvStore(const StoreArguments a) {
  Begin();
  const int64_t token = blockIdx.x, slot = a.slots[token];
  if (slot < 0 || slot >= a.slot_count) {
    if (threadIdx.x == 0) Report(a.fault, kSlotOutside, token, slot, a.slot_count);
    return;
  }
  const int64_t page = slot / a.page_tokens, offset = slot % a.page_tokens;
  const int heads = static_cast<int>(a.heads);
  const int key_groups = static_cast<int>(a.depth / W), value_groups = static_cast<int>(a.value_depth / W);
  const auto store = [&](const RowView& from, const CacheView& to, int head, int d) {
    const int64_t at = page * to.page_stride + head * to.head_stride + offset * to.token_stride + d;
    const int64_t row = token * a.heads + head;
    if constexpr (W == 8) {
      float value[8];
      from.GetEight(row, d, value);
      if constexpr (kOtherType) {
#pragma unroll
        for (float& one : value) one = Within(one, a.limit);
      }
      PutEightAs(to.data, to.dtype, at, value);
    } else {
      const float value = from.Get(row, d);
      PutAs(to.data, to.dtype, at, kOtherType ? Within(value, a.limit) : value);
    }
  };
  for (int i = threadIdx.x; i < heads * max(key_groups, value_groups); i += kThreads) {
    if (i < heads * key_groups) store(a.k, a.keys, i / key_groups, i % key_groups * W);
    if (i < heads * value_groups) store(a.v, a.values, i / value_groups, i % value_groups * W);
  }
}

/// As KvStore stores values of the cache's type, which are the same bits: a block for a token's keys and one for its values.
__global__ void KvCopy(const CopyArguments a) {
  const CopySide& side = a.sides[blockIdx.y];
  const int token = blockIdx.x;
  Begin();
  const int slot = a.SlotOf(token, threadIdx.x == 0);
  if (slot < 0) return;
  for (int i = threadIdx.x; i < a.heads * side.pieces; i += blockDim.x) {
    a.CopyPiece(side, token, slot, i / side.pieces, i % side.pieces);
  }
}

/// The least magnitude that does not round to a finite number of the type.
float LimitOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 65520.0f;
    case DType::kBF16:
      return 0x1.ffp+127f;
    case DType::kF32:
      return INFINITY;
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(dtype);
}

template <int W>
void LaunchStore(const StoreArguments& arguments, int64_t tokens, Run& run) {
  const bool other = arguments.k.dtype != arguments.keys.dtype;
  Overlapped(other ? KvStore<W, true> : KvStore<W, false>, Blocks(tokens, 1), kThreads, run, arguments);
}

const int32_t* Ints(const View& view) { return reinterpret_cast<const int32_t*>(view.data); }

void LaunchKvCopy(const KvStoreOp& op, Run& run) {
  const CopyArguments a(op, run.fault());
  const int pieces = a.heads * std::max(a.sides[0].pieces, a.sides[1].pieces);
  const dim3 grid(Blocks(op.k.shape[0], 1), op.v.data ? 2 : 1);
  Overlapped(KvCopy, grid, static_cast<unsigned>(std::min(1024, (pieces + 31) / 32 * 32)), run, a);
}

/// Eight neighbours of keys and values at once.
bool StoresEights(const KvStoreOp& op) {
  const View& v = op.v.data ? op.v : op.k;
  const int64_t value_depth = op.v.data ? v.shape[2] : 0;
  return op.k.shape[2] % 8 == 0 && value_depth % 8 == 0 && RowsAligned(op.k, 16) && RowsAligned(v, 16) &&
         RowsAligned(op.keys, 16) && RowsAligned(op.values, 16);
}

}  // namespace

void Launch(const GatherRowsOp& op, Run& run) {
  const int64_t tokens = op.out.shape[0], columns = op.out.shape[1];
  if (tokens == 0 || columns == 0) return;
  const GatherArguments arguments{RowView(op.out),       op.table.data, op.table.dtype, op.table.shape[0],
                                  op.table.strides[0],   Ints(op.rows), columns,        op.accumulate,
                                  columns % 8 == 0 && RowsAligned(op.out, 16), op.scale, run.fault()};
  Overlapped(GatherRows, Blocks(tokens, 1), kThreads, run, arguments);
}

void Launch(const TokenRowsOp& op, Run& run) {
  const int64_t count = op.tokens.shape[0];
  if (count == 0) return;
  Overlapped(TokenRows, Blocks(count, kThreads), kThreads, run, reinterpret_cast<int32_t*>(op.rows.data), op.rows.strides[0],
             Ints(op.tokens), op.tokens.strides[0], count);
}

bool StoresPieces(const KvStoreOp& op) {
  const bool same = op.k.dtype == op.keys.dtype && (!op.v.data || op.v.dtype == op.values.dtype);
  return same && !op.key_scales.data && StoresEights(op) && op.keys.shape[0] * op.keys.shape[2] <= INT32_MAX;
}

void Launch(const RotaryOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], heads = op.x.shape[1];
  const TurnArguments arguments(op);
  if (tokens * heads * arguments.pairs == 0) return;
  const bool eights = arguments.pairs % 8 == 0 && RowsAligned(op.x, 16);
  OverlappedWith(arguments.shared_bytes(), Rotary, Blocks(tokens, 1), kThreads, run, arguments, RowView(op.x),
                 static_cast<int>(heads), eights);
}

void Launch(const KvStoreOp& op, Run& run) {
  const int64_t tokens = op.k.shape[0], heads = op.k.shape[1], depth = op.k.shape[2];
  // Without v the values are a part of what is stored of k.
  const View& v = op.v.data ? op.v : op.k;
  const int64_t value_depth = op.v.data ? v.shape[2] : 0;
  if (tokens * heads * (depth + value_depth) == 0) return;
  if (op.key_scales.data) return LaunchStoreCodes(op, run);
  const StoreArguments arguments{RowView(op.k),
                                 RowView(v),
                                 CacheView(op.keys),
                                 CacheView(op.values),
                                 Ints(op.slots),
                                 op.keys.shape[0] * op.keys.shape[2],
                                 op.keys.shape[2],
                                 heads,
                                 depth,
                                 value_depth,
                                 run.fault(),
                                 LimitOf(op.keys.dtype)};
  if (StoresPieces(op)) return LaunchKvCopy(op, run);
  StoresEights(op) ? LaunchStore<8>(arguments, tokens, run) : LaunchStore<1>(arguments, tokens, run);
}

}  // namespace zi::cuda
