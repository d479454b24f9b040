// The queue between callers and engines: for each drive batches in order, cut into chunks, settled when their last one is back.
#pragma once
#include <array>
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

/// Drives that have a queue of their own; files on more than these share queues.
constexpr unsigned kMostDrives = 8;

/// State of one batch; touched under the queue's mutex only.
struct IoBatch {
  /// Its reads from one drive, and the next chunk of them that is not yet handed out.
  struct Cursor {
    std::vector<size_t> reads;
    size_t next_read = 0;
    uint64_t next_start = 0;
  };
  std::vector<IoRead> reads;
  IoDone done;
  std::array<Cursor, kMostDrives> cursors;
  uint64_t uncut_bytes = 0;
  /// Handed out and not finished: in flight, or waiting for another attempt.
  uint64_t open_chunks = 0;
  bool started = false;
  IoOutcome outcome;
};

/// Thread-safe. Engines only take chunks, read them, and hand back what the kernel returned; every decision is here. Drives do
/// not wait for each other: a slow one fills its own depth only, and a batch's reads from another go on meanwhile.
class IoQueue {
 public:
  /// @param depth of each drive: reads that it has in flight at once
  IoQueue(uint64_t chunk_bytes, uint64_t depth, IoFaults& faults)
      : chunk_bytes_(chunk_bytes), depth_(depth), faults_(faults) {}

  /// Before anything is appended.
  void SetDepth(uint64_t depth) { depth_ = depth; }

  /// Appends a batch, to those that are urgent or to the others. Settles it at once when it holds no bytes, or with
  /// ECANCELED after Close().
  void Push(std::vector<IoRead> reads, bool urgent, IoDone done);

  /// The next chunk of a drive that has room, of urgent batches first, and of equals of the earliest; or nothing. Drives take
  /// turns. Taking a chunk means handing its result to Complete().
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
  using Batches = std::deque<std::shared_ptr<IoBatch>>;
  struct Drive {
    // Batches with chunks left to cut.
    Batches urgent, batches;
    std::deque<IoChunk> again;  // for another attempt; served first, as they are the oldest
    uint64_t in_flight = 0;
    double busy_since_ms = 0;
    IoDriveStats stats;
  };
  std::optional<IoChunk> TakeLocked();
  std::optional<IoChunk> TakeFrom(unsigned drive);
  std::optional<IoChunk> Cut(const std::shared_ptr<IoBatch>& batch, unsigned drive);
  void Fail(const std::shared_ptr<IoBatch>& batch, IoFailure failure);
  static void Settle(IoBatch& batch);

  const uint64_t chunk_bytes_;
  uint64_t depth_;
  IoFaults& faults_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Drive, kMostDrives> drives_;
  unsigned drive_count_ = 1;
  unsigned next_drive_ = 0;
  uint64_t in_flight_ = 0;
  bool closed_ = false;
  IoStats stats_;
};

}  // namespace zi
