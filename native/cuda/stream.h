// A CUDA stream with the events recorded on it, and the thread that settles their promises.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <thread>

#include "cuda/api.h"
#include "cuda/context.h"
#include "cuda/replay.h"
#include "cuda/run.h"

namespace zi::cuda {

class Stream;

/// Knows by itself whether it was reached; the stream's watcher waits for it only when somebody observes it.
class StreamEvent final : public Event, public std::enable_shared_from_this<StreamEvent> {
 public:
  /// @param number of those that were recorded before on the same stream
  StreamEvent(std::shared_ptr<Context> context, std::weak_ptr<class Watcher> watcher, uint64_t number);
  ~StreamEvent() override;

  State state() const override;
  double time_ms() const override;
  void Observe(Observer observer) override;
  void Urge() override { urgent_ = true; }
  bool urgent() const { return urgent_; }
  uint64_t number() const { return number_; }

  cudaEvent_t handle() const { return handle_; }
  Context& context() const { return *context_; }

 private:
  const std::shared_ptr<Context> context_;
  const std::shared_ptr<const ClockBase> base_;
  const std::weak_ptr<Watcher> watcher_;
  const uint64_t number_;
  std::atomic<bool> urgent_{false};
  cudaEvent_t handle_ = nullptr;
};

/// Waits for a stream's observed events in the order they were recorded, and settles them. Whoever observes an event that was recorded
/// before those that are waited for does not wait for them: another thread does. The threads own it as well: where a device broke,
/// they may wait in the driver for ever, and nobody else must.
class Watcher final : public FailureListener, public std::enable_shared_from_this<Watcher> {
 public:
  static std::shared_ptr<Watcher> Start(std::shared_ptr<Context> context, cudaStream_t stream, std::string name);
  Watcher(std::shared_ptr<Context> context, cudaStream_t stream, std::string name);

  /// Fails the event at once when closed, or when the device has failed.
  void Watch(std::shared_ptr<StreamEvent> event);
  void Failed(const std::string& sentence) override;
  /// Calls `closed` when what was queued has run, or a failed device was given up.
  void Close(std::function<void()> closed);
  /// After Close: true when what was queued has run, false when a failed device was given up.
  bool AwaitEnd();
  const std::string& name() const { return name_; }

 private:
  using Events = std::deque<std::shared_ptr<StreamEvent>>;  // in the order they were recorded

  static void Insert(Events& events, std::shared_ptr<StreamEvent> event);
  void StartLoop();
  void Loop();
  /// The next that is to be waited for; null when the watcher closes.
  std::shared_ptr<StreamEvent> Next();
  void Settle(StreamEvent& event);
  cudaError_t AwaitUrgent(cudaEvent_t event);
  void Drop(const std::string& reason);

  const std::shared_ptr<Context> context_;
  const cudaStream_t stream_;
  const std::string name_;
  std::mutex mutex_;
  std::condition_variable arrived_, ended_changed_;
  Events waiting_, waited_for_;           // guarded by mutex_; the latter by a thread each
  size_t threads_ = 0, idle_ = 0;         // guarded by mutex_
  bool closing_ = false, ended_ = false;  // guarded by mutex_
  std::atomic<std::chrono::microseconds> usual_wait_{std::chrono::microseconds{0}};  // for urgent events
};

class Stream final : public Queue {
 public:
  Stream(int device, const std::string& name, bool computes);
  ~Stream() override;

  void Launch(const double* words, size_t count) override;
  void LaunchAll(const double* words, size_t count, uint64_t kept) override;
  std::shared_ptr<Event> Record() override;
  void Wait(const std::shared_ptr<Event>& event) override;
  void Close(std::function<void()> closed) override;

  /// Throws std::runtime_error after Close.
  void RequireOpen() const;
  cudaStream_t handle() const { return stream_; }
  Context& context() const { return *context_; }

 private:
  /// Runs `call` on the device unless it failed; what the runtime refuses becomes the device's failure.
  template <class F>
  void Try(const char* what, F call);

  const std::shared_ptr<Context> context_;
  const std::string name_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Run> run_;
  std::unique_ptr<Replays> replays_ = std::make_unique<Replays>();
  std::shared_ptr<Watcher> watcher_;
  uint64_t recorded_ = 0;
  bool closing_ = false;
};

}  // namespace zi::cuda
