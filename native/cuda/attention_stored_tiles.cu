// attention of sequences with many new tokens in 16-bit types, over a cache of codes or of another type: a thread copies its
// pieces as they are stored to where their values go in shared memory, and expands them there once they have come.
#include "cuda/attention_half_kernel.h"
#include "cuda/stored_cache.h"

namespace zi::cuda {
namespace {

using namespace half_tiles;

/// What a thread's pieces of a block of keys are multiplied by: bits of bf16, zero for what is outside.
template <int kEach>
struct PieceScales {
  uint16_t keys[kEach] = {}, values[kEach] = {};
};

/// A piece is eight values of a key or a value.
template <class T, int kDepth>
struct ExpandingLoader {
  using Arguments = StoredArguments;
  static constexpr int kKeys = Sizes<kDepth>::kKeys, kGroups = kDepth / 8, kRows = kThreads / kGroups;
  static constexpr int kEach = kKeys / kRows;

  /// Those of the block that is expanded next, the one after it, and the one that was loaded last.
  PieceScales<kEach> now, next, last;

  /// Whether pieces can be copied without registers.
  static bool Groups(const AttentionOp& op, const Arguments& a) {
    const int64_t piece = a.cache == DType::kU8 ? 4 : 8 * ElementBytes(a.cache);
    return a.cache != DType::kF32 && a.depth % 8 == 0 && a.value_depth % 8 == 0 && RowsAligned(op.keys, piece) &&
           RowsAligned(op.values, piece);
  }

  __device__ void Advance() { now = next, next = last; }

  /// Starts copying as LoadKeys does.
  __device__ void Load(const Arguments& a, const CacheLayout& layout, const Arguments::Sequence& sequence, int kv_head,
                       int block, int begin, int end, int stage, Shared<T, kDepth>& shared) {
    if (!layout.groups) return LoadSingly(a, sequence, kv_head, block, begin, end, stage, shared);
    switch (a.cache) {
      case DType::kE4M3:
      case DType::kI8:
        return LoadPieces<8>(a, layout, sequence, kv_head, block, begin, end, stage, shared);
      case DType::kU8:
        return LoadPieces<4>(a, layout, sequence, kv_head, block, begin, end, stage, shared);
      case DType::kF16:
      case DType::kBF16:
        return LoadPieces<16>(a, layout, sequence, kv_head, block, begin, end, stage, shared);
      case DType::kF32:
      case DType::kI32:
      case DType::kE8M0:
        break;
    }
    __trap();
  }

  __device__ void LoadSingly(const Arguments& a, const Arguments::Sequence& sequence, int kv_head, int block, int begin,
                             int end, int stage, Shared<T, kDepth>& shared) {
    for (int i = threadIdx.x; i < kKeys * kDepth; i += kThreads) {
      const int j = i / kDepth, d = i % kDepth, position = block + j;
      int page = 0, offset = 0;
      float key = 0, value = 0;
      if (position >= begin && position < end && a.Place(sequence, position, page, offset)) {
        if (d < a.depth) key = a.KeyValue(page, kv_head, offset, d);
        if (d < a.value_depth) value = a.ValueValue(page, kv_head, offset, d);
      }
      shared.keys[stage][j][d] = Narrow<T>(key);
      shared.values[stage][j][d] = Narrow<T>(value);
    }
  }

