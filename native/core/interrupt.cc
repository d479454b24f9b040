// Implements core/interrupt.h with signal handlers and a timer of the system, which need no thread of ours to run.
#include "core/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <stdexcept>

namespace zi {
namespace {

constexpr int kSignals = 65;
/// Nothing else in a Node process uses it.
constexpr int kTimerSignal = SIGALRM;

/// What handlers read: written before they are installed, never freed.
struct Watch {
  std::array<struct sigaction, kSignals> before{};
  std::array<std::string, kSignals> texts;
  timer_t timer{};
  itimerspec patience{};
  int exit_status = 0;
};

Watch* watch = nullptr;
std::atomic<int> first_signal{0};
std::atomic<bool> told{false};

[[noreturn]] void End() {
  const std::string& text = watch->texts[first_signal.load()];
  if (!told.load() && write(STDERR_FILENO, text.data(), text.size()) < 0) {
    // Nobody is left to be told.
  }
  _exit(watch->exit_status);
}

void OnTimer(int) { End(); }

void OnSignal(int number, siginfo_t* info, void* context) {
  const int error = errno;
  int none = 0;
  if (!first_signal.compare_exchange_strong(none, number)) End();
  timer_settime(watch->timer, 0, &watch->patience, nullptr);
  const struct sigaction& before = watch->before[number];
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  }
  errno = error;
}

/// Other signals wait meanwhile, as they do in the handlers that come after.
void Install(int number, void (*handle)(int, siginfo_t*, void*), void (*plain)(int), struct sigaction* before) {
  struct sigaction action {};
  sigfillset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  if (handle) {
    action.sa_flags |= SA_SIGINFO;
    action.sa_sigaction = handle;
  } else {
    action.sa_handler = plain;
  }
  if (sigaction(number, &action, before) != 0) {
    throw std::runtime_error("signal " + std::to_string(number) + " cannot be watched: " + std::strerror(errno));
  }
}

}  // namespace

void WatchSignals(const std::vector<EndingSignal>& signals, double patience_ms, int exit_status) {
  if (watch) return;
  auto* made = new Watch;
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = kTimerSignal;
  if (timer_create(CLOCK_MONOTONIC, &event, &made->timer) != 0) {
    delete made;
    throw std::runtime_error(std::string("no timer can be made: ") + std::strerror(errno));
  }
  made->patience.it_value.tv_sec = static_cast<time_t>(patience_ms / 1e3);
  made->patience.it_value.tv_nsec = static_cast<long>((patience_ms - 1e3 * made->patience.it_value.tv_sec) * 1e6);
  made->exit_status = exit_status;
  for (const auto& [number, text] : signals) made->texts.at(number) = text;
  for (const auto& [number, text] : signals) sigaction(number, nullptr, &made->before.at(number));
  watch = made;
  Install(kTimerSignal, nullptr, OnTimer, nullptr);
  for (const auto& [number, text] : signals) Install(number, OnSignal, nullptr, nullptr);
}

void SignalTold() { told.store(true); }

}  // namespace zi
