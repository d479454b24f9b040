// Implements core/io_faults.h.
#include "core/io_faults.h"

#include <cerrno>
#include <cstring>

#include "core/faults.h"

namespace zi {
namespace {

constexpr int kPoison = 0xA5;

/// An odd count, so that continuing a direct read has to go back to an aligned offset.
int64_t Halved(uint8_t* destination, size_t length, int64_t result) {
  const int64_t kept = (result / 2) | 1;
  memset(destination + kept, kPoison, length - static_cast<size_t>(kept));
  return kept;
}

}  // namespace

int64_t IoFaults::Returned(uint64_t file_offset, uint8_t* destination, size_t length, int64_t result) {
  if (plan_.error_errno != 0 && plan_.error_file_offset >= file_offset &&
      plan_.error_file_offset - file_offset < length) {
    return -plan_.error_errno;
  }
  if (const int error = FaultAt(FaultPoint::kRead)) return -error;
  if (FaultAt(FaultPoint::kShortRead) && result > 1) return Halved(destination, length, result);
  if (plan_.short_every_n == 0 && plan_.eagain_every_n == 0) return result;
  const uint64_t nth = ++reads_;
  if (plan_.eagain_every_n != 0 && nth % plan_.eagain_every_n == 0) {
    memset(destination, kPoison, length);
    return -EAGAIN;
  }
  if (plan_.short_every_n != 0 && nth % plan_.short_every_n == 0 && result > 1) {
    return Halved(destination, length, result);
  }
  return result;
}

}  // namespace zi
