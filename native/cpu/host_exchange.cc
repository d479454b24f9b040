// Implements cpu/host_exchange.h.
//
// Each rank has a place for each of two rounds. Whoever comes to round r + 2, and overwrites what it left for round r, has met all
// others in round r + 1, which they began when they had summed round r.
#include "cpu/host_exchange.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "core/memory.h"
#include "core/spin.h"

namespace zi {

/// What a rank brings to a round: all must bring the same.
struct Brought {
  DType dtype;
  int64_t rows, columns, first;
  bool operator==(const Brought&) const = default;
};

struct ExchangeGroup {
  ExchangeGroup(int count, size_t room) : count(count), room(room), brought(static_cast<size_t>(2 * count)) {
    for (int i = 0; i < 2 * count; ++i) places.push_back(std::make_unique<HostMemory>(room, false));
  }
  uint8_t* Place(uint64_t round, int rank) const { return places[Index(round, rank)]->data(); }
  size_t Index(uint64_t round, int rank) const { return static_cast<size_t>((round & 1) * static_cast<uint64_t>(count) + static_cast<uint64_t>(rank)); }
  /// True when all have come; false where that is given up because of `cancel`.
  bool Meet(uint64_t round, const CancelFlag& cancel);

  const int count;
  const size_t room;
  std::vector<std::unique_ptr<HostMemory>> places;
  std::vector<Brought> brought;  // by place; read when all have come
  std::atomic<uint64_t> met{0};  // the last round in which all have come
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::condition_variable changed;
  int here = 0;         // of the round that is not met yet; guarded by mutex
  std::string failure;  // guarded by mutex
};

bool ExchangeGroup::Meet(uint64_t round, const CancelFlag& cancel) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (++here == count) {
      here = 0;
      met.store(round, std::memory_order_release);
      changed.notify_all();
    }
  }
  const auto over = [&] { return met.load(std::memory_order_acquire) >= round || failed.load() || cancel.load(); };
  if (!SpinBriefly(over)) {
    // Whoever cancels fails the exchange, which wakes.
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, over);
  }
  if (met.load(std::memory_order_acquire) >= round) return true;
  if (cancel) return false;
  std::lock_guard<std::mutex> lock(mutex);
  throw OthersFailure(failure);
}

HostExchange::HostExchange(int rank, std::shared_ptr<ExchangeGroup> group)
    : Exchange(rank, group->count, group->room), group_(std::move(group)) {}

int HostExchange::place() const { return kHostPlace; }
size_t HostExchange::device_bytes() const { return 2 * room(); }

void HostExchange::Fail(const std::string& reason) {
  {
    std::lock_guard<std::mutex> lock(group_->mutex);
    if (group_->failed) return;
    group_->failure = reason;
    group_->failed = true;
  }
  group_->changed.notify_all();
}

void HostExchange::Sum(const ReduceOp& op, Run& run, void (*sum)(const ReduceOp&, const PartialSpan&, Run&)) {
  ExchangeGroup& group = *group_;
  const int64_t rows = op.partial.shape[0], columns = op.partial.shape[1], element = ElementBytes(op.partial.dtype);
  const int64_t most = static_cast<int64_t>(room()) / element;
  std::vector<const uint8_t*> places(static_cast<size_t>(count()));
  for (int64_t first = 0; first < rows * columns && !run.cancel; first += most) {
    const int64_t last = std::min(first + most, rows * columns);
    ++round_;
    uint8_t* own = group.Place(round_, rank());
    for (int64_t at = first; at < last;) {
      const int64_t row = at / columns, column = at % columns, values = std::min(columns - column, last - at);
      std::memcpy(own + (at - first) * element, op.partial.data + (row * op.partial.strides[0] + column) * element,
                  static_cast<size_t>(values * element));
      at += values;
    }
    const Brought mine{op.partial.dtype, rows, columns, first};
    group.brought[group.Index(round_, rank())] = mine;
    if (!group.Meet(round_, run.cancel)) return;
    for (int other = 0; other < count(); ++other) {
      if (group.brought[group.Index(round_, other)] != mine) FailOp("rank %d of the group sums something else than rank %d", other, rank());
      places[static_cast<size_t>(other)] = group.Place(round_, other);
    }
    sum(op, {places.data(), count(), first, last}, run);
  }
}

std::vector<std::shared_ptr<HostExchange>> OpenHostExchange(int count, size_t room) {
  if (count < 1 || room < sizeof(float)) throw std::invalid_argument("a group has a device and room for a value at least");
  const auto group = std::make_shared<ExchangeGroup>(count, room);
  std::vector<std::shared_ptr<HostExchange>> exchanges;
  for (int rank = 0; rank < count; ++rank) {
    exchanges.push_back(std::make_shared<HostExchange>(rank, group));
    EnterExchange(exchanges.back());
  }
  return exchanges;
}

}  // namespace zi
