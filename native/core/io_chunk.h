// A chunk: the part of a read that is one read of the kernel, and the rules by which it continues, ends or fails.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/io_types.h"

namespace zi {

struct IoBatch;

/// Attempts in a row that may bring nothing (EAGAIN, EINTR) before a chunk gives up.
constexpr uint32_t kMaxRetries = 1000;

struct IoChunk {
  std::shared_ptr<IoBatch> batch;
  const IoRead* read = nullptr;
  uint64_t start = 0;           // within the read
  uint64_t size_bytes = 0;
  uint64_t arrived_bytes = 0;   // contiguous from start, as of the last attempt
  uint64_t resume_bytes = 0;    // where the current attempt begins; at most arrived_bytes, aligned for direct files
  uint32_t retries = 0;         // in a row

  uint64_t file_offset() const;
  uint8_t* destination() const;
  size_t length() const { return size_bytes - resume_bytes; }
  /// How many bytes of this chunk the caller insists on.
  uint64_t required_bytes() const;
};

enum class IoVerdict {
  kDone,
  kRetry,     // EAGAIN, EINTR: the same attempt again
  kContinue,  // short: the rest
  kEnded,     // the file ended before the required bytes
  kFailed,    // any other errno, or attempts without end
};

/// Reads the chunk's next attempt at once: bytes or -errno.
int64_t PlainRead(const IoChunk& chunk);

/// Applies what the kernel returned (bytes or -errno) to the chunk, ready for its next attempt if there is one.
IoVerdict Advance(IoChunk& chunk, int64_t result);

}  // namespace zi
