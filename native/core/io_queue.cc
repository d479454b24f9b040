// Implements core/io_queue.h.
#include "core/io_queue.h"

#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/clock.h"
#include "core/io_file.h"

namespace zi {
namespace {

constexpr uint32_t kRetriesBeforeSleep = 16;
constexpr useconds_t kRetrySleepUs = 200;

IoFailure Failed(const IoChunk& chunk, int error) {
  return {ErrnoName(error), chunk.read->file->id(), chunk.file_offset(),
          "reading " + std::to_string(chunk.length()) + " bytes of '" + chunk.read->file->path() + "' at byte " +
              std::to_string(chunk.file_offset()) + " failed (" + DescribeErrno(error) + ")"};
}

IoFailure Ended(const IoChunk& chunk) {
  const uint64_t chunk_offset = chunk.read->file_offset + chunk.start;
  const uint64_t end = chunk_offset + chunk.arrived_bytes;
  return {"ESHORT", chunk.read->file->id(), end,
          "'" + chunk.read->file->path() + "' ends at or before byte " + std::to_string(end) + ", but bytes up to " +
              std::to_string(chunk.read->file_offset + chunk.read->required_bytes) +
              " are needed: it was truncated, or its download is incomplete"};
}

IoFailure Canceled(const IoBatch& batch) {
  for (const IoBatch::Cursor& cursor : batch.cursors) {
    if (cursor.next_read >= cursor.reads.size()) continue;
    const IoRead& read = batch.reads[cursor.reads[cursor.next_read]];
    return {"ECANCELED", read.file->id(), read.file_offset,
            "reading '" + read.file->path() + "' was canceled: the reader was closed"};
  }
  return {"ECANCELED", 0, 0, "read canceled: the reader was closed"};
}

}  // namespace

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name ? name : std::to_string(error);
}

std::string DescribeErrno(int error) {
  const char* text = strerrordesc_np(error);
  return ErrnoName(error) + ": " + (text ? text : "unknown error");
}

void IoQueue::Push(std::vector<IoRead> reads, bool urgent, IoDone done) {
  auto batch = std::make_shared<IoBatch>();
  batch->reads = std::move(reads);
  batch->done = std::move(done);
  for (size_t i = 0; i < batch->reads.size(); ++i) {
    const IoRead& read = batch->reads[i];
    batch->uncut_bytes += read.size_bytes;
    if (read.size_bytes > 0) batch->cursors[read.file->drive].reads.push_back(i);
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) {
      batch->outcome.failure = Canceled(*batch);
    } else if (batch->uncut_bytes > 0) {
      for (unsigned drive = 0; drive < kMostDrives; ++drive) {
        if (batch->cursors[drive].reads.empty()) continue;
        drive_count_ = std::max(drive_count_, drive + 1);
        (urgent ? drives_[drive].urgent : drives_[drive].batches).push_back(batch);
      }
      changed_.notify_all();
      return;
    }
  }
  Settle(*batch);
}

std::optional<IoChunk> IoQueue::TryTake() {
  std::lock_guard<std::mutex> lock(mutex_);
  return TakeLocked();
}

std::optional<IoChunk> IoQueue::Take() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (auto chunk = TakeLocked()) return chunk;
    // A chunk that needs another attempt is taken again by the thread that completed it, so none is stranded here.
    if (closed_) return std::nullopt;
    changed_.wait(lock);
  }
}

std::optional<IoChunk> IoQueue::TakeLocked() {
  for (unsigned turn = 0; turn < drive_count_; ++turn) {
    const unsigned number = (next_drive_ + turn) % drive_count_;
    Drive& drive = drives_[number];
    if (drive.in_flight >= depth_) continue;
    std::optional<IoChunk> chunk = TakeFrom(number);
    if (!chunk) continue;
    next_drive_ = (number + 1) % drive_count_;
    if (drive.in_flight++ == 0) drive.busy_since_ms = NowMs();
    stats_.max_in_flight = std::max(stats_.max_in_flight, ++in_flight_);
    return chunk;
  }
  return std::nullopt;
}

std::optional<IoChunk> IoQueue::TakeFrom(unsigned number) {
  Drive& drive = drives_[number];
  if (!drive.again.empty()) {
    IoChunk chunk = std::move(drive.again.front());
    drive.again.pop_front();
    return chunk;
  }
  for (Batches* batches : {&drive.urgent, &drive.batches}) {
    for (; !batches->empty(); batches->pop_front()) {
      if (auto chunk = Cut(batches->front(), number)) return chunk;
    }
  }
  return std::nullopt;
}

