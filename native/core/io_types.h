// The words of the read engine: its options, one read, what a batch ends with, and the counters.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/io_faults.h"

namespace zi {

class HostMemory;
class IoFile;

enum class IoEngineChoice { kAuto, kIoUring, kThreads };

struct IoOptions {
  IoEngineChoice engine = IoEngineChoice::kAuto;
  uint64_t queue_depth = 0;
  uint64_t chunk_bytes = 0;
  bool direct = true;
  bool fixed_buffers = true;
  IoFaultPlan faults;
};

/// One read as the caller asked for it. The pointers keep file and memory alive until the batch has settled.
struct IoRead {
  std::shared_ptr<IoFile> file;
  std::shared_ptr<HostMemory> memory;
  uint64_t file_offset = 0;
  uint64_t size_bytes = 0;
  /// Counted from file_offset; past them the read may meet the end of the file.
  uint64_t required_bytes = 0;
  uint64_t memory_offset = 0;
};

struct IoFailure {
  std::string errno_name;
  uint32_t file = 0;
  uint64_t file_offset = 0;
  std::string message;
};

/// How a batch ended. When it is reported, nothing writes into the batch's memory any more.
struct IoOutcome {
  double start_ms = 0;
  double end_ms = 0;
  uint64_t bytes = 0;
  std::optional<IoFailure> failure;
};

/// Called once per batch, on an engine thread (or on the caller's, when there is nothing to read).
using IoDone = std::function<void(IoOutcome)>;

/// What one drive has delivered, and for how long at least one read was with it.
struct IoDriveStats {
  uint64_t bytes = 0;
  double busy_ms = 0;
};

struct IoStats {
  uint64_t bytes = 0;
  uint64_t reads = 0;
  uint64_t short_reads = 0;
  uint64_t retries = 0;
  uint64_t max_in_flight = 0;
  /// By number of the drive.
  std::vector<IoDriveStats> drives;
};

/// "EIO" for 5; the number itself for an errno without a name.
std::string ErrnoName(int error);
/// "EIO: Input/output error"
std::string DescribeErrno(int error);

}  // namespace zi
