// Implements the watcher of cuda/stream.h. One per stream, so that a promise never waits for another stream's work.
#include <pthread.h>

#include "cuda/stream.h"

namespace zi::cuda {

Watcher::Watcher(std::shared_ptr<Context> context, cudaStream_t stream, std::string name)
    : context_(std::move(context)), stream_(stream), name_(std::move(name)) {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "zi:cuda events");
    Loop();
  });
}

Watcher::~Watcher() {
  Close([] {});
  thread_.join();
}

void Watcher::Watch(std::shared_ptr<StreamEvent> event) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!closing_) {
      waiting_.push_back(std::move(event));
      arrived_.notify_one();
      return;
    }
  }
  event->Fail("stream '" + name_ + "' was closed");
}

void Watcher::Close(std::function<void()> closed) {
  std::deque<std::shared_ptr<StreamEvent>> dropped;
  bool already;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    already = closed_;
    if (!already) on_closed_.push_back(std::move(closed));
    closing_ = true;
    dropped.swap(waiting_);
    if (current_) dropped.push_back(current_);
  }
  arrived_.notify_one();
  for (const auto& event : dropped) event->Fail("stream '" + name_ + "' was closed");
  if (already) closed();
}

void Watcher::Loop() {
  cudaSetDevice(context_->device());
  for (;;) {
    std::shared_ptr<StreamEvent> event;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      current_ = nullptr;
      arrived_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
      if (closing_) break;
      event = waiting_.front();
      waiting_.pop_front();
      current_ = event;
    }
    Settle(*event);
  }
  // Queued copies still read and write memory: whoever closed may free it only when they are done.
  cudaStreamSynchronize(stream_);
  std::vector<std::function<void()>> callbacks;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    callbacks.swap(on_closed_);
  }
  for (const auto& call : callbacks) call();
}

void Watcher::Settle(StreamEvent& event) {
  const cudaError_t code = cudaEventSynchronize(event.handle());
  if (code != cudaSuccess) {
    context_->Fail("stream '" + name_ + "': " + cudaGetErrorString(code) + ", found by cudaEventSynchronize");
  }
  const std::string failure = context_->failure();
  if (failure.empty()) {
    event.Reach();
  } else {
    event.Fail(failure);
  }
}

}  // namespace zi::cuda
