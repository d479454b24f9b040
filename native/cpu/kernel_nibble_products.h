// Products of codes of 4 bits with scales of few bits: all there are, in tables.
#pragma once
#include "cpu/kernel_expand_rows.h"

namespace zi::ZI_ISA {

/// The products of -16 … 15 with 1.m in bf16, for every m of 7 bits: rounding depends on no exponent.
struct RoundedProducts {
  float of[128][32];
  constexpr RoundedProducts() : of() {
    for (int m = 0; m < 128; ++m) {
      for (int d = -16; d < 16; ++d) {
        int product = (d < 0 ? -d : d) * (128 + m), step = 1;
        while (product / step >= 256) step *= 2;
        const int low = product % step;
        product -= low;
        if (2 * low > step || (2 * low == step && product / step % 2 == 1)) product += step;
        of[m][d + 16] = static_cast<float>(d < 0 ? -product : product) / 128;
      }
    }
  }
};
alignas(64) inline constexpr RoundedProducts kRoundedProducts;

/// What the sixteen codes of fp4 stand for with each scale in e8m0, exact in bf16 and NaN with that of NaN.
struct PowerProducts {
  float of[256][16];
  constexpr PowerProducts() : of() {
    for (int e = 0; e < 256; ++e) {
      const double power = __builtin_bit_cast(double, static_cast<uint64_t>(e - 127 + 1023) << 52);
      for (int i = 0; i < 16; ++i) {
        const double product = kE2M1[i] * power;
        const bool too_large = product > __FLT_MAX__ || product < -__FLT_MAX__;
        const float most = product > 0 ? __builtin_inff() : -__builtin_inff();
        of[e][i] = e == 255 ? __builtin_nanf("") : too_large ? most : static_cast<float>(product);
      }
    }
  }
};
alignas(64) inline constexpr PowerProducts kPowerProducts;

}  // namespace zi::ZI_ISA
