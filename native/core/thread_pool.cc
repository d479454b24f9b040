// Implements core/thread_pool.h: a list of open loops, workers that spin briefly and then sleep.
//
// The items of a loop are split into parts, one for each thread: what asks for memory ahead of its item then asks for what the
// same thread needs next. A thread that is done with its part helps with the others.
#include "core/thread_pool.h"

#include <algorithm>
#include <exception>

#include "core/spin.h"
#include "core/threads.h"

namespace zi {

/// Lives on its caller's stack; `helpers` workers may still touch it, so the caller leaves last.
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
  std::atomic<unsigned> helpers{0};  // changed under the pool's mutex, read without it while spinning
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

  bool HasChunks() const {
    return std::any_of(parts, parts + part_count,
                       [](const Part& part) { return part.next.load(std::memory_order_relaxed) < part.end; });
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
    while (!cancel.load(std::memory_order_relaxed)) {
      const size_t begin = part.next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= part.end) return true;
      body(context, begin, std::min(part.end, begin + chunk));
    }
    return false;
  }
};

ThreadPool::ThreadPool(unsigned threads) : workers_(std::make_unique<Threads>()) {
  workers_->Start("zi:pool", threads > 1 ? threads - 1 : 0, [this] { Work(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    ++generation_;
  }
  work_arrived_.notify_all();
  workers_->Join();
}

unsigned ThreadPool::threads() const { return workers_->size() + 1; }

const std::string& ThreadPool::refusal() const { return workers_->refusal(); }

void ThreadPool::ParallelFor(size_t count, size_t chunk, const CancelFlag& cancel, Body body, void* context) {
  if (count == 0) return;
  chunk = std::max<size_t>(chunk, 1);
  Loop loop(body, context, count, chunk, cancel, threads());
  if (workers_->size() == 0 || count <= chunk) {
    loop.Drain();
    if (loop.failed) std::rethrow_exception(loop.failure);
    return;
  }
  unsigned sleepers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    loops_.push_back(&loop);
    sleepers = sleepers_;
    generation_.fetch_add(1, std::memory_order_release);
  }
  const size_t useful = (count - 1) / chunk;
  if (sleepers > useful) {
    for (size_t i = 0; i < useful; ++i) work_arrived_.notify_one();
  } else if (sleepers > 0) {
    work_arrived_.notify_all();
  }
  loop.Drain();
  {
    // From here no worker can join; those inside are finishing their last chunk.
    std::lock_guard<std::mutex> lock(mutex_);
    std::erase(loops_, &loop);
  }
  auto left = [&] { return loop.helpers.load(std::memory_order_acquire) == 0; };
  if (!SpinBriefly(left)) {
    std::unique_lock<std::mutex> lock(mutex_);
    loop_left_.wait(lock, left);
  }
  if (loop.failed) std::rethrow_exception(loop.failure);
}

void ThreadPool::Work() {
  while (Loop* loop = Take()) {
    loop->Drain();
    Leave(loop);
  }
}

ThreadPool::Loop* ThreadPool::Take() {
  for (;;) {
    uint64_t seen;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return nullptr;
      for (Loop* loop : loops_) {
        if (!loop->HasChunks()) continue;
        loop->helpers.fetch_add(1, std::memory_order_relaxed);
        return loop;
      }
      seen = generation_.load(std::memory_order_relaxed);
    }
    auto changed = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (SpinBriefly(changed)) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleepers_;
    work_arrived_.wait(lock, changed);
    --sleepers_;
  }
}

void ThreadPool::Leave(Loop* loop) {
  std::lock_guard<std::mutex> lock(mutex_);
  // After this the caller may return and the loop be gone: nothing below touches it.
  if (loop->helpers.fetch_sub(1, std::memory_order_acq_rel) == 1) loop_left_.notify_all();
}

}  // namespace zi
