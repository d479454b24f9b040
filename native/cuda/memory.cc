// Device memory, and page-locking of host memory, behind cuda/api.h.
#include <algorithm>
#include <atomic>
#include <new>
#include <string>
#include <vector>

#include "core/coded_error.h"
#include "core/threads.h"
#include "cuda/api.h"
#include "cuda/context.h"
#include "cuda/pieces.h"

namespace zi::cuda {
namespace {

class DeviceMemory final : public Memory {
 public:
  DeviceMemory(int device, size_t size) : Memory(device, size), context_(Context::Of(device)) {
    context_->Use();
    void* data = nullptr;
    // Memory of no bytes still has an address: null means an absent operand.
    const cudaError_t code = cudaMalloc(&data, std::max<size_t>(size, 1));
    if (code == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    Check(code, "cudaMalloc");
    set_data(static_cast<uint8_t*>(data));
  }
  /// Waits for what still uses it, as cudaFree does.
  ~DeviceMemory() override {
    if (context_->abandoned()) return;
    if (cudaSetDevice(place()) == cudaSuccess) cudaFree(data());
    cudaGetLastError();
  }

 private:
  const std::shared_ptr<Context> context_;
};

/// [begin, end) of host memory, cut where a copy may be cut.
std::vector<std::pair<uint8_t*, size_t>> PiecesOf(uint8_t* begin, size_t size) {
  std::vector<std::pair<uint8_t*, size_t>> pieces;
  uint8_t* const end = begin + size;
  while (begin < end) {
    uint8_t* const next = std::min(end, PieceEnd(begin));
    pieces.emplace_back(begin, static_cast<size_t>(next - begin));
    begin = next;
  }
  return pieces;
}

void Unpin(const std::vector<std::pair<uint8_t*, size_t>>& pieces) {
  // Copies that were queued may still be under way, and those of a device that was given up never end.
  if (!Context::SynchronizeAll()) return;
  for (const auto& piece : pieces) cudaHostUnregister(piece.first);
  cudaGetLastError();
}

}  // namespace

std::shared_ptr<Memory> Allocate(int device, size_t size) {
  auto memory = std::make_shared<DeviceMemory>(device, size);
  EnterMemory(memory);
  return memory;
}

size_t FreeBytes(int device) {
  Context::Of(device)->Use();
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

void Pin(const std::shared_ptr<HostMemory>& memory) {
  if (memory->pinned()) return;
  const auto pieces = PiecesOf(memory->data(), std::max<size_t>(memory->size(), 1));
  std::atomic<size_t> next{0};
  std::atomic<int> refused{cudaSuccess};
  std::vector<char> done(pieces.size(), 0);
  const auto work = [&] {
    Context::UseAny();
    for (size_t i = next++; i < pieces.size() && refused == cudaSuccess; i = next++) {
      const cudaError_t code =
          cudaHostRegister(pieces[i].first, pieces[i].second, cudaHostRegisterPortable | cudaHostRegisterMapped);
      done[i] = code == cudaSuccess;
      if (code != cudaSuccess) refused = code;
    }
  };
  constexpr size_t kMaxThreads = 8;
  Threads helpers;
  helpers.Start("zi:pin", static_cast<unsigned>(std::min(kMaxThreads, pieces.size()) - 1), work);
  work();
  helpers.Join();
  if (refused != cudaSuccess) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (done[i]) cudaHostUnregister(pieces[i].first);
    }
    if (refused == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw CodedError(kNoMemory, std::to_string(memory->size()) +
                                      " bytes of host memory cannot be page-locked: give a smaller --dram_memory, or raise "
                                      "the limit of locked memory (ulimit -l, docker --ulimit memlock=-1)");
    }
    Check(static_cast<cudaError_t>(refused.load()), "cudaHostRegister");
  }
  memory->SetPinned([pieces] { Unpin(pieces); });
}

}  // namespace zi::cuda
