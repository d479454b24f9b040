// Implements core/thread_pool.h: slots for open loops, workers that spin briefly and then sleep.
//
// Entering and leaving a loop takes no lock: with sixteen threads that come and go at once, waiting for a lock in the kernel took
// longer than a product of one token. Whoever is woken wakes two more, so that the caller begins at once.
//
// The items of a loop are split into parts, one for each thread: what asks for memory ahead of its item then asks for what the
// same thread needs next. A thread that is done with its part helps with the others.
#include "core/thread_pool.h"

#include <algorithm>
#include <exception>

#include "core/numa.h"
#include "core/spin.h"
#include "core/threads.h"

namespace zi {

/// Lives on its caller's stack; workers inside its slot may still touch it, so the caller leaves last.
struct ThreadPool::Loop {
  static constexpr size_t kMostParts = 32;
  /// Items [next, end) are to be taken. On a line of its own, because each thread counts in its own most of the time.
  struct alignas(64) Part {
    std::atomic<size_t> next;
    size_t end;
  };

  Body body;
  void* context;
  const CancelFlag& cancel;
  size_t chunk;
  size_t part_count;
  Part parts[kMostParts];
  std::atomic<size_t> joined{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure{};  // written by whoever set failed, read once no helper is left

  Loop(Body b, void* with, size_t count, size_t chunk_items, const CancelFlag& flag, size_t threads)
      : body(b), context(with), cancel(flag), chunk(chunk_items) {
    const size_t chunks = (count + chunk - 1) / chunk;
    part_count = std::min({threads, chunks, kMostParts});
    for (size_t i = 0; i < part_count; ++i) {
      parts[i].next.store(i * chunks / part_count * chunk, std::memory_order_relaxed);
      parts[i].end = std::min(count, (i + 1) * chunks / part_count * chunk);
    }
  }

  void Drain() noexcept {
    try {
      const size_t own = joined.fetch_add(1, std::memory_order_relaxed);
      for (size_t i = 0; i < part_count; ++i) {
        if (!Drain(parts[(own + i) % part_count])) break;
      }
      if (!cancel.load(std::memory_order_relaxed)) return;
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
    for (size_t i = 0; i < part_count; ++i) parts[i].next.store(parts[i].end, std::memory_order_relaxed);
  }

 private:
  /// False where the loop was cancelled.
  bool Drain(Part& part) {
    // Looking changes nothing of what others count in: at the end every thread looks at the parts of all.
    while (!cancel.load(std::memory_order_relaxed)) {
      if (part.next.load(std::memory_order_relaxed) >= part.end) return true;
      const size_t begin = part.next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= part.end) return true;
      body(context, begin, std::min(part.end, begin + chunk));
    }
    return false;
  }
};

/// How long workers look out for the next loop where one is awaited: between two blocks of a pass lie hundreds of microseconds.
constexpr double kLookoutMs = 2;
/// How many a thread wakes: each takes some microseconds of its time.
constexpr size_t kWokenByOne = 2;

ThreadPool::ThreadPool(unsigned threads) : workers_(std::make_unique<Threads>()) {
  // The caller counts as the first.
  const auto next = std::make_shared<std::atomic<size_t>>(1);
  workers_->Start("zi:pool", threads > 1 ? threads - 1 : 0, [this, next] {
    RunOnNode((*next)++);
    Work();
  });
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  ++generation_;
  generation_.notify_all();
  workers_->Join();
}

unsigned ThreadPool::threads() const { return workers_->size() + 1; }

const std::string& ThreadPool::refusal() const { return workers_->refusal(); }

void ThreadPool::ParallelFor(size_t count, size_t chunk, const CancelFlag& cancel, Body body, void* context) {
  if (count == 0) return;
  chunk = std::max<size_t>(chunk, 1);
  Loop loop(body, context, count, chunk, cancel, threads());
  Slot* slot = workers_->size() == 0 || count <= chunk ? nullptr : Open(loop);
  if (slot) WakeSome((count - 1) / chunk);
  loop.Drain();
  if (slot) Close(*slot);
  if (loop.failed) std::rethrow_exception(loop.failure);
}

void ThreadPool::BeginLookout() {
  ++lookouts_;
  ++generation_;
  generation_.notify_all();
}

void ThreadPool::EndLookout() { --lookouts_; }

ThreadPool::Slot* ThreadPool::Open(Loop& loop) {
  for (Slot& slot : slots_) {
    uint32_t free = 0;
    if (slot.state.load(std::memory_order_relaxed) != 0 || !slot.state.compare_exchange_strong(free, Slot::kTaken)) continue;
    slot.loop = &loop;
    slot.drained.store(false, std::memory_order_relaxed);
    slot.state.store(Slot::kTaken | Slot::kOpen, std::memory_order_release);
    ++generation_;
    return &slot;
  }
  return nullptr;
}

void ThreadPool::Close(Slot& slot) {
  // From here no worker can enter; those inside are finishing their last chunk.
  slot.state.fetch_and(~Slot::kOpen);
  SpinBriefly([&] { return slot.state.load(std::memory_order_acquire) == Slot::kTaken; });
  for (uint32_t state; (state = slot.state.load(std::memory_order_acquire)) != Slot::kTaken;) slot.state.wait(state);
  slot.state.store(0, std::memory_order_release);
}

bool ThreadPool::Enter(Slot& slot) {
  uint32_t state = slot.state.load(std::memory_order_acquire);
  while ((state & Slot::kOpen) && !slot.drained.load(std::memory_order_relaxed)) {
    if (slot.state.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel, std::memory_order_acquire)) return true;
  }
  return false;
}

void ThreadPool::Leave(Slot& slot) {
  slot.drained.store(true, std::memory_order_relaxed);
  // After this the caller may return and the loop be gone; the slot stays, and a caller that waits in it is woken for nothing at
  // worst.
  if (slot.state.fetch_sub(1, std::memory_order_acq_rel) == Slot::kTaken + 1) slot.state.notify_all();
}

void ThreadPool::Work() {
  while (Slot* slot = Take()) {
    slot->loop->Drain();
    Leave(*slot);
  }
}

ThreadPool::Slot* ThreadPool::Take() {
  for (bool slept = false;;) {
    const uint32_t seen = generation_.load(std::memory_order_acquire);
    if (stopping_) return nullptr;
    for (Slot& slot : slots_) {
      if (!Enter(slot)) continue;
      if (slept) WakeSome(kWokenByOne);
      return &slot;
    }
    const auto changed = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (SpinFor(lookouts_.load(std::memory_order_relaxed) > 0 ? kLookoutMs : kBriefMs, changed)) continue;
    // Whoever begins a loop counts it first and then looks for sleepers, so one of both sees the other.
    ++sleepers_;
    generation_.wait(seen);
    --sleepers_;
    slept = true;
  }
}

void ThreadPool::WakeSome(size_t useful) {
  const size_t sleeping = sleepers_.load();
  for (size_t i = 0; i < std::min({useful, sleeping, kWokenByOne}); ++i) generation_.notify_one();
}

}  // namespace zi
