// One pool for all streams: parallel loops over dynamic chunks, in which the calling thread takes part.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace zi {

class Threads;

/// Tells a running kernel to stop between tiles.
using CancelFlag = std::atomic<bool>;

class ThreadPool {
 public:
  /// Runs the items [begin, end) of a loop.
  using Body = void (*)(void* context, size_t begin, size_t end);

  /// `threads` counts the caller: threads − 1 workers are started, or fewer where the system refuses them.
  explicit ThreadPool(unsigned threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned threads() const;
  /// Why there are fewer than wanted; empty when there are not.
  const std::string& refusal() const;

  /// `count` items, of which a thread takes `chunk` at a time.
  struct Phase {
    size_t count, chunk;
    Body body;
    void* context;
  };
  static constexpr size_t kMostPhases = 4;

  /// Calls `body` on chunks of `chunk` items until all `count` are taken or `cancel` is set; returns when none runs.
  /// Several threads may call at once: workers help whichever loop has chunks left. What a body throws ends the loop, and
  /// the first of it is thrown here.
  void ParallelFor(size_t count, size_t chunk, const CancelFlag& cancel, Body body, void* context);
  /// The same for up to kMostPhases loops, of which each begins when all items of the one before are done. Threads stay between
  /// them, which takes a fraction of leaving and coming back.
  void ParallelPhases(const Phase* phases, size_t phase_count, const CancelFlag& cancel);

  /// While more has begun than ended, workers look out for the next loop for milliseconds before they sleep: waking all of them
  /// takes as long as a product of one token.
  void BeginLookout();
  void EndLookout();

 private:
  struct Loop;
  /// Where workers find a loop. Never goes away, so that a worker may look at one whose loop just ended.
  struct alignas(64) Slot {
    /// Whether the loop may be entered, whether the slot has a loop, and below how many workers are inside.
    static constexpr uint32_t kOpen = uint32_t{1} << 31, kTaken = uint32_t{1} << 30, kInside = kTaken - 1;
    std::atomic<uint32_t> state{0};
    /// Nothing is left to be taken: entering is no use.
    std::atomic<bool> drained{false};
    Loop* loop = nullptr;  // read by those inside
  };
  /// Loops at once that have helpers; one more is run by its caller alone.
  static constexpr int kSlots = 16;

  Slot* Open(Loop& loop);
  void Close(Slot& slot);
  static bool Enter(Slot& slot);
  static void Leave(Slot& slot);
  void Work();
  /// The next loop, entered; null when the pool stops.
  Slot* Take();
  void WakeSome(size_t useful);

  Slot slots_[kSlots];
  alignas(64) std::atomic<uint32_t> generation_{0};  // counts loops begun: what workers watch, and sleep on
  alignas(64) std::atomic<uint32_t> sleepers_{0};
  std::atomic<uint32_t> lookouts_{0};
  std::atomic<bool> stopping_{false};
  std::unique_ptr<Threads> workers_;  // last: they use what is above
};

}  // namespace zi
