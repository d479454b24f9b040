// Host memory: page-aligned blocks allocated once, named by an id so that queued work refers to them safely.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace zi {

/// An anonymous mapping of `size` bytes, 2 MiB aligned. Unmapped when the last owner (JS handle or queued work) drops it.
class HostMemory {
 public:
  HostMemory(size_t size, bool huge_pages);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  uint32_t id() const { return id_; }

  /// Touches every page with `threads` threads, so that later reads and registrations find it populated.
  void Populate(unsigned threads);

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_size_ = 0;
  void* mapping_ = nullptr;
  uint32_t id_ = 0;
};

/// Allocates and enters the block into the process-wide table. Throws std::bad_alloc when the system refuses.
std::shared_ptr<HostMemory> AllocateHost(size_t size, bool huge_pages);

/// The live block with that id, or null. Holding the result keeps the block mapped.
std::shared_ptr<HostMemory> FindMemory(uint32_t id);

}  // namespace zi
