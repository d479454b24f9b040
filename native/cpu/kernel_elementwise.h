// add, gated, gated_pairs, scale_cap, position_scale and clamp: one row at a time, any outer strides.
#pragma once
#include "cpu/kernel_math.h"

namespace zi::ZI_ISA {

inline float FactorOf(const View& factor) {
  if (!factor.data) return 1;
  float value = 1;
  WithType(factor.dtype, [&]<class W>(W) { 
    float lanes[kWidth];
    Store(lanes, LoadUpTo<W>(factor.data, 1));
    value = lanes[0];
  });
  return value;
}

inline void AddKernel(const AddOp& op, Run& run) {
  const int64_t length = RowLength(op.out);
  const Vec factor = Set(FactorOf(op.factor));
  ForEach(run, RowCount(op.out), length / kWidth, [&](int64_t row) {
    float* out = FlatRow(op.out, row);
    const float* a = FlatRow(op.a, row);
    const float* b = FlatRow(op.b, row);
    for (int64_t i = 0; i < length; i += kWidth) {
      StoreUpTo(out + i, Mul(Add(LoadUpTo(a + i, length - i), LoadUpTo(b + i, length - i)), factor), length - i);
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

inline void PositionScaleKernel(const PositionScaleOp& op, Run& run) {
  const int64_t heads = op.x.shape[1], length = op.x.shape[2];
  ForEach(run, op.x.shape[0], heads * length / kWidth, [&](int64_t t) {
    const double steps = __builtin_floor((Int(op.positions, t) + op.offset) / op.length);
    if (steps == 0) return;
    const Vec factor = Set(PositionFactor(steps, op.beta));
    for (int64_t h = 0; h < heads; ++h) {
      float* x = Row(op.x, t, h);
      for (int64_t i = 0; i < length; i += kWidth) StoreUpTo(x + i, Mul(LoadUpTo(x + i, length - i), factor), length - i);
    }
  });
}

inline void ClampKernel(const ClampOp& op, Run& run) {
  const int64_t length = RowLength(op.x);
  const Vec most = Set(op.limit), least = Set(-op.limit);
  ForEach(run, RowCount(op.x), length / kWidth, [&](int64_t row) {
    float* x = FlatRow(op.x, row);
    for (int64_t i = 0; i < length; i += kWidth) {
      // Comparisons with NaN do not hold, so it stays.
      const Vec value = LoadUpTo(x + i, length - i);
      StoreUpTo(x + i, SelectLess(most, value, most, SelectLess(value, least, least, value)), length - i);
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
