// Implements core/faults.h.
#include "core/faults.h"

#include <cerrno>
#include <iterator>
#include <mutex>

namespace zi {
namespace {

struct Kind {
  const char* name;
  int usual_errno;
};
constexpr Kind kKinds[] = {
    {"thread", EAGAIN},      {"map", ENOMEM},    {"scratch", ENOMEM}, {"open", EIO},         {"directOpen", EINVAL},
    {"directRead", EINVAL},  {"stat", EIO},      {"ring", EPERM},     {"eventFd", EMFILE},   {"register", ENOMEM},
    {"registerFile", EBUSY}, {"submit", EBADFD}, {"await", EBADFD},   {"completion", ECANCELED},
    {"read", EIO},           {"shortRead", EIO},
};
constexpr size_t kCount = static_cast<size_t>(FaultPoint::kAfterLast);
static_assert(std::size(kKinds) == kCount);

std::mutex mutex;
std::vector<uint64_t> passed(kCount, 0);  // guarded by mutex, as is all below
FaultPoint failing = FaultPoint::kAfterLast;
uint64_t first = 0, after_last = 0;
int failing_errno = 0;

}  // namespace

const char* FaultPointName(FaultPoint point) { return kKinds[static_cast<size_t>(point)].name; }

void InjectFault(FaultPoint point, uint64_t nth, uint64_t times, int error_number) {
  std::lock_guard<std::mutex> lock(mutex);
  passed.assign(kCount, 0);
  failing = point;
  first = nth;
  after_last = nth == 0 ? 0 : nth + times;
  failing_errno = error_number != 0 ? error_number : kKinds[static_cast<size_t>(point)].usual_errno;
  fault_state::armed.store(true, std::memory_order_relaxed);
}

std::vector<uint64_t> PassedFaultPoints() {
  std::lock_guard<std::mutex> lock(mutex);
  return passed;
}

int fault_state::Pass(FaultPoint point) {
  std::lock_guard<std::mutex> lock(mutex);
  const uint64_t nth = ++passed[static_cast<size_t>(point)];
  return point == failing && nth >= first && nth < after_last ? failing_errno : 0;
}

}  // namespace zi
