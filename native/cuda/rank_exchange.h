// What GPUs of a group sum through: memory of each that all others write to, flags that say what has come, and a word that ends waiting.
#pragma once
#include "core/exchange.h"
#include "core/memory.h"
#include "cuda/context.h"

namespace zi::cuda {

constexpr int kMostRanks = 16;
/// Blocks of a kernel that sums. Each meets those of its number on the other devices.
constexpr int kMostMeetingBlocks = 256;

/// Bytes of a partial that is small, and what they take with an epoch beside each word.
constexpr size_t kMostMarkedBytes = 128 << 10;
constexpr size_t kMarkedRoom = 2 * kMostMarkedBytes;

/// Where everything lies in a device's memory for `count` ranks that sum `room` bytes at once, a multiple of 256.
struct InboxLayout {
  int count;
  size_t room;

  /// By phase, by rank that writes, by block: the last epoch in which that block has written all of its part.
  __host__ __device__ size_t FlagOf(int phase, int from, unsigned block) const {
    return (static_cast<size_t>(phase * count + from) * kMostMeetingBlocks + block) * sizeof(uint32_t);
  }
  __host__ __device__ size_t FlagBytes() const { return FlagOf(2, 0, 0); }
  /// What `from` writes for `to` in epochs of a parity.
  __host__ __device__ size_t SlotOf(uint32_t parity, int from, int to) const {
    const int place = from < to ? from : from - 1;
    return FlagBytes() + (static_cast<size_t>(parity) * static_cast<size_t>(count - 1) + static_cast<size_t>(place)) * room;
  }
  /// Sums of all shares, where each rank sums one.
  __host__ __device__ size_t SumsOf(uint32_t parity) const { return SlotOf(2, 0, 1) + static_cast<size_t>(parity) * room; }
  /// The same as SlotOf of small sums, whose words have an epoch each. Nothing else is ever written there.
  __host__ __device__ size_t MarkedSlotOf(uint32_t parity, int from, int to) const {
    const int place = from < to ? from : from - 1;
    return SumsOf(count > 2 ? 2 : 0) + (static_cast<size_t>(parity) * static_cast<size_t>(count - 1) + static_cast<size_t>(place)) * kMarkedRoom;
  }
  size_t Bytes() const { return MarkedSlotOf(2, 0, 1); }
};

class ExchangeGroup;

class DeviceExchange final : public Exchange {
 public:
  DeviceExchange(int rank, std::shared_ptr<ExchangeGroup> group);

  int place() const override;
  size_t device_bytes() const override;
  void Fail(const std::string& reason) override;

  InboxLayout layout() const;
  uint8_t* inbox(int rank) const;
  /// On the device, by block: epochs until now, alike for all of them.
  uint32_t* epochs() const;
  /// Blocks of a kernel that are there together on every device, however many ranks share one, with those of a kernel that waits to begin.
  int64_t most_blocks() const;
  /// A word of the host, not 0 when nobody may wait any more.
  const int32_t* closed() const;

 private:
  const std::shared_ptr<ExchangeGroup> group_;
};

/// Loads the kernels that sum: what loads later may have to wait until the device idles, and one that waits for others does not.
void PrepareSums(const Context& context);

}  // namespace zi::cuda
