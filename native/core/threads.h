// The one place where threads are started: named, with all signals blocked so that those go to Node's own thread, and
// joined by whoever holds them. What the system refuses is an error of the caller, never the end of the process.
#pragma once
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace zi {

/// Throws CodedError SYSTEM_LIMIT where the system refuses. An exception that leaves `body` ends the process with its
/// sentence: nobody else would learn of it. Of `name` the first 15 characters are shown.
std::thread StartThread(const char* name, std::function<void()> body);

/// The same, on its own from then on.
void StartDetached(const char* name, std::function<void()> body);

/// How many of the threads that the system allows pools leave: streams, the tokenizer and writers of files need some.
inline constexpr unsigned kThreadsLeftToOthers = 4;

/// Starts up to `wanted` threads that do nothing, and ends them: how many the system allows beside those there are.
unsigned StartableThreads(unsigned wanted);

/// Threads that do the same. Joined at the latest by the destructor, so what makes them end must have been done by then.
class Threads {
 public:
  Threads() = default;
  ~Threads() { Join(); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  /// Starts up to `wanted`, each with `body`; fewer where the system allows no more. Never throws.
  void Start(const char* name, unsigned wanted, const std::function<void()>& body);
  /// Why there are fewer than wanted; empty when there are not.
  const std::string& refusal() const { return refusal_; }
  unsigned size() const { return static_cast<unsigned>(threads_.size()); }
  void Join();

 private:
  std::vector<std::thread> threads_;
  std::string refusal_;
};

}  // namespace zi