/// The next chunk that the batch wants of a drive; nothing when all have been handed out.
std::optional<IoChunk> IoQueue::Cut(const std::shared_ptr<IoBatch>& batch, unsigned drive) {
  IoBatch::Cursor& cursor = batch->cursors[drive];
  while (cursor.next_read < cursor.reads.size()) {
    const IoRead& read = batch->reads[cursor.reads[cursor.next_read]];
    if (cursor.next_start >= read.size_bytes) {
      ++cursor.next_read;
      cursor.next_start = 0;
      continue;
    }
    // Chunks begin at aligned offsets also where a file system wants more than the chunk size is a multiple of.
    const uint64_t alignment = read.file->alignment_bytes();
    const uint64_t step = (chunk_bytes_ + alignment - 1) / alignment * alignment;
    IoChunk chunk;
    chunk.batch = batch;
    chunk.read = &read;
    chunk.start = cursor.next_start;
    chunk.size_bytes = std::min(step, read.size_bytes - chunk.start);
    cursor.next_start += chunk.size_bytes;
    batch->uncut_bytes -= chunk.size_bytes;
    ++batch->open_chunks;
    if (!batch->started) {
      batch->started = true;
      batch->outcome.start_ms = NowMs();
    }
    return chunk;
  }
  return std::nullopt;
}

void IoQueue::Complete(IoChunk chunk, int64_t result) {
  result = faults_.Returned(chunk.file_offset(), chunk.destination(), chunk.length(), result);
  if (chunk.retries > kRetriesBeforeSleep) usleep(kRetrySleepUs);
  const std::shared_ptr<IoBatch> batch = chunk.batch;
  bool finished = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Drive& drive = drives_[chunk.read->file->drive];
    --in_flight_;
    if (--drive.in_flight == 0) drive.stats.busy_ms += NowMs() - drive.busy_since_ms;
    --batch->open_chunks;
    if (result >= 0) ++stats_.reads;
    const bool dropped = batch->outcome.failure.has_value();
    switch (Advance(chunk, result)) {
      case IoVerdict::kDone:
        batch->outcome.bytes += chunk.arrived_bytes;
        stats_.bytes += chunk.arrived_bytes;
        drive.stats.bytes += chunk.arrived_bytes;
        break;
      case IoVerdict::kRetry:
      case IoVerdict::kContinue:
        if (dropped) break;
        ++(result < 0 ? stats_.retries : stats_.short_reads);
        ++batch->open_chunks;
        drive.again.push_back(std::move(chunk));
        break;
      case IoVerdict::kEnded:
        if (!dropped) Fail(batch, Ended(chunk));
        break;
      case IoVerdict::kFailed:
        if (!dropped) Fail(batch, Failed(chunk, result < 0 ? static_cast<int>(-result) : EIO));
        break;
    }
    finished = batch->open_chunks == 0 && (batch->outcome.failure || batch->uncut_bytes == 0);
  }
  if (finished) Settle(*batch);
}

/// Drops what has not been handed to the kernel; what has is awaited by Complete() before the batch settles.
void IoQueue::Fail(const std::shared_ptr<IoBatch>& batch, IoFailure failure) {
  batch->outcome.failure = std::move(failure);
  for (Drive& drive : drives_) {
    std::erase(drive.urgent, batch);
    std::erase(drive.batches, batch);
    batch->open_chunks -= std::erase_if(drive.again, [&](const IoChunk& chunk) { return chunk.batch == batch; });
  }
}

void IoQueue::Close() {
  std::vector<std::shared_ptr<IoBatch>> idle;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    closed_ = true;
    for (Drive& drive : drives_) {
      for (Batches* batches : {&drive.urgent, &drive.batches}) {
        while (!batches->empty()) {
          const std::shared_ptr<IoBatch> batch = batches->front();
          if (batch->uncut_bytes == 0) {
            batches->pop_front();  // all of it is in flight already
            continue;
          }
          Fail(batch, Canceled(*batch));
          if (batch->open_chunks == 0) idle.push_back(batch);
        }
      }
    }
    changed_.notify_all();
  }
  for (const auto& batch : idle) Settle(*batch);
}

bool IoQueue::closed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return closed_;
}

bool IoQueue::HasChunks() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(drives_.begin(), drives_.end(), [](const Drive& drive) {
    return !drive.again.empty() || !drive.urgent.empty() || !drive.batches.empty();
  });
}

IoStats IoQueue::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  IoStats stats = stats_;
  for (unsigned number = 0; number < drive_count_; ++number) {
    const Drive& drive = drives_[number];
    stats.drives.push_back(drive.stats);
    if (drive.in_flight > 0) stats.drives.back().busy_ms += NowMs() - drive.busy_since_ms;
  }
  return stats;
}

/// Outside the mutex: the callback and the last reference to memory may do anything.
void IoQueue::Settle(IoBatch& batch) {
  batch.outcome.end_ms = NowMs();
  if (!batch.started) batch.outcome.start_ms = batch.outcome.end_ms;
  batch.done(std::move(batch.outcome));
  for (const IoRead& read : batch.reads) read.file->DropCache(read.file_offset, read.size_bytes);
}

}  // namespace zi
