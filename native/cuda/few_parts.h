// What kernels of a few tokens on tensor cores are given: up to kMostJoined products of the same inputs.
#pragma once
#include "cuda/finish.h"
#include "cuda/overlap.h"
#include "cuda/stored_fragments.h"

namespace zi::cuda {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kRows = 16, kTokens = 8;
/// Units that a warp has under way at once.
constexpr int kAhead = 4;
/// As many blocks run at once on a multiprocessor, so that 64 KiB are under way to each.
constexpr int kBlocksEach = 2;
/// How much the next kernel brings to the L2 cache while the kernel before it ends: less than half of an H100's cache.
constexpr int64_t kPrefetchBytes = 16 << 20;
/// Inputs of all tokens, and scales, that wait in shared memory: as much at most, or a round of units.
constexpr int kStagedBytes = 64 << 10;
/// What a kernel gets unasked, beside the sums of its warps.
constexpr size_t kFreeSharedBytes = (48 << 10) - sizeof(float) * kWarps * kRows * kTokens;

struct Part {
  StoredWeight weight;
  Finish finish;
  unsigned first_block;
  int group_shift;  // of the inputs that share a scale
  int64_t row_bytes, code_bytes;  // to the next row, and of a row
  // What of each row and of its scales is brought to the cache.
  uint32_t prefetch_bytes, scale_bytes;
  int64_t scale_stride_bytes;

  __device__ void Bring(int64_t row) const {
    if (prefetch_bytes > 0) Prefetch(weight.Part(WeightPart::kCodes) + row * row_bytes, prefetch_bytes);
    if (scale_bytes == 0) return;
    Prefetch(weight.Part(WeightPart::kScales) + (row + weight.first_row) * scale_bytes, scale_bytes);
  }
};

struct CoreArguments {
  Part parts[kMostJoined];
  int count, tokens, units, segment_units;
  /// What streamed blocks go by: units of each warp in a tile of rows, and tiles of all parts.
  int rounds;
  unsigned tiles;
  /// Scales of a row in shared memory, where they lie behind so many groups of 16 bytes of inputs.
  int scale_pitch, scales_after;
  const uint8_t* x;
  int64_t x_stride, inputs;
};

}  // namespace zi::cuda
