// What a tile of 16-bit attention keeps in shared memory, and the copies that bring it there.
#pragma once
#include "cuda/attention.h"
#include "cuda/tensor_cores.h"

namespace zi::cuda::half_tiles {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kStages = 3;

/// Sizes for heads of up to kDepth values, such that sums stay in registers and tiles in the shared memory of any GPU.
template <int kDepth>
struct Sizes {
  /// Matrices of 16 rows that a warp has: each key that it loads is used for all of them.
  static constexpr int kTiles = kDepth > 128 ? 1 : 2;
  static constexpr int kWarpRows = 16 * kTiles;
  static constexpr int kQueries = kWarps * kWarpRows;
  static constexpr int kKeys = kDepth > 128 ? 16 : kDepth > 64 ? 32 : 64;
};

template <class T, int kDepth>
struct Shared {
  using Size = Sizes<kDepth>;
  /// 16 bytes more than a row, so that the eight rows of a matrix fall into different banks.
  static constexpr int kStride = kDepth + 8;
  T q[Size::kQueries][kStride];
  T keys[kStages][Size::kKeys][kStride], values[kStages][Size::kKeys][kStride];
  int first[Size::kQueries], last[Size::kQueries];  // keys that each row sees; last < first when none
};

/// What loading keys needs to know of the cache beside the arguments.
struct CacheLayout {
  /// Heads are whole groups of eight at multiples of 16 bytes: copied without registers.
  bool groups;
  /// log2 of the tokens of a page, or −1.
  int page_shift;
};

/// Starts copying keys [block, block + kKeys); those outside [begin, end) become zeros: nobody's maximum, and 0 · 0
/// where nobody sees them.
template <class T, int kDepth>
__device__ void LoadKeys(const AttentionArguments& a, const CacheLayout& layout,
                         const AttentionArguments::Sequence& sequence, int kv_head, int block, int begin, int end,
                         int stage, Shared<T, kDepth>& shared) {
  constexpr int kKeys = Sizes<kDepth>::kKeys, kGroups = kDepth / 8;
  if (!layout.groups) {
    for (int i = threadIdx.x; i < kKeys * kDepth; i += kThreads) {
      const int j = i / kDepth, d = i % kDepth, position = block + j;
      int page = 0, offset = 0;
      const bool inside = position >= begin && position < end && a.Place(sequence, position, page, offset);
      shared.keys[stage][j][d] = inside && d < a.depth ? a.Key<T>(page, kv_head, offset)[d] : Narrow<T>(0.0f);
      shared.values[stage][j][d] = inside && d < a.value_depth ? a.Value<T>(page, kv_head, offset)[d] : Narrow<T>(0.0f);
    }
    return;
  }
  // All places first, so that their loads wait for memory together.
  constexpr int kEach = kKeys * kGroups / kThreads;
  const int column = threadIdx.x % kGroups * 8, row = threadIdx.x / kGroups;
  int64_t places[kEach], value_places[kEach];
  const bool has_key = column < a.depth, has_value = column < a.value_depth;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int position = block + row + i * (kThreads / kGroups);
    places[i] = value_places[i] = -1;
    if (position < begin || position >= end || !(has_key || has_value)) continue;
    if (layout.page_shift >= 0) {
      const int entry = sequence.first_page + (position >> layout.page_shift), page = __ldg(a.pages + entry);
      if (page < 0 || page >= a.page_count) {
        Report(a.fault, kPageOutside, entry, page, a.page_count);
      } else {
        const int offset = position & (a.page_tokens - 1);
        places[i] = page * a.key_page + offset * a.key_token;
        value_places[i] = page * a.value_page + offset * a.value_token;
      }
    } else {
      int page, offset;
      if (!a.Place(sequence, position, page, offset)) continue;
      places[i] = page * a.key_page + offset * a.key_token;
      value_places[i] = page * a.value_page + offset * a.value_token;
    }
  }
  const T* const keys = reinterpret_cast<const T*>(a.keys) + kv_head * a.key_head + column;
  const T* const values = reinterpret_cast<const T*>(a.values) + kv_head * a.value_head + column;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int j = row + i * (kThreads / kGroups);
    const bool key = has_key && places[i] >= 0, value = has_value && value_places[i] >= 0;
    CopyGroup(&shared.keys[stage][j][column], keys + (key ? places[i] : 0), key);
    CopyGroup(&shared.values[stage][j][column], values + (value ? value_places[i] : 0), value);
  }
}

/// Starts copying the queries of a tile; rows beyond its tokens become zeros.
template <class T, int kDepth>
__device__ void LoadQueries(const AttentionArguments& a, int head, int first_token, int tokens,
                            Shared<T, kDepth>& shared) {
  constexpr int kQueries = Sizes<kDepth>::kQueries, kGroups = kDepth / 8;
  const T* const from = a.Query<T>(first_token, head);
  if (reinterpret_cast<uintptr_t>(from) % 16 == 0 && a.q_token % 8 == 0 && a.depth % 8 == 0) {
    const int column = threadIdx.x % kGroups * 8;
#pragma unroll 8
    for (int r = threadIdx.x / kGroups; r < kQueries; r += kThreads / kGroups) {
      const bool inside = r < tokens && column < a.depth;
      CopyGroup(&shared.q[r][column], from + (inside ? r * a.q_token + column : 0), inside);
    }
    return;
  }
  for (int i = threadIdx.x; i < kQueries * kDepth; i += kThreads) {
    const int r = i / kDepth, d = i % kDepth;
    shared.q[r][d] = r < tokens && d < a.depth ? from[r * a.q_token + d] : Narrow<T>(0.0f);
  }
}

}  // namespace zi::cuda::half_tiles
