// The queue between callers and engines: batches in order, cut into chunks, settled when their last chunk is back.
#pragma once
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/io_chunk.h"
#include "core/io_faults.h"
#include "core/io_types.h"

namespace zi {

/// State of one batch; touched under the queue's mutex only.
struct IoBatch {
  std::vector<IoRead> reads;
  IoDone done;
  // The cursor: the next chunk not yet handed out.
  size_t next_read = 0;
  uint64_t next_start = 0;
  uint64_t uncut_bytes = 0;
  /// Handed out and not finished: in flight, or waiting for another attempt.
  uint64_t open_chunks = 0;
  bool started = false;
  IoOutcome outcome;
};

/// Thread-safe. Engines only take chunks, read them, and hand back what the kernel returned; every decision is here.
class IoQueue {
 public:
  IoQueue(uint64_t chunk_bytes, IoFaults& faults) : chunk_bytes_(chunk_bytes), faults_(faults) {}

  /// Appends a batch, to those that are urgent or to the others. Settles it at once when it holds no bytes, or with
  /// ECANCELED after Close().
  void Push(std::vector<IoRead> reads, bool urgent, IoDone done);

  /// The next chunk, of urgent batches first, and of equals of the earliest; or nothing. Taking a chunk means handing its
  /// result to Complete().
  std::optional<IoChunk> TryTake();
  /// The same, sleeping until there is one; nothing once the queue is closed and empty.
  std::optional<IoChunk> Take();

  /// `result` is what the kernel returned: bytes or -errno.
  void Complete(IoChunk chunk, int64_t result);

  /// Batches with chunks not yet handed out fail with ECANCELED; chunks in flight go on to their end.
  void Close();
  bool closed() const;
  /// Whether there is a chunk to take, be it one that came back short when the queue had been closed.
  bool HasChunks() const;
  IoStats stats() const;

 private:
  std::optional<IoChunk> TakeLocked();
  std::optional<IoChunk> TakeFrom(std::deque<std::shared_ptr<IoBatch>>& batches);
  std::optional<IoChunk> Cut(const std::shared_ptr<IoBatch>& batch);
  void Fail(const std::shared_ptr<IoBatch>& batch, IoFailure failure);
  static void Settle(IoBatch& batch);

  const uint64_t chunk_bytes_;
  IoFaults& faults_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Batches with chunks left to cut.
  std::deque<std::shared_ptr<IoBatch>> urgent_;
  std::deque<std::shared_ptr<IoBatch>> batches_;
  std::deque<IoChunk> again_;  // for another attempt; served first, as they are the oldest
  uint64_t in_flight_ = 0;
  bool closed_ = false;
  IoStats stats_;
};

}  // namespace zi
