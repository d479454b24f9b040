// add, gated, gated_pairs, gate_sigmoid, scale_rows, scale_cap, position_scale and clamp: one row at a time, any outer strides.
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

/// out[from … to) of one row of `gated`, where `from` is a multiple of kWidth.
inline void GateSome(const GatedOp& op, int64_t row, int64_t from, int64_t to) {
  const bool limited = op.limit > 0;
  const Vec most = Set(op.limit), least = Set(-op.limit);
  // Comparisons with NaN do not hold, so it stays.
  const auto below = [&](Vec x) { return SelectLess(most, x, most, x); };
  float* out = FlatRow(op.out, row);
  const float* gate = FlatRow(op.gate, row);
  const float* up = FlatRow(op.up, row);
  for (int64_t i = from; i < to; i += kWidth) {
    Vec active = LoadUpTo(gate + i, to - i), by = LoadUpTo(up + i, to - i);
    if (limited && !op.limit_after) active = below(active);
    active = Activate(op.activation, active);
    if (limited && op.limit_after) active = below(active);
    if (limited) by = below(SelectLess(by, least, least, by));
    StoreUpTo(out + i, Mul(active, by), to - i);
  }
}
/// The same of `gated_pairs`.
inline void GateSome(const GatedPairsOp& op, int64_t row, int64_t from, int64_t to) {
  const Vec alpha = Set(op.alpha), most = Set(op.limit), least = Set(-op.limit), one = Set(1);
  float* out = Row(op.out, row);
  const float* x = Row(op.x, row);
  for (int64_t i = from; i < to; i += kWidth) {
    Vec gate, up;
    if (const int64_t n = to - i; n >= kWidth) {
      SplitPairs(x + 2 * i, gate, up);
    } else {
      float rest[2 * kWidth] = {};
      std::memcpy(rest, x + 2 * i, static_cast<size_t>(2 * n) * sizeof(float));
      SplitPairs(rest, gate, up);
    }
    // Comparisons with NaN do not hold, so it stays.
    gate = SelectLess(most, gate, most, gate);
    up = SelectLess(most, up, most, SelectLess(up, least, least, up));
    const Vec sigmoid = Div(one, Add(one, Exp(Sub(Zero(), Mul(alpha, gate)))));
    StoreUpTo(out + i, Mul(Add(up, one), Mul(gate, sigmoid)), to - i);
  }
}

/// What one vector of a gate costs, in simple vector operations.
constexpr int64_t kGateWork = 6;

inline void GatedKernel(const GatedOp& op, Run& run) {
  const int64_t length = RowLength(op.out);
  ForEach(run, RowCount(op.out), length / kWidth * kGateWork, [&](int64_t row) { GateSome(op, row, 0, length); });
}

inline void GatedPairsKernel(const GatedPairsOp& op, Run& run) {
  const int64_t length = op.out.shape[1];
  ForEach(run, op.out.shape[0], length / kWidth * kGateWork, [&](int64_t row) { GateSome(op, row, 0, length); });
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

inline void GateSigmoidKernel(const GateSigmoidOp& op, Run& run) {
  const int64_t length = RowLength(op.x);
  const bool one = RowLength(op.gate) == 1;
  ForEach(run, RowCount(op.x), length / kWidth * (one ? 1 : 4), [&](int64_t row) {
    float* x = FlatRow(op.x, row);
    const float* gate = FlatRow(op.gate, row);
    const Vec every = one ? Sigmoid(Set(*gate)) : Zero();
    for (int64_t i = 0; i < length; i += kWidth) {
      const int64_t n = length - i;
      StoreUpTo(x + i, Mul(LoadUpTo(x + i, n), one ? every : Sigmoid(LoadUpTo(gate + i, n))), n);
    }
  });
}

/// Row r of x belongs to the r-th weight.
inline void ScaleRowsKernel(const ScaleRowsOp& op, Run& run) {
  const int64_t length = op.x.shape[1], each = op.weights.shape[1];
  ForEach(run, op.x.shape[0], length / kWidth, [&](int64_t row) {
    float* x = Row(op.x, row);
    const Vec weight = Set(Row(op.weights, row / each)[row % each]);
    for (int64_t i = 0; i < length; i += kWidth) StoreUpTo(x + i, Mul(LoadUpTo(x + i, length - i), weight), length - i);
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
