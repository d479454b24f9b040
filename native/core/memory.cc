// Implements core/memory.h with mmap; the id table is behind one mutex because look-ups are a handful per kernel.
#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <new>

#include "core/coded_error.h"
#include "core/faults.h"
#include "core/threads.h"
#include "core/weak_table.h"

namespace zi {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;

WeakTable<Memory> memories;

size_t RoundUp(size_t value, size_t to) { return (value + to - 1) / to * to; }

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif
/// Bytes for one call. It keeps the process from mapping anything else, as a driver that starts meanwhile does all the time.
constexpr size_t kPopulatedAtOnce = size_t{2} << 20;

/// Memory that waits for its pages. Never destroyed: its thread may outlive static objects.
struct Populating {
  std::mutex mutex;
  std::deque<std::weak_ptr<HostMemory>> waiting;  // guarded by mutex
  bool running = false;                           // guarded by mutex
};

Populating& ThePopulating() {
  static auto* populating = new Populating();
  return *populating;
}

/// The next memory that is still there; null when none waits, and then nothing runs any more.
std::shared_ptr<HostMemory> NextWaiting() {
  Populating& all = ThePopulating();
  std::lock_guard<std::mutex> lock(all.mutex);
  while (!all.waiting.empty()) {
    auto memory = all.waiting.front().lock();
    all.waiting.pop_front();
    if (memory) return memory;
  }
  all.running = false;
  return nullptr;
}

void PopulateWaiting() {
  while (auto memory = NextWaiting()) {
    for (size_t offset = 0; offset < memory->size(); offset += kPopulatedAtOnce) {
      // Where an older system refuses, the reads touch the pages.
      madvise(memory->data() + offset, RoundUp(std::min(kPopulatedAtOnce, memory->size() - offset), kPage),
              MADV_POPULATE_WRITE);
      // Nobody else wants memory that was given up meanwhile.
      if (memory.use_count() == 1) break;
    }
  }
}

}  // namespace

Memory::Memory(int place, size_t size) : size_(size), id_(memories.NextId()), place_(place) {}

HostMemory::HostMemory(size_t size, bool huge_pages) : Memory(kHostPlace, size) {
  const bool align_huge = huge_pages && size >= kHugePage;
  const size_t alignment = align_huge ? kHugePage : kPage;
  mapped_size_ = RoundUp(std::max(size, size_t{1}), kPage) + (align_huge ? kHugePage : 0);
  if (mapped_size_ < size || FaultAt(FaultPoint::kMap)) throw std::bad_alloc();
  mapping_ = mmap(nullptr, mapped_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  set_data(reinterpret_cast<uint8_t*>(RoundUp(reinterpret_cast<uintptr_t>(mapping_), alignment)));
  if (align_huge) madvise(data(), RoundUp(size, kPage), MADV_HUGEPAGE);
}

HostMemory::~HostMemory() {
  if (unpin_) unpin_();
  munmap(mapping_, mapped_size_);
}

void HostMemory::Populate(unsigned threads) {
  const size_t pages = RoundUp(size(), kPage) / kPage;
  constexpr size_t kPagesAtOnce = 1024;
  std::atomic<size_t> next{0};
  const auto touch = [&] {
    for (size_t first = next.fetch_add(kPagesAtOnce); first < pages; first = next.fetch_add(kPagesAtOnce)) {
      for (size_t page = first; page < std::min(pages, first + kPagesAtOnce); ++page) {
        volatile uint8_t* byte = data() + page * kPage;
        *byte = *byte;
      }
    }
  };
  Threads helpers;
  const size_t useful = pages / kPagesAtOnce;
  helpers.Start("zi:touch", static_cast<unsigned>(std::min<size_t>(threads > 1 ? threads - 1 : 0, useful)), touch);
  touch();
}

std::shared_ptr<HostMemory> AllocateHost(size_t size, bool huge_pages) {
  auto memory = std::make_shared<HostMemory>(size, huge_pages);
  EnterMemory(memory);
  return memory;
}

void PopulateSoon(const std::shared_ptr<HostMemory>& memory) {
  Populating& all = ThePopulating();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.waiting.push_back(memory);
  if (all.running) return;
  all.running = true;
  try {
    StartDetached("zi:pages", PopulateWaiting);
  } catch (const CodedError&) {
    // Without that thread the reads touch the pages.
    all.running = false;
    all.waiting.clear();
  }
}

void EnterMemory(const std::shared_ptr<Memory>& memory) { memories.Enter(memory); }

std::shared_ptr<Memory> FindMemory(uint32_t id) { return memories.Find(id); }

std::shared_ptr<HostMemory> FindHostMemory(uint32_t id) {
  return std::dynamic_pointer_cast<HostMemory>(FindMemory(id));
}

}  // namespace zi
