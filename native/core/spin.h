// Bounded spinning: cheaper than sleeping for gaps of microseconds, and never more than that.
#pragma once
#include <immintrin.h>

#include <thread>

#include "core/clock.h"

namespace zi {

/// Some tens of microseconds bridge the gaps between the small operations of a decode step without a system call, while an idle
/// process burns nothing.
constexpr double kBriefMs = 0.04;

/// Spins until `ready()` or for that long; true when ready.
template <class Ready>
bool SpinFor(double ms, Ready ready) {
  const double end = NowMs() + ms;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      _mm_pause();
    }
    // A thread that computes may need this core.
    if (ms > kBriefMs) std::this_thread::yield();
  } while (NowMs() < end);
  return ready();
}
template <class Ready>
bool SpinBriefly(Ready ready) {
  return SpinFor(kBriefMs, ready);
}

}  // namespace zi
