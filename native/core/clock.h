// One clock for all spans: CLOCK_MONOTONIC in milliseconds, the same that process.hrtime reads.
#pragma once
#include <time.h>

namespace zi {

inline double NowMs() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
}

}  // namespace zi
