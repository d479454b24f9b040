// layer_norm, rms_norm and gated_rms over the innermost dimension; rows are read once from memory and then from cache.
#pragma once
#include "cpu/kernel_math.h"

namespace zi::ZI_ISA {

/// Σ f(x) over a row, with four accumulators to hide the latency of the adds.
template <class F>
inline float SumRow(const float* x, int64_t length, F f) {
  Vec sum[4] = {Zero(), Zero(), Zero(), Zero()};
  int64_t i = 0;
  for (; i + 4 * kWidth <= length; i += 4 * kWidth) {
    for (int j = 0; j < 4; ++j) sum[j] = f(Load(x + i + j * kWidth), sum[j], kWidth);
  }
  for (; i < length; i += kWidth) sum[0] = f(LoadUpTo(x + i, length - i), sum[0], length - i);
  return Sum(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])));
}

template <class W, class B>
inline void LayerNormRow(const float* x, float* out, int64_t length, const uint8_t* weight, const uint8_t* bias,
                         float eps, float weight_offset) {
  const float mean = SumRow(x, length, [](Vec v, Vec sum, int64_t) { return Add(sum, v); }) / length;
  const Vec m = Set(mean);
  const float squares = SumRow(x, length, [m](Vec v, Vec sum, int64_t n) {
    Vec d = Sub(v, m);
    if (n < kWidth) {
      // The lanes beyond the row hold 0 − mean; they must not count.
      float lanes[kWidth];
      Store(lanes, d);
      d = LoadPartial(lanes, static_cast<int>(n));
    }
    return Fma(d, d, sum);
  });
  const Vec inverse = Set(1.0f / __builtin_sqrtf(squares / length + eps));
  const Vec offset = Set(weight_offset);
  for (int64_t i = 0; i < length; i += kWidth) {
    const int64_t n = length - i;
    const Vec normal = Mul(Sub(LoadUpTo(x + i, n), m), inverse);
    const Vec b = bias ? LoadUpTo<B>(bias + i * B::kBytes, n) : Zero();
    StoreUpTo(out + i, Fma(normal, Add(LoadUpTo<W>(weight + i * W::kBytes, n), offset), b), n);
  }
}

inline void LayerNormKernel(const LayerNormOp& op, Run& run) {
  const int64_t length = RowLength(op.x);
  const int64_t heads = op.weight.rank == 2 ? op.weight.shape[0] : 1;
  WithType(op.weight.dtype, [&]<class W>(W) {
    const int64_t head_bytes = op.weight.rank == 2 ? op.weight.strides[0] * W::kBytes : 0;
    WithType(op.bias.dtype, [&]<class B>(B) {
      ForEach(run, RowCount(op.x), length / kWidth * 4, [&](int64_t row) {
        const uint8_t* weight = op.weight.data + row % heads * head_bytes;
        LayerNormRow<W, B>(FlatRow(op.x, row), FlatRow(op.out, row), length, weight, op.bias.data, op.eps,
                           op.weight_offset);
      });
    });
  });
}

inline void RmsNormKernel(const RmsNormOp& op, Run& run) {
  const int64_t length = RowLength(op.x);
  const Vec offset = Set(op.weight_offset);
  WithType(op.weight.dtype, [&]<class W>(W) {
    ForEach(run, RowCount(op.x), length / kWidth * 3, [&](int64_t row) {
      const float* x = FlatRow(op.x, row);
      float* out = FlatRow(op.out, row);
      const float squares = SumRow(x, length, [](Vec v, Vec sum, int64_t) { return Fma(v, v, sum); });
      const Vec inverse = Set(1.0f / __builtin_sqrtf(squares / length + op.eps));
      for (int64_t i = 0; i < length; i += kWidth) {
        const int64_t n = length - i;
        const Vec normal = Mul(LoadUpTo(x + i, n), inverse);
        if (!op.weight.data) {
          StoreUpTo(out + i, normal, n);
          continue;
        }
        const Vec weight = Add(LoadUpTo<W>(op.weight.data + i * W::kBytes, n), offset);
        StoreUpTo(out + i, Mul(normal, weight), n);
      }
    });
  });
}

/// x · silu(gate) stands in the row of the result while its squares are summed, where the gate comes first.
inline void GatedRmsKernel(const GatedRmsOp& op, Run& run) {
  const int64_t length = RowLength(op.x), groups = op.x.rank > 1 ? op.x.shape[op.x.rank - 2] : 1;
  const bool each = op.weight.shape[0] != length;
  WithType(op.weight.dtype, [&]<class W>(W) {
    ForEach(run, RowCount(op.x), length / kWidth * 8, [&](int64_t row) {
      const float *x = FlatRow(op.x, row), *gate = FlatRow(op.gate, row);
      float* out = FlatRow(op.out, row);
      const uint8_t* weights = op.weight.data + (each ? row % groups * length * W::kBytes : 0);
      const auto gated = [&](int64_t i, int64_t n, Vec value) {
        const Vec g = LoadUpTo(gate + i, n);
        return Mul(value, Mul(g, Sigmoid(g)));
      };
      if (op.gate_first) {
        for (int64_t i = 0; i < length; i += kWidth) {
          StoreUpTo(out + i, gated(i, length - i, LoadUpTo(x + i, length - i)), length - i);
        }
        x = out;
      }
      const float squares = SumRow(x, length, [](Vec v, Vec sum, int64_t) { return Fma(v, v, sum); });
      const Vec inverse = Set(1.0f / __builtin_sqrtf(squares / length + op.eps));
      for (int64_t i = 0; i < length; i += kWidth) {
        const int64_t n = length - i;
        const Vec normal = Mul(Mul(LoadUpTo(x + i, n), inverse), LoadUpTo<W>(weights + i * W::kBytes, n));
        StoreUpTo(out + i, op.gate_first ? normal : gated(i, n, normal), n);
      }
    });
  });
}

}  // namespace zi::ZI_ISA
