// Test only: what the system may refuse at any moment, counted, and made to fail at the n-th time. Off, it costs a load.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace zi {

enum class FaultPoint {
  kThread,        // a thread starts
  kMap,           // host memory is mapped
  kScratch,       // a kernel's scratch grows
  kOpen,          // a weight file is opened
  kDirectOpen,    // the same with O_DIRECT
  kDirectRead,    // the first direct read of a file, which tells whether they work
  kStat,          // stat and fstat of a weight file
  kRing,          // io_uring is created
  kEventFd,       // its eventfd
  kRegister,      // a buffer is registered with it
  kRegisterFile,  // a file is
  kSubmit,        // reads are handed to it
  kAwait,         // its completions are waited for
  kCompletion,    // the ring hands a read back, not made
  kRead,          // a read of weights returns
  kShortRead,     // the same, but half of the bytes have arrived
  kAfterLast,
};

/// The name that JavaScript uses, such as "thread".
const char* FaultPointName(FaultPoint point);

/// From now on counts every point that is passed, and fails `times` of them in a row from the `nth` of that kind on (from
/// 1) with `error_number`, or with what the kind usually fails with where that is 0. An `nth` of 0 fails nothing.
void InjectFault(FaultPoint point, uint64_t nth, uint64_t times, int error_number);
/// How often each was passed since then.
std::vector<uint64_t> PassedFaultPoints();

namespace fault_state {
inline std::atomic<bool> armed{false};
int Pass(FaultPoint point);
}  // namespace fault_state

/// The errno with which this point is to fail, or 0.
inline int FaultAt(FaultPoint point) {
  return fault_state::armed.load(std::memory_order_relaxed) ? fault_state::Pass(point) : 0;
}

}  // namespace zi
