// Implements core/io_thread_engine.h.
#include "core/io_thread_engine.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "core/coded_error.h"
#include "core/io_file.h"
#include "core/threads.h"

namespace zi {
namespace {

class ThreadEngine final : public IoEngine {
 public:
  ThreadEngine(IoQueue& queue, unsigned wanted, unsigned possible)
      : queue_(queue), wanted_(wanted), running_(possible + 1), fewer_(possible < wanted) {
    queue_.SetDepth(wanted);
    threads_.Start("zi-pread", possible, [this] { Run(); });
    if (threads_.size() == 0) throw CodedError("SYSTEM_LIMIT", threads_.refusal());
    running_ -= possible - threads_.size();
  }
  const char* name() const override { return "threads"; }
  std::string note() const noexcept override {
    try {
      if (!fewer_ && threads_.refusal().empty()) return {};
      return "files are read by " + std::to_string(threads_.size()) +
             " threads, with fewer reads in flight, because the system allows this process no more: raise the limit of "
             "processes (docker --pids-limit, pids.max of the control group, ulimit -u)";
    } catch (const std::bad_alloc&) {
      return "fewer threads";
    }
  }
  /// Each further drive has as many threads, so that a slow one does not occupy those of the others.
  void Attach(const std::shared_ptr<IoFile>& file) override {
    for (; drives_ <= file->drive; ++drives_) {
      const unsigned before = threads_.size();
      running_ += wanted_;
      threads_.Start("zi-pread", wanted_, [this] { Run(); });
      running_ -= before + wanted_ - threads_.size();
    }
  }
  void Wake() override {}  // the queue's own condition variable wakes the threads
  void Stop(std::function<void()> stopped) override {
    stopped_ = std::move(stopped);
    if (--running_ == 0) stopped_();
  }

 private:
  void Run() {
    while (auto chunk = queue_.Take()) {
      const int64_t result = PlainRead(*chunk);
      queue_.Complete(std::move(*chunk), result);
    }
    if (--running_ == 0) stopped_();
  }

  IoQueue& queue_;
  const unsigned wanted_;
  unsigned drives_ = 1;
  std::function<void()> stopped_;
  /// Threads, plus one for the owner until it calls Stop(): whoever comes last reports.
  std::atomic<uint64_t> running_;
  const bool fewer_;
  Threads threads_;  // last: they use what is above
};

}  // namespace

std::unique_ptr<IoEngine> StartThreadEngine(IoQueue& queue, uint64_t queue_depth) {
  const auto wanted = static_cast<unsigned>(std::min(kReadThreads, queue_depth));
  // Counted first, because threads that wait for reads are not ended one by one.
  const unsigned startable = StartableThreads(wanted + kThreadsLeftToOthers);
  const unsigned possible = startable > kThreadsLeftToOthers ? startable - kThreadsLeftToOthers : 1;
  return std::make_unique<ThreadEngine>(queue, wanted, possible);
}

}  // namespace zi
