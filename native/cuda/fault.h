// Faults that kernels find in tables: indices are data, checked where they are used, and reported through mapped memory.
#pragma once
#include <cstdint>

namespace zi::cuda {

enum FaultCode : int {
  kNoFault,
  kRowOutside,
  kSlotOutside,
  kPageOutside,
  kSequenceOutside,
  kExpertOutside,
  kExpertInNoSlot,
  kExpertPartOutside,
  kHistoryOutside,
  kMaskOutside,
  kAddedOutside,
  kGroupOutside,
  kStateOutside,
  kStateTokensOutside,
  kHostFailed,
};

/// In host memory that the device writes; the first report stays. The host may look while kernels run, so `code` is
/// written when the rest can be read.
struct Fault {
  int claimed;
  int code;
  int64_t index, value, limit;
};

#ifdef __CUDACC__
__device__ inline void Report(Fault* fault, FaultCode code, int64_t index, int64_t value, int64_t limit) {
  if (atomicCAS(&fault->claimed, 0, 1) != 0) return;
  fault->index = index;
  fault->value = value;
  fault->limit = limit;
  __threadfence_system();
  *reinterpret_cast<volatile int*>(&fault->code) = code;
}
#endif

}  // namespace zi::cuda
