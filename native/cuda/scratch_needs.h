// How much memory the kernels of a GPU take for themselves, operation by operation. No other place says so: streams grow
// their scratch by it, and plans count it, on machines without a GPU too.
#pragma once
#include <array>
#include <cstddef>

#include "cuda/ways.h"
#include "ops/decode.h"

namespace zi::cuda {

/// What scratch is for. A stream that computes has a memory for each.
enum class ScratchUse {
  kInputs,    // of products, in the weights' type
  kRests,     // what rounding left of them
  kSums,      // products before their epilogue
  kBias,      // in the type of the result
  kChoices,   // of a mixture, grouped by expert
  kWeights,   // some rows of weights that are stored in parts, as values
  kPartials,  // parts of attention over long contexts or of a product, what phases of drawing a token leave, what is known of a
              // recurrence's chunks
};
constexpr size_t kScratchUses = 7;

class ScratchBytes {
 public:
  size_t& operator[](ScratchUse use) { return bytes_[static_cast<size_t>(use)]; }
  size_t operator[](ScratchUse use) const { return bytes_[static_cast<size_t>(use)]; }
  /// Each use as the larger of both needs it.
  void TakeIn(const ScratchBytes& other);

 private:
  std::array<size_t, kScratchUses> bytes_{};
};

/// What this operation takes, as it is. Throws std::invalid_argument for types that no kernel takes.
ScratchBytes ScratchOf(const Operation& operation);
/// The most that an operation which here has the operands of one token (or row) takes with any number of them up to `rows`,
/// in any number of sequences, over contexts of up to that many tokens, and wherever its operands come to lie.
ScratchBytes MostScratchOf(const Operation& operation, int64_t rows, int64_t context_tokens);

/// Rows of packed matrices: a multiple of eight elements keeps the 16-byte alignment that fast kernels want.
constexpr int64_t PackedStride(int64_t columns) { return (columns + 7) / 8 * 8; }
/// The table of tiles of choices lies behind the choices by expert.
constexpr size_t ChoicesBytes(int64_t choices) { return static_cast<size_t>(choices + 3) / 4 * 16; }
constexpr size_t kTileBytes = 16;

/// A slab of values of weights that are stored in parts.
size_t SlabBytes(const Weight& weight, const ExpertTiling& tiling);

/// What the library for products works in, on each stream that computes; as NVIDIA advises for Hopper.
constexpr size_t kProductsWorkspaceBytes = size_t{32} << 20;

}  // namespace zi::cuda
