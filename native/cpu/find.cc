// Implements cpu/find.h: a job of a worker's thread, which alone touches these tables, between two askings of one device.
#include "cpu/find.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/io_pieces.h"
#include "core/memory.h"
#include "ops/exchange.h"
#include "ops/slots.h"

namespace zi {
namespace {

int32_t* Words(const View& view) { return reinterpret_cast<int32_t*>(view.data); }

struct Asked {
  int32_t comes, comes_uses, leaves, leaves_uses, leaves_stamp;
};

class Finder {
 public:
  explicit Finder(const FindExpertsOp& op)
      : op_(op), calls_(Words(op.asked)[kAskedCalls]), first_key_(Words(op.asked)[kAskedFirstKey]),
        slot_of_(Words(op.slot_of)), key_of_(Words(op.key_of)), uses_(Words(op.uses)), stamps_(Words(op.stamps)) {
    const int32_t count = Words(op.asked)[kAskedCount];
    const bool fits = count >= 0 && count <= op.found.shape[0] && kAskedHead + int64_t{kAskedEach} * count <= op.asked.shape[0];
    if (!fits) throw std::runtime_error("more experts are asked for than there is room for");
    for (int32_t i = 0; i < count; ++i) asked_.push_back(Read(Words(op.asked) + kAskedHead + kAskedEach * i));
  }

  void Run(const CancelFlag& cancel) {
    Age();
    std::vector<size_t> there, missing;
    for (size_t i = 0; i < asked_.size(); ++i) (slot_of_[asked_[i].comes] >= 0 ? there : missing).push_back(i);
    // The drive works while the others are exchanged.
    const std::vector<int32_t> into = Freed(missing.size(), there);
    Begin(missing, into, cancel);
    for (const size_t which : there) Tell(which, slot_of_[asked_[which].comes]);
    for (size_t i = 0; i < missing.size(); ++i) {
      op_.files->Await(static_cast<uint64_t>(asked_[missing[i]].comes), cancel);
      if (cancel) return;
      Tell(missing[i], into[i]);
    }
    Words(op_.counts)[0] += static_cast<int32_t>(there.size());
    Words(op_.counts)[1] += static_cast<int32_t>(missing.size());
  }

 private:
  Asked Read(const int32_t* words) const {
    const Asked asked{words[kComesKey], words[kComesUses], words[kLeavesKey], words[kLeavesUses], words[kLeavesStamp]};
    const int64_t keys = op_.slot_of.shape[0];
    if (asked.comes < 0 || asked.comes >= keys || asked.leaves >= keys) throw std::runtime_error("an expert is asked for that there is not");
    if (asked.leaves >= 0 && slot_of_[asked.leaves] >= 0) throw std::runtime_error("an expert leaves the device that lies in a slot of the host as well");
    return asked;
  }

  /// As often as the device has halved its uses since.
  void Age() {
    int32_t& last = *Words(op_.calls);
    const int64_t age = op_.age_calls, into_age = ((last % age) + age) % age;
    const int64_t halvings = std::min<int64_t>(31, (into_age + CallsSince(calls_, last)) / age);
    last = calls_;
    if (halvings == 0) return;
    for (int64_t slot = 0; slot < op_.uses.shape[0]; ++slot) uses_[slot] >>= halvings;
  }

  /// So many slots, those whose experts leave first; none of those that come from here.
  std::vector<int32_t> Freed(size_t count, const std::vector<size_t>& there) const {
    if (count == 0) return {};
    const auto slots = static_cast<int32_t>(op_.key_of.shape[0]);
    std::vector<int64_t> worth(static_cast<size_t>(slots));
    std::vector<bool> taken(static_cast<size_t>(slots));
    for (const size_t which : there) taken[static_cast<size_t>(slot_of_[asked_[which].comes])] = true;
    std::vector<int32_t> order;
    for (int32_t slot = 0; slot < slots; ++slot) {
      if (taken[static_cast<size_t>(slot)]) continue;
      const uint32_t since = CallsSince(calls_, stamps_[slot]);
      const int32_t uses = key_of_[slot] < 0 ? 0 : UsesBefore(uses_[slot], key_of_[slot] < first_key_, since, op_.age_calls);
      worth[static_cast<size_t>(slot)] = Worth(key_of_[slot] < 0, uses, since);
      order.push_back(slot);
    }
    if (order.size() < count) throw std::runtime_error("the host has fewer slots than a device asks for at once");
    std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(count), order.end(), [&](int32_t a, int32_t b) {
      const int64_t left = worth[static_cast<size_t>(a)], right = worth[static_cast<size_t>(b)];
      return left != right ? left < right : a < b;
    });
    order.resize(count);
    return order;
  }

  void Begin(const std::vector<size_t>& missing, const std::vector<int32_t>& into, const CancelFlag& cancel) {
    const int64_t first = op_.slots.data - op_.files->memory().data();
    std::vector<IoPieces::Wanted> wanted;
    for (size_t i = 0; i < missing.size(); ++i) {
      const int32_t key = asked_[missing[i]].comes, slot = into[i];
      if (key_of_[slot] >= 0) slot_of_[key_of_[slot]] = -1;
      key_of_[slot] = key;
      slot_of_[key] = slot;
      Words(op_.read_as)[slot] = key;
      wanted.push_back({static_cast<uint64_t>(key), static_cast<uint64_t>(first + slot * op_.slots.strides[0])});
    }
    op_.files->Begin(wanted, cancel);
  }

  /// The device may exchange now; who leaves it lies in the slot from here on.
  void Tell(size_t which, int32_t slot) {
    const Asked& asked = asked_[which];
    const int32_t* const alike = Words(op_.alike);
    const bool swaps = asked.leaves >= 0 && alike[asked.comes] == alike[asked.leaves];
    int32_t* const row = Words(op_.found) + told_++ * op_.found.strides[0];
    row[kFoundWhich] = static_cast<int32_t>(which);
    row[kFoundSwaps] = swaps ? 1 : 0;
    const int64_t parts = op_.begins.shape[1];
    const int32_t* const begins = Words(op_.begins) + Words(op_.read_as)[slot] * op_.begins.strides[0];
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t at = slot * op_.slots.strides[0] + begins[part];
      row[kFoundHead + 2 * part] = static_cast<int32_t>(static_cast<uint32_t>(at));
      row[kFoundHead + 2 * part + 1] = static_cast<int32_t>(at >> 32);
    }
    slot_of_[asked.comes] = -1;
    key_of_[slot] = swaps ? asked.leaves : -1;
    if (swaps) {
      slot_of_[asked.leaves] = slot;
      uses_[slot] = asked.leaves_uses;
      stamps_[slot] = asked.leaves_stamp;
    }
    std::atomic_ref<int32_t>(row[kFoundTurn]).store(calls_, std::memory_order_release);
  }

  const FindExpertsOp& op_;
  const int32_t calls_, first_key_;
  int32_t *const slot_of_, *const key_of_, *const uses_, *const stamps_;
  std::vector<Asked> asked_;
  int64_t told_ = 0;
};

}  // namespace

void FindExperts(const FindExpertsOp& op, Run& run) { Finder(op).Run(run.cancel); }

}  // namespace zi
