// Memory on the host or a device: allocated once, and named by an id so that queued work refers to it safely.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace zi {

/// Index of the place where the processor computes; devices with memory of their own count from 0.
constexpr int kHostPlace = -1;
/// The place of operations that are only looked at: their memories need not exist.
constexpr int kNoPlace = -2;

/// Memory at one place. `data` is an address there, not necessarily one that the host can read.
class Memory {
 public:
  virtual ~Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  uint32_t id() const { return id_; }
  int place() const { return place_; }

 protected:
  Memory(int place, size_t size);
  /// The derived class allocates after its base is made.
  void set_data(uint8_t* data) { data_ = data; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_;
  uint32_t id_;
  int place_;
};

/// An anonymous mapping of `size` bytes, 2 MiB aligned. Unmapped when the last owner (JS handle or queued work) drops it.
class HostMemory final : public Memory {
 public:
  HostMemory(size_t size, bool huge_pages);
  ~HostMemory() override;

  /// Touches every page with `threads` threads, so that later reads and registrations find it populated.
  void Populate(unsigned threads);

  /// Devices can reach the memory where it lies; `unpin` runs before it is unmapped.
  void SetPinned(std::function<void()> unpin) { unpin_ = std::move(unpin); }
  bool pinned() const { return unpin_ != nullptr; }

 private:
  size_t mapped_size_ = 0;
  void* mapping_ = nullptr;
  std::function<void()> unpin_;
};

/// Allocates memory and enters it into the process-wide table. Throws std::bad_alloc when the system refuses.
std::shared_ptr<HostMemory> AllocateHost(size_t size, bool huge_pages);

/// Enters memory into the table; it is found until its last owner drops it.
void EnterMemory(const std::shared_ptr<Memory>& memory);

/// Has the system give the memory its pages, on a thread beside the caller, in the order of the calls: whoever reads into
/// it meanwhile finds most of them there. Nothing is written, so reads may be under way; memory that is gone is left out.
/// One thread clears several gigabytes a second; more of them take longer over the process's one map, for which reads and
/// a driver that starts wait as well.
void PopulateSoon(const std::shared_ptr<HostMemory>& memory);

/// The live memory with that id, or null. Holding the result keeps it alive.
std::shared_ptr<Memory> FindMemory(uint32_t id);

/// The same; null also when the memory is not the host's.
std::shared_ptr<HostMemory> FindHostMemory(uint32_t id);

}  // namespace zi
