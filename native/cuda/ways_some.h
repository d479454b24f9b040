// Which products of more than a few tokens go by codes as they are stored, on GPUs of compute capability 9.0 (some_stored.h), and which
// blocks take what of them: decided without where operands lie, so that more tokens never take less scratch.
#pragma once
#include "cuda/ways.h"

namespace zi::cuda {

class Run;

/// With more tokens the weights' bytes rule no longer.
constexpr int64_t kSomeTokens = 128;
/// Rows of a weight that a block multiplies at once: a tile.
constexpr int kSomeRows = 256;
/// Blocks whose sums others wait for, at most: as many as an H100 or H200 has multiprocessors.
constexpr int kMostSomeBlocks = 132;
/// A flag for each warp of such a block.
constexpr size_t kSomeFlagBytes = size_t{kMostSomeBlocks} * (kSomeRows / 16) * 4;

/// How it takes a weight that goes in slabs elsewhere; none where it goes so here as well.
std::optional<FragmentKind> SomeKindOf(const LinearOp& op);

/// Which units of inputs, of which tiles, blocks multiply.
struct SomeSplit {
  /// Blocks of a cluster. With runs they take the same inputs, times tiles side by side; without, the same tile in equal shares.
  int cluster;
  /// In how many runs of equal length, one after the other, all units of all tiles are cut. Some tiles are then shared by runs.
  int runs;
};
/// A product of so many tiles, each of so many units.
SomeSplit SomeSplitOf(int64_t tiles, int64_t units, int multiprocessors);

/// What the inputs take, as that kernel's stages take them.
size_t PlacedBytes(const LinearOp& op);
/// Flags, and sums that one run hands over to another, however the product is split.
size_t SomePartBytes(const LinearOp& op);
/// Whether fragments of a kind need nothing but codes, and scales of two or four bytes.
bool HasPlainScales(const Weight& weight, FragmentKind kind);
/// False where SomeKindOf says none, or on other GPUs.
bool LaunchSomeStored(const LinearOp& op, Run& run);

}  // namespace zi::cuda
