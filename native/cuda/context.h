// What all streams of one device share: its facts, its clock, its first failure, and where kernels report bad tables.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/fault.h"

namespace zi::cuda {

/// A call that the runtime refused, as "cudaMalloc: out of memory".
class CudaError : public std::runtime_error {
 public:
  CudaError(cudaError_t code, const std::string& what)
      : std::runtime_error(what + ": " + cudaGetErrorString(code)), code_(code) {}
  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_;
};

inline void Check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // what is not sticky must not be found again by the next call
  throw CudaError(code, what);
}

/// A moment known in both clocks: events are timed from it.
struct ClockBase {
  cudaEvent_t event = nullptr;
  double host_ms = 0;
  ~ClockBase() {
    if (event) cudaEventDestroy(event);
  }
};

/// Is told of the first failure of any device in use, on whatever thread finds it.
class FailureListener {
 public:
  virtual ~FailureListener() = default;
  virtual void Failed(const std::string& sentence) = 0;
};

/// Bytes of shared memory: of a multiprocessor, of a block at most, and what the system keeps of each block's.
struct SharedMemory {
  int of_multiprocessor, of_block, kept;
};

class Context {
 public:
  /// The one of that device, made at first use and kept: contexts outlive streams and memories. Throws.
  static std::shared_ptr<Context> Of(int device);

  /// Makes some device in use the calling thread's, so that none is opened only to lock host memory.
  /// Never throws.
  static void UseAny();
  /// Waits for everything queued on every device in use; false where that would be in vain. Never throws.
  static bool SynchronizeAll();
  /// Whether copies and kernels of `from` reach the memory of `to`; both are in use.
  static bool Reaches(int from, int to);

  explicit Context(int device);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int device() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  const SharedMemory& shared_memory() const { return shared_memory_; }
  /// Major part of the compute capability.
  int generation() const { return generation_; }
  Fault* fault() const { return fault_; }
  /// Makes it the calling thread's device.
  void Use() const { Check(cudaSetDevice(device_), "cudaSetDevice"); }

  /// Fails every device in use: they wait for each other's events, which a broken one may never reach. The first
  /// failure stays; CUDA repeats a sticky error at every later call, with no new information.
  void Fail(const std::string& sentence);
  /// Empty while healthy. Looks at the faults that kernels reported.
  std::string failure();
  /// The same without looking, so that it may be asked for with any lock held.
  std::string known_failure();
  void Tell(std::weak_ptr<FailureListener> listener);

  /// Queued work of a failed device did not end: nothing waits for it any more, and what it uses is never freed.
  void Abandon() { abandoned_ = true; }
  bool abandoned() const { return abandoned_; }

  /// Renewed now and then, because times are 32-bit floats in milliseconds.
  std::shared_ptr<const ClockBase> clock();

 private:
  const int device_;
  int multiprocessors_ = 0, generation_ = 0;
  SharedMemory shared_memory_{};
  Fault* fault_ = nullptr;
  cudaStream_t clock_stream_ = nullptr;
  std::atomic<bool> abandoned_{false};
  std::mutex mutex_;
  std::string failure_;                                    // guarded by mutex_
  std::vector<std::weak_ptr<FailureListener>> listeners_;  // guarded by mutex_
  std::shared_ptr<const ClockBase> base_;                  // guarded by mutex_
};

}  // namespace zi::cuda
