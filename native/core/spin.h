// Bounded spinning: cheaper than sleeping for gaps of microseconds, and never more than that.
#pragma once
#include <immintrin.h>

#include "core/clock.h"

namespace zi {

/// Spins until `ready()` or for some tens of microseconds; true when ready. Bridges the gaps between the small
/// operations of a decode step without a system call, while an idle process burns nothing.
template <class Ready>
bool SpinBriefly(Ready ready) {
  constexpr double kSpinMs = 0.04;
  const double end = NowMs() + kSpinMs;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      _mm_pause();
    }
  } while (NowMs() < end);
  return ready();
}

}  // namespace zi
