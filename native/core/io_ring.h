// Owns one io_uring: created and checked once, freed with its last owner.
#pragma once
#include <liburing.h>

#include <cstdint>

#include "core/io_faults.h"

namespace zi {

/// No IOPOLL: ordinary drives and virtual disks refuse it. No SQPOLL: it burns a core to save microseconds that chunks
/// of a megabyte do not notice. No SINGLE_ISSUER: buffers and files are registered from the owner's thread.
class IoRing {
 public:
  /// Throws std::system_error with the reason why io_uring cannot be used here.
  IoRing(unsigned entries, const IoFaultPlan& faults);
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  io_uring* get() { return &ring_; }

  /// How many of the prepared requests the kernel took, the oldest first; or -errno, and it took none.
  int Submit();
  /// Sleeps until something has come back. 0 or -errno.
  int AwaitOne();

 private:
  io_uring ring_{};
};

}  // namespace zi
