// Implements cuda/stream.h: what is queued goes straight to the driver, on the caller's thread.
#include "cuda/stream.h"

#include <limits>

#include "ops/decode.h"

namespace zi::cuda {

Stream::Stream(int device, const std::string& name, bool computes) : context_(Context::Of(device)), name_(name) {
  context_->Use();
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  try {
    run_ = std::make_unique<Run>(stream_, *context_, computes);
    watcher_ = Watcher::Start(context_, stream_, name);
  } catch (...) {
    cudaStreamDestroy(stream_);
    throw;
  }
}

Stream::~Stream() {
  watcher_->Close([] {});
  if (!watcher_->AwaitEnd()) {
    // Its memory and the stream may still be in use.
    run_.release();
    replays_.release();
    return;
  }
  cudaSetDevice(context_->device());
  replays_.reset();
  run_.reset();
  cudaStreamDestroy(stream_);
}

void Stream::RequireOpen() const {
  if (closing_) throw std::runtime_error("stream '" + name_ + "' is closed");
}

template <class F>
void Stream::Try(const char* what, F call) {
  if (!context_->failure().empty()) return;
  try {
    context_->Use();
    call();
  } catch (const std::invalid_argument&) {
    throw;
  } catch (const std::exception& error) {
    context_->Fail(name_ + ": " + what + ": " + error.what());
  }
}

void Stream::Launch(const double* words, size_t count) {
  RequireOpen();
  const Decoded decoded = DecodeOperation(words, count, context_->device());
  Try(decoded.name, [&] {
    run_->Execute(decoded);
    run_->Flush();
    Check(cudaGetLastError(), "launch");
  });
}

void Stream::LaunchAll(const double* words, size_t count, uint64_t kept) {
  RequireOpen();
  bool replayed = false;
  Try("replay", [&] { replayed = replays_->Replay({words, count, kept}, *run_); });
  if (replayed) return;
  const std::vector<Decoded> operations = DecodeOperations(words, count, context_->device());
  if (operations.empty()) return;
  Try(operations.back().name, [&] {
    replays_->Execute({words, count, kept}, operations, *run_);
    Check(cudaGetLastError(), "launch");
  });
}

std::shared_ptr<Event> Stream::Record() {
  RequireOpen();
  std::shared_ptr<StreamEvent> event;
  Try("record", [&] {
    event = std::make_shared<StreamEvent>(context_, watcher_, recorded_++);
    Check(cudaEventRecord(event->handle(), stream_), "cudaEventRecord");
  });
  if (event && context_->failure().empty()) return event;
  auto failed = std::make_shared<Event>();
  failed->Fail(context_->failure());
  return failed;
}

void Stream::Wait(const std::shared_ptr<Event>& event) {
  RequireOpen();
  const auto* other = dynamic_cast<const StreamEvent*>(event.get());
  if (!other) {
    if (event->state() == Event::State::kPending) throw std::invalid_argument("the event is of no CUDA stream");
    if (event->state() == Event::State::kFailed) context_->Fail(name_ + " waited for an event that failed");
    return;
  }
  other->context().failure();  // a fault that its kernels reported fails this device as well
  Try("wait", [&] {
    run_->OtherQueued();
    Check(cudaStreamWaitEvent(stream_, other->handle(), 0), "cudaStreamWaitEvent");
  });
}

void Stream::Close(std::function<void()> closed) {
  closing_ = true;
  watcher_->Close(std::move(closed));
}

StreamEvent::StreamEvent(std::shared_ptr<Context> context, std::weak_ptr<Watcher> watcher, uint64_t number)
    : context_(std::move(context)), base_(context_->clock()), watcher_(std::move(watcher)), number_(number) {
  // Blocking: whoever waits sleeps instead of spinning on a core that reads or decodes.
  Check(cudaEventCreateWithFlags(&handle_, cudaEventBlockingSync), "cudaEventCreate");
}

StreamEvent::~StreamEvent() { cudaEventDestroy(handle_); }

Event::State StreamEvent::state() const {
  const State settled = Event::state();
  if (settled != State::kPending) return settled;
  if (cudaEventQuery(handle_) != cudaSuccess) {
    cudaGetLastError();  // "not ready" is an answer, which the next launch must not find
    return settled;
  }
  return context_->failure().empty() ? State::kReached : State::kFailed;
}

double StreamEvent::time_ms() const {
  float elapsed_ms = 0;
  if (state() != State::kReached || cudaEventElapsedTime(&elapsed_ms, base_->event, handle_) != cudaSuccess) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return base_->host_ms + static_cast<double>(elapsed_ms);
}

void StreamEvent::Observe(Observer observer) {
  Event::Observe(std::move(observer));
  if (Event::state() != State::kPending) return;
  if (auto watcher = watcher_.lock()) {
    watcher->Watch(shared_from_this());
  } else {
    Fail("the stream was closed");
  }
}

std::shared_ptr<Queue> OpenQueue(int device, const std::string& name, bool computes) {
  return std::make_shared<Stream>(device, name, computes);
}

}  // namespace zi::cuda
