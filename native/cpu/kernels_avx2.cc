// The kernels for AVX2 + FMA + F16C, the floor.
#include "cpu/simd_avx2.h"

#include "cpu/kernel_table.h"

namespace zi {

const Kernels& KernelsAvx2() { return avx2::kTable; }

}  // namespace zi
