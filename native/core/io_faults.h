// Test only: makes the engine meet what real machines show rarely. The one place where results are falsified.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace zi {

/// What one reader meets again and again; core/faults.h has what the process meets once. Zero switches a fault off.
struct IoFaultPlan {
  int ring_init_errno = 0;
  int register_errno = 0;
  int direct_open_errno = 0;
  int direct_read_errno = 0;
  uint64_t short_every_n = 0;
  uint64_t eagain_every_n = 0;
  int error_errno = 0;
  uint64_t error_file_offset = 0;
};

/// Stands where a read returns from the kernel.
class IoFaults {
 public:
  explicit IoFaults(const IoFaultPlan& plan) : plan_(plan) {}
  const IoFaultPlan& plan() const { return plan_; }

  /// Takes what the kernel returned (bytes or -errno) for a read of `length` bytes and gives what the engine shall see.
  /// Bytes that it pretends did not arrive are overwritten, so that an engine that fails to fetch them again is caught.
  int64_t Returned(uint64_t file_offset, uint8_t* destination, size_t length, int64_t result);

 private:
  const IoFaultPlan plan_;
  std::atomic<uint64_t> reads_{0};
};

}  // namespace zi
