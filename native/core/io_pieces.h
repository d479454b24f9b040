// Pieces of files that work on a stream reads when it wants them: JavaScript says once where they lie, and is not asked again.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/io_reader.h"

namespace zi {

struct IoPieceStats {
  uint64_t bytes = 0;
  /// Time in which some of them were on their way.
  double busy_ms = 0;
};

class IoPieces {
 public:
  /// A piece that is wanted, and where in the memory it is to begin.
  struct Wanted {
    uint64_t piece;
    uint64_t memory_offset;
  };

  /// Each piece is a few checked reads into one memory, at offsets from where the piece begins there. Throws std::invalid_argument.
  IoPieces(std::shared_ptr<IoReader> reader, std::vector<std::vector<IoRead>> pieces, std::shared_ptr<HostMemory> memory);

  uint32_t id() const { return id_; }
  size_t count() const { return pieces_.size(); }
  const HostMemory& memory() const { return *memory_; }

  // From the thread of one stream. `cancel` ends a wait; what is read then may still arrive, in memory that it keeps alive.

  /// Has all of them read at once, after those that were begun before have arrived.
  void Begin(const std::vector<Wanted>& wanted, const std::atomic<bool>& cancel);
  /// Whether it was begun last and has not arrived.
  bool IsAwaited(uint64_t piece) const;
  /// Sleeps until it is there. Throws std::runtime_error where reading failed.
  void Await(uint64_t piece, const std::atomic<bool>& cancel);
  void AwaitAll(const std::atomic<bool>& cancel);

  // From any thread.

  /// The first read that failed.
  std::optional<IoFailure> failure() const;
  IoPieceStats stats() const;

 private:
  struct Batch;
  struct Record;
  void Await(size_t first, size_t last, const std::atomic<bool>& cancel);

  const uint32_t id_;
  const std::shared_ptr<IoReader> reader_;
  const std::vector<std::vector<IoRead>> pieces_;
  const std::shared_ptr<HostMemory> memory_;
  std::shared_ptr<Batch> batch_;  // the stream's thread
  const std::shared_ptr<Record> record_;
};

/// Enters pieces into the process-wide table, in which they are found while somebody holds them.
std::shared_ptr<IoPieces> MakePieces(std::shared_ptr<IoReader> reader, std::vector<std::vector<IoRead>> pieces,
                                     std::shared_ptr<HostMemory> memory);
/// Null where there are none of that id.
std::shared_ptr<IoPieces> FindPieces(uint32_t id);

}  // namespace zi
