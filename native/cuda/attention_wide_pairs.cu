// Tiles of wide heads over keys of the type of the queries, which the copy engine brings on compute capability 9.0: once for both
// blocks of a pair, each of which asks for a half of every block of keys.
#include <cuda.h>
#include <dlfcn.h>

#include <algorithm>
#include <numeric>

#include "cuda/attention_wide_pairs_kernel.h"
#include "cuda/library.h"

namespace zi::cuda::wide {
namespace pairs {
namespace {

/// Rows of a key's parts that are copied at once, at least.
constexpr int kLeastRows = 8;

struct CopiedKeys {
  struct Source {
    CUtensorMap map;  // values of a key, tokens of a page, heads, pages
    int rows;         // that are copied at once: of one page
  };
  static constexpr int kRegisters = 24, kWarps = 1;
  static constexpr bool kPlaced = true;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __device__ static void Copy(const CUtensorMap& map, void* to, uint64_t* barrier, int column, int token, int head, int page,
                              int sharers) {
    if (sharers > 1) {
      asm volatile(
          "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
          "[%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(SharedAddress(to)),
          "l"(&map), "r"(column), "r"(token), "r"(head), "r"(page), "r"(SharedAddress(barrier)), "h"(static_cast<uint16_t>(3))
          : "memory");
    } else {
      asm volatile(
          "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(
              SharedAddress(to)),
          "l"(&map), "r"(column), "r"(token), "r"(head), "r"(page), "r"(SharedAddress(barrier))
          : "memory");
    }
  }
  template <class T>
  __device__ static void Bring(const Source& source, const Arguments& a, const Tile& tile, int begin, int end,
                               Shared<T>& shared) {
    if (threadIdx.x % kGroup >= 32) return;
    const int lane = threadIdx.x % 32, rows = source.rows, each = kKeys / a.sharers;
    const bool copies = lane * rows < each;
    const int row = (a.sharers > 1 ? static_cast<int>(RankInCluster()) * each : 0) + lane * rows;
    // Where nobody looks, and where there is no page, it copies what lies behind all pages: zeros.
    const auto seen = [&](int block) { return copies && block + row + rows > begin && block + row < end; };
    const auto look = [&](int block) {
      return seen(block) ? __ldg(a.pages + tile.sequence.first_page + (block + row) / a.page_tokens) : 0;
    };
    uint32_t parity[kStages] = {1, 1};
    int next = look(begin / kKeys * kKeys);
    ForBlocks(a, begin, end, [&](int block, int stage) {
      int page = next;
      if (seen(block) && (page < 0 || page >= a.page_count)) {
        Report(a.fault, kPageOutside, tile.sequence.first_page + (block + row) / a.page_tokens, page, a.page_count);
        page = a.page_count;
      }
      if (!seen(block)) page = a.page_count;
      next = look(block + kKeys);
      const int token = (block + row) % a.page_tokens;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        uint64_t* const there = &shared.there[stage][piece];
        Await(&shared.read[stage][piece], parity[stage]);
        if (lane == 0) ExpectBytes(there, PartsOfPiece(piece) * kPartBytes);
        __syncwarp();
        if (!copies) continue;
        for (int p = piece * kHalfParts; p < piece * kHalfParts + PartsOfPiece(piece); ++p) {
          Copy(source.map, shared.keys[stage][p][row], there, p * kColumns, token, tile.kv_head, page, a.sharers);
        }
      }
      parity[stage] ^= 1;
    });
  }
#endif
};

using Encode = decltype(&cuTensorMapEncodeTiled);
Encode FindEncode() {
  std::string path;
  void* const driver = OpenLibrary({"libcuda.so.1"}, &path);
  return driver ? reinterpret_cast<Encode>(dlsym(driver, "cuTensorMapEncodeTiled")) : nullptr;
}

bool Describe(const AttentionOp& op, CopiedKeys::Source& source) {
  static const Encode encode = FindEncode();
  const View& keys = op.keys;
  source.rows = static_cast<int>(std::gcd(keys.shape[2], int64_t{kKeys / 2}));
  if (!encode || source.rows < kLeastRows) return false;
  cuuint64_t sizes[4], strides[3];
  for (int i = 0; i < 4; ++i) sizes[i] = static_cast<cuuint64_t>(keys.shape[3 - i]);
  // A stride that leads nowhere is what the one before leads to.
  for (int i = 0; i < 3; ++i) {
    const bool leads = sizes[i + 1] > 1;
    strides[i] = leads ? static_cast<cuuint64_t>(keys.strides[2 - i]) * 2 : i == 0 ? 16 * ((sizes[0] * 2 + 15) / 16) : strides[i - 1];
  }
  const cuuint32_t box[4] = {kColumns, static_cast<cuuint32_t>(source.rows), 1, 1}, steps[4] = {1, 1, 1, 1};
  const auto type = keys.dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encode(&source.map, type, 4, keys.data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace
}  // namespace pairs

bool PairsTake(const AttentionOp& op) {
  pairs::CopiedKeys::Source source;
  return pairs::Describe(op, source);
}

void LaunchPairs(const AttentionOp& op, const Arguments& a, dim3 grid, Run& run) {
  pairs::CopiedKeys::Source source;
  pairs::Describe(op, source);
  op.keys.dtype == DType::kF16 ? pairs::LaunchTyped<__half, pairs::CopiedKeys>(a, source, grid, run)
                               : pairs::LaunchTyped<__nv_bfloat16, pairs::CopiedKeys>(a, source, grid, run);
}

}  // namespace zi::cuda::wide
