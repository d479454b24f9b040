// Implements core/io_faults.h.
#include "core/io_faults.h"

#include <cerrno>
#include <cstring>

namespace zi {
namespace {

constexpr int kPoison = 0xA5;

}  // namespace

int64_t IoFaults::Returned(uint64_t file_offset, uint8_t* destination, size_t length, int64_t result) {
  if (plan_.error_errno != 0 && plan_.error_file_offset >= file_offset &&
      plan_.error_file_offset - file_offset < length) {
    return -plan_.error_errno;
  }
  if (plan_.short_every_n == 0 && plan_.eagain_every_n == 0) return result;
  const uint64_t nth = ++reads_;
  if (plan_.eagain_every_n != 0 && nth % plan_.eagain_every_n == 0) {
    memset(destination, kPoison, length);
    return -EAGAIN;
  }
  if (plan_.short_every_n != 0 && nth % plan_.short_every_n == 0 && result > 1) {
    // An odd count, so that continuing a direct read has to go back to an aligned offset.
    const int64_t kept = (result / 2) | 1;
    memset(destination + kept, kPoison, length - static_cast<size_t>(kept));
    return kept;
  }
  return result;
}

}  // namespace zi
