// Kernels that start while the one before them in the stream ends: its last blocks, the launch and the first weights
// overlap (programmatic dependent launch, compute capability 9).
//
// What Overlapped takes must call Begin() before it reads anything that other work may have written, and before it writes
// anything. So a kernel is complete only after all before it are, and whoever waits for it has waited for them. Model weights
// may be read before: what writes them is no such kernel, or is followed by one that does not overlap it (Run::OtherQueued).
#pragma once
#include <utility>

#include "cuda/run.h"

namespace zi::cuda {

/// Lets the next kernel's blocks start as soon as all of this one's have started, and waits for the kernel before.
__device__ inline void Begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Asks for bytes to be brought to the L2 cache; both a multiple of 16. They may be old by the time they are read, since
/// caches are coherent, so this may come before Begin().
__device__ inline void Prefetch(const void* from, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
#endif
}

/// Queues a kernel that calls Begin(). It takes `shared_bytes` of dynamic shared memory, which it must be allowed.
template <class... Parameters, class... Arguments>
void OverlappedWith(size_t shared_bytes, void (*kernel)(Parameters...), dim3 grid, unsigned threads, Run& run,
                    Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = run.stream();
  config.attrs = &attribute;
  config.numAttrs = run.MayOverlap() ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "cudaLaunchKernel");
  run.KernelQueued();
}
template <class... Parameters, class... Arguments>
void Overlapped(void (*kernel)(Parameters...), dim3 grid, unsigned threads, Run& run, Arguments&&... arguments) {
  OverlappedWith(0, kernel, grid, threads, run, std::forward<Arguments>(arguments)...);
}

}  // namespace zi::cuda
