// Ends the process after a signal though the thread that handles it is busy: soon after the first, at once at the second.
#pragma once
#include <string>
#include <vector>

namespace zi {

struct EndingSignal {
  int number;
  /// What is written to stderr when the process is ended here.
  std::string text;
};

/// From now on each of `signals` first reaches whoever handled it before. A second one, or `patience_ms` after the
/// first, ends the process with `exit_status`. Call once, after those handlers are in place.
void WatchSignals(const std::vector<EndingSignal>& signals, double patience_ms, int exit_status);

/// Why the process ends was said already: it may end without a word.
void SignalTold();

}  // namespace zi
