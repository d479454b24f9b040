// Implements core/io_ring_tables.h.
#include "core/io_ring_tables.h"

#include <sys/resource.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "core/faults.h"
#include "core/io_file.h"
#include "core/memory.h"

namespace zi {
namespace {

/// A model's shards are up to some hundred files. The kernel wants no more slots than the process may open files.
constexpr unsigned kFileSlots = 512;

unsigned FileSlots() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kFileSlots;
  return static_cast<unsigned>(std::min<rlim_t>(kFileSlots, limit.rlim_cur));
}

}  // namespace

SlotList::SlotList(unsigned count) {
  for (unsigned slot = count; slot > 0; --slot) free_.push_back(static_cast<int>(slot) - 1);
}

int SlotList::Take() {
  if (free_.empty()) return -1;
  const int slot = free_.back();
  free_.pop_back();
  return slot;
}

void SlotList::Give(int slot) { free_.push_back(slot); }

int FixedBuffers::Register(IoRing& ring, const std::shared_ptr<HostMemory>& memory) {
  if (entries_.contains(memory->id())) return 0;
  if (faults_.register_errno != 0) return faults_.register_errno;
  if (const int error = FaultAt(FaultPoint::kRegister)) return error;
  if (!created_) {
    const int result = io_uring_register_buffers_sparse(ring.get(), kFixedSlots);
    if (result < 0) return -result;
    created_ = true;
  }
  Entry entry{memory, {}};
  for (uint64_t offset = 0; offset < memory->size(); offset += kMaxFixedBytes) {
    const int slot = slots_.Take();
    iovec piece{memory->data() + offset, std::min<size_t>(kMaxFixedBytes, memory->size() - offset)};
    const int result =
        slot < 0 ? -ENOSPC
                 : io_uring_register_buffers_update_tag(ring.get(), static_cast<unsigned>(slot), &piece, nullptr, 1);
    if (result != 1) {
      if (slot >= 0) slots_.Give(slot);
      Clear(ring, entry);
      return result < 0 ? -result : EIO;
    }
    entry.slots.push_back(slot);
  }
  entries_.emplace(memory->id(), std::move(entry));
  return 0;
}

void FixedBuffers::Unregister(IoRing& ring, uint32_t memory_id) {
  const auto found = entries_.find(memory_id);
  if (found == entries_.end()) return;
  Clear(ring, found->second);
  entries_.erase(found);
}

/// The kernel keeps a cleared buffer alive until the reads that already use it are done.
void FixedBuffers::Clear(IoRing& ring, const Entry& entry) {
  for (const int slot : entry.slots) {
    iovec none{nullptr, 0};
    io_uring_register_buffers_update_tag(ring.get(), static_cast<unsigned>(slot), &none, nullptr, 1);
    slots_.Give(slot);
  }
}

int FixedBuffers::Find(uint32_t memory_id, uint64_t offset, uint64_t length) const {
  const auto found = entries_.find(memory_id);
  if (found == entries_.end() || length == 0) return -1;
  const uint64_t first = offset / kMaxFixedBytes;
  return first == (offset + length - 1) / kMaxFixedBytes ? found->second.slots[first] : -1;
}

void FixedFiles::Attach(IoFile& file) {
  const std::shared_ptr<IoRing> ring = ring_.lock();
  if (!ring) return;
  if (!table_) {
    table_ = std::make_shared<Table>();
    const unsigned count = FileSlots();
    if (io_uring_register_files_sparse(ring->get(), count) >= 0) table_->slots = SlotList(count);
  }
  if (FaultAt(FaultPoint::kRegisterFile)) return;
  int slot;
  {
    std::lock_guard<std::mutex> lock(table_->mutex);
    slot = table_->slots.Take();
  }
  if (slot < 0) return;
  const int fd = file.fd();
  if (io_uring_register_files_update(ring->get(), static_cast<unsigned>(slot), &fd, 1) != 1) {
    std::lock_guard<std::mutex> lock(table_->mutex);
    table_->slots.Give(slot);
    return;
  }
  file.slot = slot;
  file.slot_owner = std::shared_ptr<void>(nullptr, [table = table_, weak_ring = ring_, slot](void*) {
    const std::shared_ptr<IoRing> live_ring = weak_ring.lock();
    if (!live_ring) return;
    const int none = -1;
    io_uring_register_files_update(live_ring->get(), static_cast<unsigned>(slot), &none, 1);
    std::lock_guard<std::mutex> lock(table->mutex);
    table->slots.Give(slot);
  });
}

}  // namespace zi
