// The end of every product: bias, activation and accumulation on a run of finished sums.
#pragma once
#include "cpu/kernel_math.h"

namespace zi::ZI_ISA {

/// out[token, first … first + count) (+)= act(sums + bias).
inline void FinishRow(const DenseLinearOp& op, int64_t token, int64_t first, int64_t count, const float* sums) {
  float* out = Row(op.out, token) + first;
  WithType(op.bias.dtype, [&]<class B>(B) {
    const uint8_t* bias = op.bias.data ? op.bias.data + first * B::kBytes : nullptr;
    for (int64_t i = 0; i < count; i += kWidth) {
      const int64_t n = count - i;
      Vec value = LoadUpTo(sums + i, n);
      if (bias) value = Add(value, LoadUpTo<B>(bias + i * B::kBytes, n));
      value = Activate(op.activation, value);
      if (op.accumulate) value = Add(value, LoadUpTo(out + i, n));
      StoreUpTo(out + i, value, n);
    }
  });
}

}  // namespace zi::ZI_ISA