  template <int kBytes>
  __device__ void LoadPieces(const Arguments& a, const CacheLayout& layout, const Arguments::Sequence& sequence,
                             int kv_head, int block, int begin, int end, int stage, Shared<T, kDepth>& shared) {
    // All places first, so that their loads wait for memory together.
    const int column = threadIdx.x % kGroups * 8, row = threadIdx.x / kGroups;
    int pages[kEach], offsets[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int position = block + row + i * kRows;
      pages[i] = -1, offsets[i] = 0;
      if ((column >= a.depth && column >= a.value_depth) || position < begin || position >= end) continue;
      int page, offset;
      if (layout.page_shift >= 0) {
        const int entry = sequence.first_page + (position >> layout.page_shift);
        page = __ldg(a.pages + entry), offset = position & (a.page_tokens - 1);
        if (page < 0 || page >= a.page_count) {
          Report(a.fault, kPageOutside, entry, page, a.page_count);
          continue;
        }
      } else if (!a.Place(sequence, position, page, offset)) {
        continue;
      }
      pages[i] = page, offsets[i] = offset;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = row + i * kRows;
      constexpr int kElement = kBytes == 16 ? 2 : 1;
      const bool key = pages[i] >= 0 && column < a.depth, value = pages[i] >= 0 && column < a.value_depth;
      const int64_t key_at = key ? a.KeyAt(pages[i], kv_head, offsets[i]) * kElement + column / 8 * kBytes : 0;
      const int64_t value_at = value ? a.ValueAt(pages[i], kv_head, offsets[i]) * kElement + column / 8 * kBytes : 0;
      CopySome<kBytes>(&shared.keys[stage][j][column], a.keys + key_at, key);
      CopySome<kBytes>(&shared.values[stage][j][column], a.values + value_at, value);
      if constexpr (kBytes != 16) {
        const uint16_t* const key_scales = reinterpret_cast<const uint16_t*>(a.key_scales);
        const uint16_t* const value_scales = reinterpret_cast<const uint16_t*>(a.value_scales);
        last.keys[i] = key ? key_scales[a.KeyScaleAt(pages[i], kv_head, offsets[i]) + column / a.group] : 0;
        last.values[i] = value ? value_scales[a.ValueScaleAt(pages[i], kv_head, offsets[i]) + column / a.value_group] : 0;
      }
    }
  }

  /// What this thread copied of the stage becomes values. Nobody else touches these places before the barrier that follows.
  __device__ void Expand(const Arguments& a, const CacheLayout& layout, int stage, Shared<T, kDepth>& shared) {
    if (!layout.groups) return;
    switch (a.cache) {
      case DType::kE4M3:
        return ExpandCodes<E4M3Codes>(stage, shared);
      case DType::kI8:
        return ExpandCodes<I8Codes>(stage, shared);
      case DType::kU8:
        return ExpandCodes<NibbleCodes>(stage, shared);
      case DType::kF16:
        return ExpandFloats<__half>(stage, shared);
      case DType::kBF16:
        return ExpandFloats<__nv_bfloat16>(stage, shared);
      case DType::kF32:
      case DType::kI32:
      case DType::kE8M0:
        break;
    }
    __trap();
  }

  template <class F>
  __device__ static void ForPieces(int stage, Shared<T, kDepth>& shared, F use) {
    const int column = threadIdx.x % kGroups * 8, row = threadIdx.x / kGroups;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      use(&shared.keys[stage][row + i * kRows][column], &shared.values[stage][row + i * kRows][column], i);
    }
  }
  template <class Codes>
  __device__ void ExpandCodes(int stage, Shared<T, kDepth>& shared) const {
    const auto expand = [](T* at, uint16_t scale_bits) {
      float values[8];
      GetEightCodes<T, Codes>(at, scale_bits, values);
      PutEight(at, values);
    };
    ForPieces(stage, shared, [&](T* key, T* value, int i) {
      expand(key, now.keys[i]);
      expand(value, now.values[i]);
    });
  }
  template <class C>
  __device__ static void ExpandFloats(int stage, Shared<T, kDepth>& shared) {
    ForPieces(stage, shared, [](T* key, T* value, int) {
      for (T* at : {key, value}) {
        float values[8];
        GetEight(reinterpret_cast<const C*>(at), values);
        PutEight(at, values);
      }
    });
  }
};

}  // namespace

void LaunchStoredHalfTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  LaunchAnyType<ExpandingLoader>(op, fewer_tokens, run);
}

}  // namespace zi::cuda
