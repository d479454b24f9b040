// What kernels on tensor cores are made of: 16-bit matrices in registers, and copies into shared memory.
//
// With g = lane / 4 and t = lane % 4 a lane holds of a [16 × 16]: pairs (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8);
// of b [16 × 8]: (2t, g) with (2t+1, g), then (2t+8, g); of c [16 × 8]: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
#pragma once
#include "cuda/values.h"

namespace zi::cuda {

/// Two values as one register, the first in the lower half.
template <class T>
__device__ inline uint32_t Pair(T low, T high) {
  static_assert(sizeof(T) == 2);
  return static_cast<uint32_t>(reinterpret_cast<const uint16_t&>(low)) |
         static_cast<uint32_t>(reinterpret_cast<const uint16_t&>(high)) << 16;
}

/// c += a · b.
template <class T>
__device__ inline void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void MultiplyAdd<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void MultiplyAdd<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t SharedAddress(const void* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }

/// Four matrices [8 × 8]; lane i gives the address of row i % 8 of matrix i / 8 and gets (g, 2t) with (g, 2t+1) of each.
__device__ inline void LoadMatrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(SharedAddress(row))
               : "memory");
}
/// The same, but a lane gets (2t, g) with (2t+1, g).
__device__ inline void LoadTransposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(SharedAddress(row))
               : "memory");
}

/// Starts copying 16 bytes into shared memory, or zeros when not `valid`. Both sides lie at multiples of 16 bytes.
__device__ inline void CopyGroup(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
/// The same of 4, 8 or 16 bytes, at multiples of as many.
template <int kBytes>
__device__ inline void CopySome(void* to, const void* from, bool valid) {
  if constexpr (kBytes == 16) {
    CopyGroup(to, from, valid);
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(SharedAddress(to)), "l"(from), "n"(kBytes),
                 "r"(valid ? kBytes : 0)
                 : "memory");
  }
}
/// Ends a group of copies.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
__device__ inline void WaitForAllCopiesBut() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// 2^x to the last bits but two; 0 for −∞.
__device__ inline float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace zi::cuda
