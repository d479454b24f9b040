// Implements core/threads.h.
#include "core/threads.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <new>
#include <system_error>

#include "core/coded_error.h"
#include "core/faults.h"

namespace zi {
namespace {

/// Blocked before a thread starts and inherited by it: a signal must not find it before it has masked itself.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

/// Threads of this process, as the system counts them.
std::string ThreadsNow() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("Threads:", 0) == 0) return line.substr(line.find_first_of("0123456789"));
  }
  return "some";
}

std::string Refusal(const char* name, const std::string& why) {
  return "the system refused a thread (" + std::string(name) + ": " + why + ") beside the " + ThreadsNow() +
         " of this process: raise the limit of processes (docker --pids-limit, pids.max of the control group, ulimit -u) "
         "or give fewer --threads";
}

/// The sentence, or one so short that it needs no memory.
std::string KeptOr(const char* sentence) noexcept {
  try {
    return sentence;
  } catch (const std::bad_alloc&) {
    return "no memory";
  }
}

[[noreturn]] void EndProcess(const char* code, const char* sentence) {
  fprintf(stderr, "zero-inference: %s: %s\n", code, sentence);
  _exit(std::string(code) == "INTERNAL" ? 1 : 6);
}

void Guard(const char* name, const std::function<void()>& body) {
  pthread_setname_np(pthread_self(), std::string(name).substr(0, 15).c_str());
  try {
    body();
  } catch (const CodedError& error) {
    EndProcess(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    EndProcess(kNoMemory, kNoMemorySentence);
  } catch (const std::exception& error) {
    EndProcess("INTERNAL", error.what());
  }
}

}  // namespace

std::thread StartThread(const char* name, std::function<void()> body) {
  if (const int error = FaultAt(FaultPoint::kThread)) {
    throw CodedError("SYSTEM_LIMIT", Refusal(name, std::generic_category().message(error)));
  }
  const SignalsBlocked blocked;
  try {
    return std::thread([shown = std::string(name), body = std::move(body)] { Guard(shown.c_str(), body); });
  } catch (const std::system_error& error) {
    throw CodedError("SYSTEM_LIMIT", Refusal(name, error.code().message()));
  }
}

void StartDetached(const char* name, std::function<void()> body) { StartThread(name, std::move(body)).detach(); }

unsigned StartableThreads(unsigned wanted) {
  std::mutex held;
  Threads threads;
  std::lock_guard<std::mutex> until_counted(held);
  threads.Start("zi:count", wanted, [&held] { std::lock_guard<std::mutex> wait(held); });
  return threads.size();
}

void Threads::Start(const char* name, unsigned wanted, const std::function<void()>& body) {
  // An exception once a thread runs would have its caller join it before it was told to end.
  try {
    // Room first: a thread that was started must not be lost.
    threads_.reserve(threads_.size() + wanted);
    for (unsigned i = 0; i < wanted; ++i) threads_.push_back(StartThread(name, body));
  } catch (const CodedError& error) {
    refusal_ = KeptOr(error.what());
  } catch (const std::bad_alloc&) {
    refusal_ = KeptOr(kNoMemorySentence);
  }
}

void Threads::Join() {
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace zi
