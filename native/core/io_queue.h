// The queue between callers and engines: batches in order, cut into blocks, settled when their last block is back.
#pragma once
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/io_block.h"
#include "core/io_faults.h"
#include "core/io_types.h"

namespace zi {

/// State of one batch; touched under the queue's mutex only.
struct IoBatch {
  std::vector<IoRead> reads;
  IoDone done;
  // The cursor: the next block not yet handed out.
  size_t next_read = 0;
  uint64_t next_start = 0;
  uint64_t uncut_bytes = 0;
  /// Handed out and not finished: in flight, or waiting for another attempt.
  uint64_t open_blocks = 0;
  bool started = false;
  IoOutcome outcome;
};

/// Thread-safe. Engines only take blocks, read them, and hand back what the kernel returned; every decision is here.
class IoQueue {
 public:
  IoQueue(uint64_t block_bytes, IoFaults& faults) : block_bytes_(block_bytes), faults_(faults) {}

  /// Appends a batch, to those that are urgent or to the others. Settles it at once when it holds no bytes, or with
  /// ECANCELED after Close().
  void Push(std::vector<IoRead> reads, bool urgent, IoDone done);

  /// The next block, of urgent batches first, and of equals of the earliest; or nothing. Taking a block means handing its
  /// result to Complete().
  std::optional<IoBlock> TryTake();
  /// The same, sleeping until there is one; nothing once the queue is closed and empty.
  std::optional<IoBlock> Take();

  /// `result` is what the kernel returned: bytes or -errno.
  void Complete(IoBlock block, int64_t result);

  /// Batches with blocks not yet handed out fail with ECANCELED; blocks in flight go on to their end.
  void Close();
  bool closed() const;
  IoStats stats() const;

 private:
  std::optional<IoBlock> TakeLocked();
  std::optional<IoBlock> TakeFrom(std::deque<std::shared_ptr<IoBatch>>& batches);
  std::optional<IoBlock> Cut(const std::shared_ptr<IoBatch>& batch);
  void Fail(const std::shared_ptr<IoBatch>& batch, IoFailure failure);
  static void Settle(IoBatch& batch);

  const uint64_t block_bytes_;
  IoFaults& faults_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // With blocks left to cut.
  std::deque<std::shared_ptr<IoBatch>> urgent_;
  std::deque<std::shared_ptr<IoBatch>> batches_;
  std::deque<IoBlock> again_;  // for another attempt; served first, as they are the oldest
  uint64_t in_flight_ = 0;
  bool closed_ = false;
  IoStats stats_;
};

}  // namespace zi
