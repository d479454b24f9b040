// Implements core/stream.h.
#include "core/stream.h"

#include <new>
#include <stdexcept>

#include "core/coded_error.h"
#include "core/exchange.h"
#include "core/spin.h"
#include "core/threads.h"

namespace zi {

Stream::Stream(std::string name) : name_(std::move(name)) {
  thread_ = StartThread(("zi:" + name_).c_str(), [this] { Loop(); });
}

Stream::~Stream() { Close(); }

void Stream::Launch(Work work) { Push({std::move(work), nullptr, nullptr}); }

std::shared_ptr<Event> Stream::Record() {
  auto event = std::make_shared<Event>();
  Push({nullptr, event, nullptr});
  return event;
}

void Stream::Wait(std::shared_ptr<Event> event) { Push({nullptr, nullptr, std::move(event)}); }

void Stream::Push(Item item) {
  bool sleeping;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (cancel_) throw std::runtime_error("stream '" + name_ + "' is closed");
    items_.push_back(std::move(item));
    queued_.store(items_.size(), std::memory_order_release);
    sleeping = sleeping_;
  }
  if (sleeping) arrived_.notify_one();
}

bool Stream::Pop(Item* item) {
  SpinBriefly([this] { return queued_.load(std::memory_order_acquire) > 0 || cancel_.load(); });
  std::unique_lock<std::mutex> lock(mutex_);
  sleeping_ = true;
  arrived_.wait(lock, [this] { return !items_.empty() || cancel_; });
  sleeping_ = false;
  if (cancel_) return false;
  *item = std::move(items_.front());
  items_.pop_front();
  queued_.store(items_.size(), std::memory_order_release);
  return true;
}

void Stream::Loop() {
  Item item;
  while (Pop(&item)) {
    Run(item);
    item = {};  // frees the memories the work held before the next wait
  }
  std::deque<Item> dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    dropped.swap(items_);
  }
  const std::string reason = failure_.empty() ? "stream '" + name_ + "' was closed" : failure_;
  for (auto& left : dropped) {
    if (left.record) left.record->Fail(reason);
  }
}

void Stream::Run(Item& item) {
  if (item.record) {
    // Close may have cut the work before this event short: it was not reached then.
    if (failure_.empty() && cancel_) failure_ = "stream '" + name_ + "' was closed";
    if (failure_.empty()) {
      item.record->Reach();
    } else {
      item.record->Fail(failure_);
    }
    return;
  }
  if (!failure_.empty()) return;
  if (item.wait) return AwaitEvent(item.wait);
  try {
    item.work(cancel_);
  } catch (const OthersFailure& failure) {
    Fail(failure.what());
  } catch (const std::bad_alloc&) {
    Fail("stream '" + name_ + "': " + kNoMemorySentence);
  } catch (const std::exception& error) {
    Fail("stream '" + name_ + "': " + error.what());
  }
}

void Stream::Fail(std::string reason) {
  failure_ = std::move(reason);
  TellAll(failure_);
}

void Stream::Tell(std::function<void(const std::string&)> listener) {
  std::string told;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    listeners_.push_back(listener);
    told = told_;
  }
  if (!told.empty()) listener(told);
}

void Stream::TellAll(const std::string& reason) {
  std::vector<std::function<void(const std::string&)>> listeners;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    listeners = listeners_;
    told_ = reason;
  }
  for (const auto& listener : listeners) listener(reason);
}

void Stream::AwaitEvent(const std::shared_ptr<Event>& event) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_for_ = event;
  }
  std::string reason;
  if (!event->Wait(cancel_, &reason) && !cancel_) {
    Fail(reason);  // the first cause, however many streams wait for each other
  }
  std::lock_guard<std::mutex> lock(mutex_);
  waiting_for_ = nullptr;
}

void Stream::Close() {
  std::shared_ptr<Event> waiting_for;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    cancel_ = true;
    waiting_for = waiting_for_;
  }
  arrived_.notify_one();
  if (waiting_for) waiting_for->Wake();
  TellAll("stream '" + name_ + "' was closed");
  if (thread_.joinable()) thread_.join();
}

}  // namespace zi
