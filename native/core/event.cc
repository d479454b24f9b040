// Implements core/event.h.
#include "core/event.h"

#include <limits>

#include "core/clock.h"

namespace zi {

Event::State Event::state() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

double Event::time_ms() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return state_ == State::kReached ? time_ms_ : std::numeric_limits<double>::quiet_NaN();
}

void Event::Reach() { Settle(State::kReached, {}); }
void Event::Fail(const std::string& failure) { Settle(State::kFailed, failure); }

void Event::Settle(State state, std::string failure) {
  std::vector<Observer> observers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (state_ != State::kPending) return;
    time_ms_ = NowMs();
    failure_ = std::move(failure);
    state_ = state;
    observers.swap(observers_);
  }
  settled_.notify_all();
  for (auto& observer : observers) observer(failure_);
}

void Event::Observe(Observer observer) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (state_ == State::kPending) {
      observers_.push_back(std::move(observer));
      return;
    }
  }
  observer(failure_);
}

bool Event::Wait(const std::atomic<bool>& cancel, std::string* failure) {
  std::unique_lock<std::mutex> lock(mutex_);
  settled_.wait(lock, [&] { return state_ != State::kPending || cancel.load(); });
  if (state_ == State::kFailed) *failure = failure_;
  return state_ == State::kReached;
}

void Event::Wake() {
  // Taking the lock orders the caller's flag before the waiter's next look at it.
  std::lock_guard<std::mutex> lock(mutex_);
  settled_.notify_all();
}

}  // namespace zi
