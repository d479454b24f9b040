// The kernels for AVX-512 with products in bf16.
#include "cpu/simd_avx512bf16.h"

#include "cpu/kernel_table.h"

namespace zi {

const Kernels& KernelsAvx512Bf16() { return avx512bf16::kTable; }

}  // namespace zi
