// Event: a point in a stream's work that other streams and promises can wait for. Settles once, never undone.
// Devices override what is virtual: they know by themselves whether their work got there.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace zi {

class Event {
 public:
  enum class State { kPending, kReached, kFailed };
  /// Called once, from the settling thread or at once when already settled. `failure` is empty when reached.
  using Observer = std::function<void(const std::string& failure)>;

  Event() = default;
  virtual ~Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  virtual State state() const;
  /// Milliseconds of NowMs when reached; NaN while pending or when failed.
  virtual double time_ms() const;

  void Reach();
  void Fail(const std::string& failure);
  virtual void Observe(Observer observer);
  /// Called before Observe where somebody idles until the event is known.
  virtual void Urge() {}

  /// Waits until settled or `cancel` is set (whoever sets it calls Wake). True when reached; `failure` says why not.
  bool Wait(const std::atomic<bool>& cancel, std::string* failure);
  void Wake();

 private:
  void Settle(State state, std::string failure);

  mutable std::mutex mutex_;
  std::condition_variable settled_;
  State state_ = State::kPending;
  double time_ms_ = 0;
  std::string failure_;
  std::vector<Observer> observers_;
};

}  // namespace zi
