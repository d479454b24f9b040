// What all streams of one device share: its facts, its clock, its first failure, and where kernels report bad tables.
#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

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

class Context {
 public:
  /// The one of that device, made at first use and kept: contexts outlive streams and memories. Throws.
  static std::shared_ptr<Context> Of(int device);

  /// Makes some device in use the calling thread's, so that none is opened only to lock host memory.
  /// Never throws.
  static void UseAny();
  /// Waits for everything queued on every device in use. Never throws.
  static void SynchronizeAll();

  explicit Context(int device);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int device() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  /// Major part of the compute capability.
  int generation() const { return generation_; }
  Fault* fault() const { return fault_; }
  /// Makes it the calling thread's device.
  void Use() const { Check(cudaSetDevice(device_), "cudaSetDevice"); }

  /// The first failure stays; CUDA repeats a sticky error at every later call, with no new information.
  void Fail(const std::string& sentence);
  /// Empty while healthy. Looks at the faults that kernels reported.
  std::string failure();

  /// Renewed now and then, because times are 32-bit floats in milliseconds.
  std::shared_ptr<const ClockBase> clock();

 private:
  const int device_;
  int multiprocessors_ = 0, generation_ = 0;
  Fault* fault_ = nullptr;
  cudaStream_t clock_stream_ = nullptr;
  std::mutex mutex_;
  std::string failure_;                    // guarded by mutex_
  std::shared_ptr<const ClockBase> base_;  // guarded by mutex_
};

}  // namespace zi::cuda
