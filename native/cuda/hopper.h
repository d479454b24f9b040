// What kernels for compute capability 9.0 alone share: barriers in shared memory, and what surrounds products that run by themselves
// (wgmma).
#pragma once
#include "cuda/tensor_cores.h"

namespace zi::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
__device__ inline void InitBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}
__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(SharedAddress(barrier)) : "memory");
}
/// What the warp's lanes did is seen by whoever waits.
__device__ inline void ArriveWarp(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) Arrive(barrier);
}
/// Until the phase of that parity has ended.
__device__ inline void Await(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again%=:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@done bra ready%=;\n"
      "bra again%=;\n"
      "ready%=:\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

/// Barriers that were initialised are seen by copies, and after a meeting by all threads.
__device__ inline void ShowBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
/// The barrier waits for so many bytes that copies bring.
__device__ inline void ExpectBytes(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes) : "memory");
}
/// One thread has so many bytes copied into shared memory, of which the barrier hears. All at multiples of 16.
__device__ inline void BringBytes(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(SharedAddress(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(SharedAddress(barrier))
               : "memory");
}
/// The same of what is read once: it is the first to leave the L2 cache.
__device__ inline void BringOnce(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                   SharedAddress(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(SharedAddress(barrier)), "l"(policy)
               : "memory");
}

__device__ inline uint32_t RankInCluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// All threads of the cluster's blocks: what they wrote to shared memory may be read.
__device__ inline void MeetCluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// At the barrier that lies where this one lies, in each block of the cluster.
__device__ inline void ArriveEverywhere(uint64_t* barrier, int sharers) {
  __syncwarp();
  const uint32_t lane = threadIdx.x % 32;
  if (lane >= static_cast<uint32_t>(sharers)) return;
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(lane)
      : "memory");
}

/// What this thread wrote into shared memory is seen by products that begin after a barrier.
__device__ inline void ShowToProducts() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Values in registers and shared memory are as products that start now take them.
__device__ inline void BeginProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Those that have started are a group.
__device__ inline void EndProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until all groups but so many of the last have ended.
template <int kGroups>
__device__ inline void WaitForProductsBut() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
__device__ inline void WaitForProducts() { WaitForProductsBut<0>(); }
#endif

}  // namespace zi::cuda
