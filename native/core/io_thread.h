// Starts the engine's threads: named, and with all signals blocked, so that those go to Node's own thread.
#pragma once
#include <pthread.h>
#include <signal.h>

#include <thread>
#include <utility>

namespace zi {

/// `name` has at most 15 characters.
template <typename Body>
std::thread StartIoThread(const char* name, Body body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // Set here and inherited: a signal must not find the new thread before it has masked itself.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

}  // namespace zi
