// What kernels of a few tokens on tensor cores are given: up to kMostJoined products of the same inputs.
#pragma once
#include <vector>

#include "cuda/finish.h"
#include "cuda/overlap.h"
#include "cuda/stored_fragments.h"

namespace zi::cuda {

/// Rows of a tile and tokens, as tensor cores take them.
constexpr int kRows = 16, kTokens = 8;
/// How much the next kernel brings to the L2 cache while the kernel before it ends: less than half of an H100's cache.
constexpr int64_t kPrefetchBytes = 16 << 20;

struct Part {
  StoredWeight weight;
  Finish finish;
  /// Its first tile of rows.
  unsigned first_block;
  int group_shift;  // of the inputs that share a scale
  int64_t row_bytes, code_bytes;  // to the next row, and of a row
  // What of each row and of its scales is brought to the cache.
  uint32_t prefetch_bytes, scale_bytes;
  int64_t scale_stride_bytes;
  /// Bytes of a row's scales, and how many at a time are copied: 16, 4, or those of one scale.
  int row_scale_bytes, scale_step;

  __device__ void Bring(int64_t row) const {
    if (prefetch_bytes > 0) Prefetch(weight.Part(WeightPart::kCodes) + row * row_bytes, prefetch_bytes);
    if (scale_bytes == 0) return;
    Prefetch(weight.Part(WeightPart::kScales) + (row + weight.first_row) * scale_bytes, scale_bytes);
  }
};

struct CoreArguments {
  Part parts[kMostJoined];
  int count, tokens;
  /// Four lanes' inputs of a row are a unit; so many there are.
  int units;
  unsigned tiles;
  const uint8_t* x;
  int64_t x_stride, inputs;
};

/// `unit_inputs`: inputs of a unit.
CoreArguments CoreArgumentsOf(const std::vector<LinearOp>& ops, int unit_inputs, Run& run);

/// The part that a tile of rows is of.
__device__ inline const Part& PartOf(const CoreArguments& a, unsigned tile) {
  int index = a.count - 1;
  while (index > 0 && tile < a.parts[index].first_block) --index;
  return a.parts[index];
}

}  // namespace zi::cuda
