// WeakTable: what JavaScript names by a number, found while somebody holds it.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace zi {

/// T has an id(), which NextId gave it.
template <class T>
class WeakTable {
 public:
  uint32_t NextId() { return next_id_++; }

  void Enter(const std::shared_ptr<T>& entry) {
    std::lock_guard<std::mutex> lock(mutex_);
    // Ids are never used twice, so what is gone only takes room.
    std::erase_if(entries_, [](const auto& one) { return one.second.expired(); });
    entries_[entry->id()] = entry;
  }

  /// Null where there is none any more.
  std::shared_ptr<T> Find(uint32_t id) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second.lock();
  }

 private:
  std::atomic<uint32_t> next_id_{1};
  std::mutex mutex_;
  std::unordered_map<uint32_t, std::weak_ptr<T>> entries_;  // guarded by mutex_
};

}  // namespace zi
