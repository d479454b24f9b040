// Tiles of wide heads on compute capability 9.0 over a cache of codes, or of the other type of 16 bits: a group of four warps
// copies pieces of keys as they are stored to where their values go in shared memory, and expands them there.
#include "cuda/attention_wide_pairs_kernel.h"
#include "cuda/overlap.h"

namespace zi::cuda::wide {
namespace pairs {

/// How eight values lie in the cache; `bits` is of their scale.
template <class Codes>
struct OfCodes {
  static constexpr int kBytes = 4 * 8 / Codes::kPerWord;
  static constexpr bool kScaled = true;
  template <class T>
  __device__ static void Expand(T* at, uint16_t bits) {
    float values[8];
    GetEightCodes<T, Codes>(at, bits, values);
    PutEight(at, values);
  }
};
struct OfOthers {
  static constexpr int kBytes = 16;
  static constexpr bool kScaled = false;
  template <class T>
  __device__ static void Expand(T* at, uint16_t) {
    using Other = std::conditional_t<std::is_same_v<T, __half>, __nv_bfloat16, __half>;
    float values[8];
    GetEight(reinterpret_cast<const Other*>(at), values);
    PutEight(at, values);
  }
};

namespace {

struct ExpandedKeys {
  struct Source {};
  static constexpr int kRegisters = 88, kWarps = kGroup / 32;
  static constexpr bool kPlaced = false;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  template <class T>
  __device__ static void Bring(const Source&, const Arguments& a, const Tile& tile, int begin, int end, Shared<T>& shared) {
    switch (a.cache) {
      case DType::kE4M3:
        return BringEights<T, OfCodes<E4M3Codes>>(a, tile, begin, end, shared);
      case DType::kI8:
        return BringEights<T, OfCodes<I8Codes>>(a, tile, begin, end, shared);
      case DType::kU8:
        return BringEights<T, OfCodes<NibbleCodes>>(a, tile, begin, end, shared);
      case DType::kF16:
      case DType::kBF16:
        return BringEights<T, OfOthers>(a, tile, begin, end, shared);
      case DType::kF32:
      case DType::kI32:
      case DType::kE8M0:
        break;
    }
    __trap();
  }

  /// Eight threads have an eighth of a part of a key each, and every sixteenth key.
  template <class T, class Eight>
  __device__ static void BringEights(const Arguments& a, const Tile& tile, int begin, int end, Shared<T>& shared) {
    constexpr int kStep = kGroup / 8, kEach = kKeys / kStep, kPart = Eight::kBytes * 8;
    const int thread = threadIdx.x % kGroup, eighth = thread % 8, first_key = thread / 8;
    const uint16_t* const scales = reinterpret_cast<const uint16_t*>(a.key_scales);
    const int row_bytes = a.depth / 8 * Eight::kBytes;
    const bool prefetches = row_bytes % 16 == 0 && a.reach == 16 && thread < kKeys;
    const auto page_of = [&](int position) {
      return position >= begin && position < end ? __ldg(a.pages + tile.sequence.first_page + position / a.page_tokens) : -1;
    };
    int pages[kEach];
    const auto look = [&](int block) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) pages[i] = page_of(block + first_key + i * kStep);
    };
    uint32_t parity[kStages] = {1, 1};
    look(begin / kKeys * kKeys);
    ForBlocks(a, begin, end, [&](int block, int stage) {
      const uint8_t* from[kEach];
      uint16_t bits[Eight::kScaled ? kParts : 1][kEach] = {};
      int values[kEach];  // from this thread's first one on
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int position = block + first_key + i * kStep, offset = position % a.page_tokens;
        int page = pages[i];
        const bool inside = position >= begin && position < end;
        bool valid = page >= 0 && page < a.page_count;
        if (inside && !valid) Report(a.fault, kPageOutside, tile.sequence.first_page + position / a.page_tokens, page, a.page_count);
        valid = valid && inside;
        page = valid ? page : 0;
        constexpr int kElement = Eight::kScaled ? 1 : 2;
        from[i] = a.keys + a.KeyAt(page, tile.kv_head, offset) * kElement + eighth * Eight::kBytes;
        values[i] = valid ? a.depth - eighth * 8 : 0;
        if constexpr (Eight::kScaled) {
          const uint16_t* const own = scales + a.KeyScaleAt(page, tile.kv_head, offset);
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
            const int column = part * kColumns + eighth * 8;
            if (values[i] > part * kColumns) bits[part][i] = __ldg(own + column / a.group);
          }
        }
      }
      const int ahead = block + 2 * kKeys + thread, ahead_page = prefetches ? page_of(ahead) : -1;
      look(block + kKeys);
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        Await(&shared.read[stage][piece], parity[stage]);
#pragma unroll
        for (int p = 0; p < PartsOfPiece(piece); ++p) {
          const int part = piece * kHalfParts + p;
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            const int key = first_key + i * kStep;
            CopySome<Eight::kBytes>(Swizzled(shared.keys[stage][part][key], key, eighth * 8), from[i] + part * kPart,
                                    values[i] > part * kColumns);
          }
        }
        CommitCopies();
      }
      if (ahead_page >= 0 && ahead_page < a.page_count) {
        constexpr int kElement = Eight::kScaled ? 1 : 2;
        Prefetch(a.keys + a.KeyAt(ahead_page, tile.kv_head, ahead % a.page_tokens) * kElement, row_bytes);
      }
      const auto expand = [&](auto which) {
        constexpr int kPiece = decltype(which)::value;
        WaitForAllCopiesBut<kPieces - 1 - kPiece>();
#pragma unroll
        for (int p = 0; p < PartsOfPiece(kPiece); ++p) {
          constexpr int kFirstPart = kPiece * kHalfParts;
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            const int key = first_key + i * kStep, part = kFirstPart + p;
            Eight::Expand(Swizzled(shared.keys[stage][part][key], key, eighth * 8), bits[Eight::kScaled ? part : 0][i]);
          }
        }
        ShowToProducts();
        ArriveWarp(&shared.there[stage][kPiece]);
      };
      expand(std::integral_constant<int, 0>());
      expand(std::integral_constant<int, 1>());
      expand(std::integral_constant<int, 2>());
      parity[stage] ^= 1;
    });
  }
#endif
};

}  // namespace
}  // namespace pairs

void LaunchStoredPairs(DType type, const Arguments& a, dim3 grid, Run& run) {
  type == DType::kF16 ? pairs::LaunchTyped<__half, pairs::ExpandedKeys>(a, {}, grid, run)
                      : pairs::LaunchTyped<__nv_bfloat16, pairs::ExpandedKeys>(a, {}, grid, run);
}

}  // namespace zi::cuda::wide
