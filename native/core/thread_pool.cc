// Implements core/thread_pool.h: slots for open loops, workers that spin briefly and then sleep.
//
// Entering and leaving a loop takes no lock: with sixteen threads that come and go at once, waiting for a lock in the kernel took
// longer than a product of one token. Whoever is woken wakes two more, so that the caller begins at once.
//
// The items of a loop are split into parts, one for each thread: what asks for memory ahead of its item then asks for what the
// same thread needs next. A thread that is done with its part helps with the others. Where loops follow each other, threads stay
// until the last one has nothing left, and wait between them until all of the one before is done.
#include "core/thread_pool.h"

#include <algorithm>
#include <cstdint>
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
  struct Stage {
    Phase phase;
    size_t part_count;
    Part parts[kMostParts];
    /// Items that are done, as threads say when nothing is left for them to take.
    alignas(64) std::atomic<size_t> done;

    void Begin(const Phase& of, size_t threads) {
      phase = of;
      phase.chunk = std::max<size_t>(phase.chunk, 1);
      const size_t chunks = (phase.count + phase.chunk - 1) / phase.chunk;
      part_count = std::min({threads, chunks, kMostParts});
      for (size_t i = 0; i < part_count; ++i) {
        parts[i].next.store(i * chunks / part_count * phase.chunk, std::memory_order_relaxed);
        parts[i].end = std::min(phase.count, (i + 1) * chunks / part_count * phase.chunk);
      }
    }
  };

  const CancelFlag& cancel;
  const size_t stage_count;
  Stage stages[kMostPhases];
  std::atomic<size_t> joined{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure{};  // written by whoever set failed, read once no helper is left

  Loop(const Phase* phases, size_t count, const CancelFlag& flag, size_t threads) : cancel(flag), stage_count(count) {
    for (size_t i = 0; i < count; ++i) stages[i].Begin(phases[i], threads);
  }

  void Drain() noexcept {
    try {
      const size_t own = joined.fetch_add(1, std::memory_order_relaxed);
      size_t i = 0;
      while (i < stage_count && Drain(stages[i], own) && (i + 1 == stage_count || Await(stages[i]))) ++i;
      if (i == stage_count) return;
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
    for (size_t i = 0; i < stage_count; ++i) End(stages[i]);
  }

 private:
  /// Says that a stage ended before all was done: more than any number of items.
  static constexpr size_t kEnded = SIZE_MAX / 2;

  /// False where the loop was cancelled.
  bool Drain(Stage& stage, size_t own) {
    size_t taken = 0;
    for (size_t i = 0; i < stage.part_count; ++i) {
      if (!Drain(stage.phase, stage.parts[(own + i) % stage.part_count], &taken)) return false;
    }
    if (taken > 0 && stage.done.fetch_add(taken, std::memory_order_acq_rel) + taken == stage.phase.count) stage.done.notify_all();
    return true;
  }
  bool Drain(const Phase& phase, Part& part, size_t* taken) {
    // Looking changes nothing of what others count in: at the end every thread looks at the parts of all.
    while (!cancel.load(std::memory_order_relaxed)) {
      if (part.next.load(std::memory_order_relaxed) >= part.end) return true;
      const size_t begin = part.next.fetch_add(phase.chunk, std::memory_order_relaxed);
      if (begin >= part.end) return true;
      const size_t end = std::min(part.end, begin + phase.chunk);
      phase.body(phase.context, begin, end);
      *taken += end - begin;
    }
    return false;
  }
  /// Until all of the stage is done; false where it has ended before.
  static bool Await(Stage& stage) {
    const auto done = [&] { return stage.done.load(std::memory_order_acquire); };
    SpinBriefly([&] { return done() >= stage.phase.count; });
    for (size_t now; (now = done()) < stage.phase.count;) stage.done.wait(now);
    return done() == stage.phase.count;
  }
  static void End(Stage& stage) {
    for (size_t i = 0; i < stage.part_count; ++i) stage.parts[i].next.store(stage.parts[i].end, std::memory_order_relaxed);
    stage.done.store(kEnded, std::memory_order_release);
    stage.done.notify_all();
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
  const Phase phase{count, chunk, body, context};
  ParallelPhases(&phase, 1, cancel);
}

namespace {

/// No other thread could help: loops are of one chunk, or there is no other thread.
void RunAlone(const ThreadPool::Phase* phases, size_t phase_count, const CancelFlag& cancel) {
  for (size_t i = 0; i < phase_count; ++i) {
    const auto& [count, chunk, body, context] = phases[i];
    const size_t step = std::max<size_t>(chunk, 1);
    for (size_t begin = 0; begin < count && !cancel.load(std::memory_order_relaxed); begin += step) {
      body(context, begin, std::min(count, begin + step));
    }
  }
}

}  // namespace

void ThreadPool::ParallelPhases(const Phase* phases, size_t phase_count, const CancelFlag& cancel) {
  const auto helpers = [](const Phase& phase) { return phase.count == 0 ? 0 : (phase.count - 1) / std::max<size_t>(phase.chunk, 1); };
  size_t useful = 0;
  for (size_t i = 0; i < phase_count; ++i) useful = std::max(useful, helpers(phases[i]));
  if (useful == 0 || workers_->size() == 0) return RunAlone(phases, phase_count, cancel);
  Loop loop(phases, phase_count, cancel, threads());
  Slot* slot = Open(loop);
  if (slot) WakeSome(useful);
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
