// The kernels for AVX-512 (F, BW, VL, DQ).
#include "cpu/simd_avx512.h"

#include "cpu/kernel_table.h"

namespace zi {

const Kernels& KernelsAvx512() { return avx512::kTable; }

}  // namespace zi
