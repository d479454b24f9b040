// The ring's tables of registered buffers and files: which slot a read may use. A refused table only costs speed.
#pragma once
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/io_ring.h"
#include "core/io_types.h"

namespace zi {

/// Slots of the kernel's tables, taken lowest first.
class SlotList {
 public:
  explicit SlotList(unsigned count);
  /// -1 when all are taken.
  int Take();
  void Give(int slot);

 private:
  std::vector<int> free_;
};

/// Registers memory as fixed buffers, so that the kernel need not pin its pages for each read.
class FixedBuffers {
 public:
  explicit FixedBuffers(const IoFaultPlan& faults) : faults_(faults) {}

  /// 0, or the errno with which the kernel refused; then nothing of the memory is registered. Registering twice counts once.
  int Register(IoRing& ring, const std::shared_ptr<HostMemory>& memory);
  void Unregister(IoRing& ring, uint32_t memory_id);
  /// Call once the ring is gone.
  void Forget() { entries_.clear(); }

  /// The slot that holds all of [offset, offset + length) of that memory, or -1.
  int Find(uint32_t memory_id, uint64_t offset, uint64_t length) const;

 private:
  struct Entry {
    std::shared_ptr<HostMemory> memory;  // registered pages must not be unmapped and mapped anew behind the ring's back
    std::vector<int> slots;              // one per kMaxFixedBytes
  };
  void Clear(IoRing& ring, const Entry& entry);

  const IoFaultPlan& faults_;
  bool created_ = false;
  SlotList slots_{kFixedSlots};
  std::unordered_map<uint32_t, Entry> entries_;

  /// The kernel's limit for one registered buffer.
  static constexpr uint64_t kMaxFixedBytes = uint64_t{1} << 30;
  /// Enough for 1 TiB of buffers of that size. An empty slot costs the kernel 8 bytes.
  static constexpr unsigned kFixedSlots = 1024;
};

/// Registers open files, so that the kernel need not look them up for each read.
class FixedFiles {
 public:
  explicit FixedFiles(std::shared_ptr<IoRing> ring) : ring_(std::move(ring)) {}

  /// Gives the file a slot that is freed with the file. Without one (old kernel, table full) it is read by descriptor.
  void Attach(IoFile& file);

 private:
  /// Outlives the engine with the last file; files end on whichever thread drops them last.
  struct Table {
    std::mutex mutex;
    SlotList slots{0};
  };
  std::weak_ptr<IoRing> ring_;
  std::shared_ptr<Table> table_;
};

}  // namespace zi
