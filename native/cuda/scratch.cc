// Implements cuda/scratch.h.
#include "cuda/scratch.h"

#include <stdexcept>
#include <string>

#include "cuda/context.h"

namespace zi::cuda {

Scratch::~Scratch() {
  for (const Memory& memory : memories_) cudaFree(memory.data);
}

void Scratch::Provide(const ScratchBytes& needs) {
  for (size_t i = 0; i < kScratchUses; ++i) {
    const size_t size = needs[static_cast<ScratchUse>(i)];
    Memory& memory = memories_[i];
    if (size <= memory.size) continue;
    // cudaFree waits for the kernels that still use it.
    Check(cudaFree(memory.data), "cudaFree");
    memory.data = nullptr;
    memory.size = 0;
    ++memory.moves;
    Check(cudaMalloc(reinterpret_cast<void**>(&memory.data), size), "cudaMalloc of scratch");
    memory.size = size;
  }
}

uint8_t* Scratch::At(ScratchUse use, size_t size) const {
  const Memory& memory = MemoryOf(use);
  if (size > memory.size) {
    throw std::logic_error("an operation takes " + std::to_string(size) + " bytes of scratch, of which " +
                           std::to_string(memory.size) + " were provided");
  }
  return memory.data;
}

int Scratch::moves() const {
  int moves = 0;
  for (const Memory& memory : memories_) moves += memory.moves;
  return moves;
}

}  // namespace zi::cuda
