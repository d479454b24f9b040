// Implements the watcher of cuda/stream.h. One per stream, so that a promise never waits for another stream's work.
#include <algorithm>
#include <chrono>
#include <iterator>

#include "core/coded_error.h"
#include "core/threads.h"
#include "cuda/stream.h"

namespace zi::cuda {
namespace {

/// What a failed device had queued ends within this time, or never.
constexpr std::chrono::seconds kPatience{20};
/// How often whoever waits for the end looks whether the device has failed meanwhile.
constexpr std::chrono::milliseconds kLook{100};
/// Waits that usually end within this time are worth looking again and again: the driver wakes a sleeping thread a tenth
/// of a millisecond late, which short steps feel.
constexpr std::chrono::microseconds kWorthLooking{10'000}, kBetweenLooks{10};

/// Threads of a stream: what is observed late is mostly observed in order.
constexpr size_t kMostThreads = 4;

using Clock = std::chrono::steady_clock;

}  // namespace

Watcher::Watcher(std::shared_ptr<Context> context, cudaStream_t stream, std::string name)
    : context_(std::move(context)), stream_(stream), name_(std::move(name)) {}

std::shared_ptr<Watcher> Watcher::Start(std::shared_ptr<Context> context, cudaStream_t stream, std::string name) {
  auto watcher = std::make_shared<Watcher>(std::move(context), stream, std::move(name));
  watcher->context_->Tell(watcher);
  watcher->StartLoop();
  return watcher;
}

void Watcher::StartLoop() {
  StartDetached("zi:cuda events", [self = shared_from_this()] { self->Loop(); });
  ++threads_;
}

void Watcher::Insert(Events& events, std::shared_ptr<StreamEvent> event) {
  auto place = events.end();
  while (place != events.begin() && (*std::prev(place))->number() > event->number()) --place;
  events.insert(place, std::move(event));
}

void Watcher::Watch(std::shared_ptr<StreamEvent> event) {
  std::string reason;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    reason = closing_ ? "stream '" + name_ + "' was closed" : context_->known_failure();
    if (reason.empty()) {
      const bool is_first = !waited_for_.empty() && event->number() < waited_for_.front()->number();
      Insert(waiting_, std::move(event));
      arrived_.notify_one();
      if (!is_first || idle_ > 0 || threads_ == kMostThreads) return;
      try {
        StartLoop();
      } catch (const CodedError&) {
        // It is settled all the same, when what is waited for is.
      }
      return;
    }
  }
  event->Fail(reason);
}

void Watcher::Failed(const std::string& sentence) { Drop(sentence); }

void Watcher::Drop(const std::string& reason) {
  Events dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    dropped.swap(waiting_);
    dropped.insert(dropped.end(), waited_for_.begin(), waited_for_.end());
  }
  for (const auto& event : dropped) event->Fail(reason);
}

void Watcher::Close(std::function<void()> closed) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  arrived_.notify_all();
  Drop("stream '" + name_ + "' was closed");
  const auto finish = [self = shared_from_this(), closed = std::move(closed)] {
    self->AwaitEnd();
    closed();
  };
  try {
    StartDetached("zi:cuda close", finish);
  } catch (const CodedError&) {
    finish();  // the caller waits instead
  }
}

bool Watcher::AwaitEnd() {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto ended = [this] { return ended_; };
  while (!ended_changed_.wait_for(lock, kLook, ended)) {
    if (context_->known_failure().empty()) continue;
    if (context_->abandoned() || !ended_changed_.wait_for(lock, kPatience, ended)) break;
  }
  if (!ended_) context_->Abandon();
  return ended_ && !context_->abandoned();
}

void Watcher::Loop() {
  cudaSetDevice(context_->device());
  while (const auto event = Next()) {
    Settle(*event);
    std::lock_guard<std::mutex> lock(mutex_);
    waited_for_.erase(std::find(waited_for_.begin(), waited_for_.end(), event));
  }
  std::unique_lock<std::mutex> lock(mutex_);
  if (--threads_ > 0) return;
  lock.unlock();
  // Queued copies still read and write memory: whoever closed may free it only when they are done.
  cudaStreamSynchronize(stream_);
  lock.lock();
  ended_ = true;
  ended_changed_.notify_all();
}

std::shared_ptr<StreamEvent> Watcher::Next() {
  std::unique_lock<std::mutex> lock(mutex_);
  ++idle_;
  arrived_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
  --idle_;
  if (closing_) return nullptr;
  auto event = waiting_.front();
  waiting_.pop_front();
  Insert(waited_for_, event);
  return event;
}

cudaError_t Watcher::AwaitUrgent(cudaEvent_t event) {
  const auto start = Clock::now();
  cudaError_t code = cudaEventQuery(event);
  const auto usual = usual_wait_.load();
  if (usual < kWorthLooking) {
    for (auto now = start; code == cudaErrorNotReady && now - start < 2 * kWorthLooking;) {
      const auto next = now + kBetweenLooks;
      while (now < next) now = Clock::now();
      code = cudaEventQuery(event);
    }
  }
  if (code == cudaErrorNotReady) {
    cudaGetLastError();
    code = cudaEventSynchronize(event);
  }
  usual_wait_ = (3 * usual + std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start)) / 4;
  return code;
}

void Watcher::Settle(StreamEvent& event) {
  const cudaError_t code = event.urgent() ? AwaitUrgent(event.handle()) : cudaEventSynchronize(event.handle());
  if (code != cudaSuccess) {
    context_->Fail(name_ + ": " + cudaGetErrorString(code) + ", found by cudaEventSynchronize");
  }
  const std::string failure = context_->failure();
  if (failure.empty()) {
    event.Reach();
  } else {
    event.Fail(failure);
  }
}

}  // namespace zi::cuda
