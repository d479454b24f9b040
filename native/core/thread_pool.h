// One pool for all streams: parallel loops over dynamic chunks, in which the calling thread takes part.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

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

  /// Calls `body` on chunks of `chunk` items until all `count` are taken or `cancel` is set; returns when none runs.
  /// Several threads may call at once: workers help whichever loop has chunks left. What a body throws ends the loop, and
  /// the first of it is thrown here.
  void ParallelFor(size_t count, size_t chunk, const CancelFlag& cancel, Body body, void* context);

 private:
  struct Loop;
  void Work();
  Loop* Take();
  void Leave(Loop* loop);

  std::mutex mutex_;
  std::condition_variable work_arrived_;
  std::condition_variable loop_left_;
  std::vector<Loop*> loops_;                // guarded by mutex_
  unsigned sleepers_ = 0;                   // guarded by mutex_
  std::atomic<uint64_t> generation_{0};     // counts loops begun, so that spinning workers see one without the lock
  std::atomic<bool> stopping_{false};
  std::unique_ptr<Threads> workers_;  // last: they use what is above
};

}  // namespace zi
