// Implements core/io_thread_engine.h.
#include "core/io_thread_engine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "core/io_file.h"
#include "core/io_thread.h"

namespace zi {
namespace {

class ThreadEngine final : public IoEngine {
 public:
  ThreadEngine(IoQueue& queue, uint64_t threads) : queue_(queue), running_(threads + 1) {
    for (uint64_t index = 0; index < threads; ++index) {
      threads_.push_back(StartIoThread("zi-pread", [this] { Run(); }));
    }
  }
  ~ThreadEngine() override {
    for (auto& thread : threads_) thread.join();
  }
  const char* name() const override { return "threads"; }
  void Wake() override {}  // the queue's own condition variable wakes the threads
  void Stop(std::function<void()> stopped) override {
    stopped_ = std::move(stopped);
    if (--running_ == 0) stopped_();
  }

 private:
  void Run() {
    while (auto block = queue_.Take()) {
      const ssize_t result = pread(block->read->file->fd(), block->destination(), block->length(),
                                   static_cast<off_t>(block->file_offset()));
      queue_.Complete(std::move(*block), result < 0 ? -errno : result);
    }
    if (--running_ == 0) stopped_();
  }

  IoQueue& queue_;
  std::function<void()> stopped_;
  /// Threads, plus one for the owner until it calls Stop(): whoever comes last reports.
  std::atomic<uint64_t> running_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<IoEngine> StartThreadEngine(IoQueue& queue, uint64_t queue_depth) {
  return std::make_unique<ThreadEngine>(queue, std::min(kReadThreads, queue_depth));
}

}  // namespace zi
