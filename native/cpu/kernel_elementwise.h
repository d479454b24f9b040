// add, gated, gated_pairs and scale_cap: one row at a time, any outer strides.
#pragma once
#include "cpu/kernel_math.h"

namespace zi::ZI_ISA {

inline void AddKernel(const AddOp& op, Run& run) {
  const int64_t length = RowLength(op.out);
  ForEach(run, RowCount(op.out), length / kWidth, [&](int64_t row) {
    float* out = FlatRow(op.out, row);
    const float* a = FlatRow(op.a, row);
    const float* b = FlatRow(op.b, row);
    for (int64_t i = 0; i < length; i += kWidth) {
      StoreUpTo(out + i, Add(LoadUpTo(a + i, length - i), LoadUpTo(b + i, length - i)), length - i);
    }
  });
}

inline void GatedKernel(const GatedOp& op, Run& run) {
  const int64_t length = RowLength(op.out);
  ForEach(run, RowCount(op.out), length / kWidth * 4, [&](int64_t row) {
    float* out = FlatRow(op.out, row);
    const float* gate = FlatRow(op.gate, row);
    const float* up = FlatRow(op.up, row);
    for (int64_t i = 0; i < length; i += kWidth) {
      const Vec active = Activate(op.activation, LoadUpTo(gate + i, length - i));
      StoreUpTo(out + i, Mul(active, LoadUpTo(up + i, length - i)), length - i);
    }
  });
}

inline void GatedPairsKernel(const GatedPairsOp& op, Run& run) {
  const int64_t length = op.out.shape[1];
  const Vec alpha = Set(op.alpha), most = Set(op.limit), least = Set(-op.limit), one = Set(1);
  ForEach(run, op.out.shape[0], length / kWidth * 6, [&](int64_t row) {
    float* out = Row(op.out, row);
    const float* x = Row(op.x, row);
    for (int64_t i = 0; i < length; i += kWidth) {
      float gates[kWidth] = {}, ups[kWidth] = {};
      for (int64_t j = 0; j < Smaller(kWidth, length - i); ++j) {
        gates[j] = x[2 * (i + j)];
        ups[j] = x[2 * (i + j) + 1];
      }
      // Comparisons with NaN do not hold, so it stays.
      Vec gate = Load(gates), up = Load(ups);
      gate = SelectLess(most, gate, most, gate);
      up = SelectLess(most, up, most, SelectLess(up, least, least, up));
      const Vec sigmoid = Div(one, Add(one, Exp(Sub(Zero(), Mul(alpha, gate)))));
      StoreUpTo(out + i, Mul(Add(up, one), Mul(gate, sigmoid)), length - i);
    }
  });
}

inline void ScaleCapKernel(const ScaleCapOp& op, Run& run) {
  const int64_t length = RowLength(op.x);
  const Vec scale = Set(op.soft_cap == 0 ? op.scale : op.scale / op.soft_cap);
  const Vec cap = Set(op.soft_cap);
  ForEach(run, RowCount(op.x), length / kWidth * (op.soft_cap == 0 ? 1 : 4), [&](int64_t row) {
    float* x = FlatRow(op.x, row);
    for (int64_t i = 0; i < length; i += kWidth) {
      Vec value = Mul(LoadUpTo(x + i, length - i), scale);
      // The cap would make an ordinary number of an infinite one.
      if (op.soft_cap != 0) value = Fma(value, Zero(), Mul(cap, Tanh(value)));
      StoreUpTo(x + i, value, length - i);
    }
  });
}

}  // namespace zi::ZI_ISA
