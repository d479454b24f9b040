// Stream: a thread that runs queued work in order, as a GPU's stream does. Knows nothing of what the work is.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/event.h"

namespace zi {

class Stream {
 public:
  /// Runs on the stream's thread; looks at the flag between tiles and returns early when it is set. Throwing fails
  /// the stream: later work is dropped and later events fail with the same sentence.
  using Work = std::function<void(const std::atomic<bool>& cancel)>;

  /// Throws CodedError where its thread cannot start.
  explicit Stream(std::string name);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Each throws std::runtime_error after Close.
  void Launch(Work work);
  std::shared_ptr<Event> Record();
  void Wait(std::shared_ptr<Event> event);

  /// The listener is called when nothing that is queued runs any more: with the first failure, or with a sentence about Close; on whatever
  /// thread, and maybe more than once.
  void Tell(std::function<void(const std::string& reason)> listener);

  /// Drops queued work, interrupts what runs, fails the queued events and joins the thread. Idempotent.
  void Close();

 private:
  /// Exactly one is set.
  struct Item {
    Work work;
    std::shared_ptr<Event> record;
    std::shared_ptr<Event> wait;
  };
  void Push(Item item);
  bool Pop(Item* item);
  void Loop();
  void Run(Item& item);
  void AwaitEvent(const std::shared_ptr<Event>& event);
  /// The stream's thread: nothing that is queued runs any more.
  void Fail(std::string reason);
  void TellAll(const std::string& reason);

  const std::string name_;
  std::atomic<bool> cancel_{false};
  std::atomic<size_t> queued_{0};  // size of items_, read without the lock while spinning
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Item> items_;              // guarded by mutex_
  bool sleeping_ = false;               // guarded by mutex_
  std::shared_ptr<Event> waiting_for_;  // guarded by mutex_
  std::vector<std::function<void(const std::string&)>> listeners_;  // guarded by mutex_
  std::string told_;                    // what they were told last; guarded by mutex_
  std::string failure_;                 // stream thread only; empty while healthy
  std::thread thread_;
};

}  // namespace zi
