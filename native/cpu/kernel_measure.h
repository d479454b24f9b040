// The limits that kernels are compared with: reading memory and multiply-adds in registers.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

inline float ReadAll(const float* data, size_t count) {
  constexpr int kChains = 8;
  Vec sum[kChains];
  for (auto& s : sum) s = Zero();
  for (size_t i = 0; i + kChains * kWidth <= count; i += kChains * kWidth) {
    for (int c = 0; c < kChains; ++c) sum[c] = Add(sum[c], Load(data + i + c * kWidth));
  }
  Vec total = Zero();
  for (auto& s : sum) total = Add(total, s);
  return Sum(total);
}

inline double MultiplyAdd(size_t steps, float* sink) {
  constexpr int kChains = 12;
  Vec acc[kChains];
  for (auto& a : acc) a = Set(1.0f);
  const Vec factor = Set(0.999f), term = Set(0.001f);
#pragma GCC unroll 4
  for (size_t i = 0; i < steps; ++i) {
    for (auto& a : acc) a = Fma(a, factor, term);
  }
  Vec total = Zero();
  for (auto& a : acc) total = Add(total, a);
  *sink += Sum(total);
  return 2.0 * kChains * kWidth * static_cast<double>(steps);
}

}  // namespace zi::ZI_ISA
