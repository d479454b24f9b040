// Memory of a device in which kernels of one stream leave what only they read.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/scratch_needs.h"

namespace zi::cuda {

/// Grows to the largest needs of the first passes and is kept.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// Makes room for an operation that is launched next: here alone scratch grows. What grows moves and loses its contents.
  void Provide(const ScratchBytes& needs);
  /// Where that much was provided. Throws std::logic_error where the operation's needs did not say so.
  uint8_t* At(ScratchUse use, size_t size) const;

  /// How often any has moved: whoever keeps addresses compares.
  int moves() const;
  int moves(ScratchUse use) const { return MemoryOf(use).moves; }

 private:
  struct Memory {
    uint8_t* data = nullptr;
    size_t size = 0;
    int moves = 0;
  };
  const Memory& MemoryOf(ScratchUse use) const { return memories_[static_cast<size_t>(use)]; }

  Memory memories_[kScratchUses];
};

}  // namespace zi::cuda
