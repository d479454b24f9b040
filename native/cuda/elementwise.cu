// add, gated, gated_pairs, gate_sigmoid, scale_rows, scale_cap, position_scale, clamp, expert_bias and combine; what goes before and after products: conversion of inputs, bias, activation; and
// copies of a few bytes.
#include "cuda/fault.h"
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/views.h"
#include "ops/mailbox.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;

/// f(row, column) for every column, or for every eighth where it takes eight neighbours at once; rows beyond the grid's
/// limit are taken in turns.
template <class F>
__global__ void ForEach(const F f, int64_t rows, int64_t columns) {
  Begin();
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * F::kWidth;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) f(row, column);
}

template <class F>
void LaunchForEach(const F& f, int64_t rows, int64_t columns, Run& run) {
  if (rows == 0 || columns == 0) return;
  const dim3 grid(Blocks(columns, kThreads * F::kWidth), Blocks(rows, 1, kMostGridRows));
  Overlapped(ForEach<F>, grid, kThreads, run, f, rows, columns);
}

/// One value, or eight neighbours, of a row.
template <int W>
__device__ void Read(const RowView& view, int64_t row, int64_t column, float (&to)[W]) {
  if constexpr (W == 8) {
    view.GetEight(row, column, to);
  } else {
    to[0] = view.Get(row, column);
  }
}
template <int W>
__device__ void Write(const RowView& view, int64_t row, int64_t column, const float (&from)[W]) {
  if constexpr (W == 8) {
    view.PutEight(row, column, from);
  } else {
    view.Put(row, column, from[0]);
  }
}

template <int W>
struct AddF {
  static constexpr int kWidth = W;
  RowView out, a, b;
  WeightVector factor;
  __device__ void operator()(int64_t r, int64_t c) const {
    float x[W], y[W];
    Read(a, r, c, x);
    Read(b, r, c, y);
    const float times = factor.data ? factor.At(0) : 1.0f;
    for (int i = 0; i < W; ++i) x[i] = (x[i] + y[i]) * times;
    Write(out, r, c, x);
  }
};
template <int W>
struct GatedF {
  static constexpr int kWidth = W;
  RowView out, gate, up;
  Activation activation;
  float limit;  // 0: none
  bool after;
  __device__ void operator()(int64_t r, int64_t c) const {
    float x[W], y[W];
    Read(gate, r, c, x);
    Read(up, r, c, y);
    for (int i = 0; i < W; ++i) {
      float active = x[i];
      // Comparisons with NaN do not hold, so it stays.
      if (limit > 0 && !after && active > limit) active = limit;
      active = Activate(activation, active);
      if (limit > 0 && after && active > limit) active = limit;
      if (limit > 0 && y[i] > limit) y[i] = limit;
      if (limit > 0 && y[i] < -limit) y[i] = -limit;
      x[i] = active * y[i];
    }
    Write(out, r, c, x);
  }
};
struct ScaleCapF {
  static constexpr int kWidth = 1;
  RowView x;
  float scale, cap;
  __device__ void operator()(int64_t r, int64_t c) const {
    const float value = x.Get(r, c);
    // The cap would make an ordinary number of an infinite one.
    x.Put(r, c, cap == 0 ? value * scale : fmaf(value, 0.0f, cap * tanhf(value * (scale / cap))));
  }
};
/// A row is a token's head.
struct PositionScaleF {
  static constexpr int kWidth = 1;
  RowView x;
  const int32_t* positions;
  int64_t heads;
  float beta;
  double offset, length;
  __device__ void operator()(int64_t r, int64_t c) const {
    const double steps = floor((positions[r / heads] + offset) / length);
    if (steps == 0) return;
    x.Put(r, c, x.Get(r, c) * (1.0f + beta * log1pf(static_cast<float>(steps))));
  }
};
template <int W>
struct ClampF {
  static constexpr int kWidth = W;
  RowView x;
  float limit;
  __device__ void operator()(int64_t r, int64_t c) const {
    float value[W];
    Read(x, r, c, value);
    // Comparisons with NaN do not hold, so it stays.
    for (int i = 0; i < W; ++i) {
      if (value[i] > limit) value[i] = limit;
      if (value[i] < -limit) value[i] = -limit;
    }
    Write(x, r, c, value);
  }
};
template <int W>
struct CombineF {
  static constexpr int kWidth = W;
  RowView x, y, weights;
  int64_t each;
  bool accumulate;
  __device__ void operator()(int64_t t, int64_t c) const {
    float sum[W] = {}, part[W];
    if (accumulate) Read(x, t, c, sum);
    for (int64_t j = 0; j < each; ++j) {
      const float weight = weights.data ? weights.Row<float>(t)[j] : 1.0f;
      Read(y, t * each + j, c, part);
      for (int i = 0; i < W; ++i) sum[i] = fmaf(weight, part[i], sum[i]);
    }
    Write(x, t, c, sum);
  }
};
/// A row of bias of the choice's expert.
template <int W>
struct ExpertBiasF {
  static constexpr int kWidth = W;
  RowView x, experts, bias;
  int64_t each, expert_count;
  Fault* fault;
  __device__ void operator()(int64_t choice, int64_t c) const {
    const int expert = experts.Row<int32_t>(choice / each)[choice % each];
    if (expert < 0 || expert >= expert_count) {
      if (c == 0 && expert != kElsewhere) Report(fault, kExpertOutside, choice, expert, expert_count);
      return;
    }
    float value[W], by[W];
    Read(x, choice, c, value);
    Read(bias, expert, c, by);
    for (int i = 0; i < W; ++i) value[i] += by[i];
    Write(x, choice, c, value);
  }
};
template <int W>
struct GatedPairsF {
  static constexpr int kWidth = W;
  RowView out, x;
  float alpha, limit;
  __device__ void operator()(int64_t r, int64_t c) const {
    float pairs[2][W], result[W];
    Read(x, r, 2 * c, pairs[0]);
    Read(x, r, 2 * c + W, pairs[1]);
    for (int i = 0; i < W; ++i) {
      float gate = pairs[2 * i / W][2 * i % W], up = pairs[(2 * i + 1) / W][(2 * i + 1) % W];
      // Comparisons with NaN do not hold, so it stays.
      if (gate > limit) gate = limit;
      if (up > limit) up = limit;
      if (up < -limit) up = -limit;
      result[i] = (up + 1.0f) * (gate * Sigmoid(alpha * gate));
    }
    Write(out, r, c, result);
  }
};
template <int W>
struct ScaleRowsF {
  static constexpr int kWidth = W;
  RowView x, weights;
  int64_t each;
  __device__ void operator()(int64_t r, int64_t c) const {
    const float weight = weights.Row<float>(r / each)[r % each];
    float value[W];
    Read(x, r, c, value);
    for (int i = 0; i < W; ++i) value[i] *= weight;
    Write(x, r, c, value);
  }
};
/// One gate for a whole row, or one for each of its values.
template <int W>
struct GateSigmoidF {
  static constexpr int kWidth = W;
  RowView x, gate;
  bool one;
  __device__ void operator()(int64_t r, int64_t c) const {
    float value[W], by[W];
    Read(x, r, c, value);
    if (one) {
      by[0] = Sigmoid(gate.Get(r, 0));
      for (int i = 0; i < W; ++i) value[i] *= by[0];
    } else {
      Read(gate, r, c, by);
      for (int i = 0; i < W; ++i) value[i] *= Sigmoid(by[i]);
    }
    Write(x, r, c, value);
  }
};
template <int W>
struct FinishF {
  static constexpr int kWidth = W;
  RowView out, from;
  WeightVector bias;
  Activation activation;
  bool accumulate;
  __device__ void operator()(int64_t r, int64_t c) const {
    float value[W];
    Read(from, r, c, value);
    for (int i = 0; i < W; ++i) {
      if (bias.data) value[i] += bias.At(c + i);
      value[i] = Activate(activation, value[i]);
    }
    if (accumulate) {
      float before[W];
      Read(out, r, c, before);
      for (int i = 0; i < W; ++i) value[i] += before[i];
    }
    Write(out, r, c, value);
  }
};
template <int W>
struct ConvertF {
  static constexpr int kWidth = W;
  RowView to, from;
  __device__ void operator()(int64_t r, int64_t c) const {
    float value[W];
    Read(from, r, c, value);
    Write(to, r, c, value);
  }
};

template <int W>
struct RestF {
  static constexpr int kWidth = W;
  RowView to, from, rounded;
  __device__ void operator()(int64_t r, int64_t c) const {
    float value[W], before[W];
    Read(from, r, c, value);
    Read(rounded, r, c, before);
    for (int i = 0; i < W; ++i) value[i] -= before[i];
    Write(to, r, c, value);
  }
};

/// The host may have written them since another kernel of the stream read them, so no cache is asked.
template <class T>
__global__ void CopyWords(T* to, const T* from, int64_t count) {
  Begin();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) to[i] = __ldcv(from + i);
}

template <class T>
bool CopiedAs(const CopyOp& op, Run& run) {
  const auto misaligned = reinterpret_cast<uintptr_t>(op.to) | reinterpret_cast<uintptr_t>(op.from) | op.size;
  if (misaligned % sizeof(T) != 0) return false;
  const auto count = static_cast<int64_t>(op.size / sizeof(T));
  Overlapped(CopyWords<T>, dim3(Blocks(count, kThreads, 4 * run.multiprocessors())), kThreads, run,
             reinterpret_cast<T*>(op.to), reinterpret_cast<const T*>(op.from), count);
  return true;
}

/// Rows of these can be taken in groups of eight.
template <class... Views>
bool Eights(int64_t length, const Views&... views) {
  return length % 8 == 0 && (RowsAligned(views, 16) && ...);
}

}  // namespace

void Launch(const AddOp& op, Run& run) {
  const int64_t rows = RowCount(op.out), length = RowLength(op.out);
  const RowView out(op.out), a(op.a), b(op.b);
  const WeightVector factor(op.factor);
  if (Eights(length, op.out, op.a, op.b)) return LaunchForEach(AddF<8>{out, a, b, factor}, rows, length, run);
  LaunchForEach(AddF<1>{out, a, b, factor}, rows, length, run);
}

void Launch(const GatedOp& op, Run& run) {
  const int64_t rows = RowCount(op.out), length = RowLength(op.out);
  const RowView out(op.out), gate(op.gate), up(op.up);
  if (Eights(length, op.out, op.gate, op.up)) {
    return LaunchForEach(GatedF<8>{out, gate, up, op.activation, op.limit, op.limit_after}, rows, length, run);
  }
  LaunchForEach(GatedF<1>{out, gate, up, op.activation, op.limit, op.limit_after}, rows, length, run);
}

void Launch(const ScaleCapOp& op, Run& run) {
  LaunchForEach(ScaleCapF{RowView(op.x), op.scale, op.soft_cap}, RowCount(op.x), RowLength(op.x), run);
}

void Launch(const PositionScaleOp& op, Run& run) {
  const auto* positions = reinterpret_cast<const int32_t*>(op.positions.data);
  LaunchForEach(PositionScaleF{RowView(op.x), positions, op.x.shape[1], op.beta, op.offset, op.length}, RowCount(op.x),
                RowLength(op.x), run);
}

void Launch(const ClampOp& op, Run& run) {
  const int64_t rows = RowCount(op.x), length = RowLength(op.x);
  if (Eights(length, op.x)) return LaunchForEach(ClampF<8>{RowView(op.x), op.limit}, rows, length, run);
  LaunchForEach(ClampF<1>{RowView(op.x), op.limit}, rows, length, run);
}

void Launch(const CombineOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], length = op.x.shape[1];
  if (tokens == 0) return;
  const int64_t each = op.y.shape[0] / tokens;
  const RowView x(op.x), y(op.y), weights(op.weights);
  if (Eights(length, op.x, op.y)) return LaunchForEach(CombineF<8>{x, y, weights, each, op.accumulate}, tokens, length, run);
  LaunchForEach(CombineF<1>{x, y, weights, each, op.accumulate}, tokens, length, run);
}

void Launch(const ExpertBiasOp& op, Run& run) {
  const int64_t rows = op.x.shape[0], length = op.x.shape[1], each = op.experts.shape[1], count = op.bias.shape[0];
  const RowView x(op.x), experts(op.experts), bias(op.bias);
  if (Eights(length, op.x, op.bias)) {
    return LaunchForEach(ExpertBiasF<8>{x, experts, bias, each, count, run.fault()}, rows, length, run);
  }
  LaunchForEach(ExpertBiasF<1>{x, experts, bias, each, count, run.fault()}, rows, length, run);
}

void Launch(const GatedPairsOp& op, Run& run) {
  const int64_t rows = op.out.shape[0], length = op.out.shape[1];
  const RowView out(op.out), x(op.x);
  if (Eights(length, op.out, op.x)) return LaunchForEach(GatedPairsF<8>{out, x, op.alpha, op.limit}, rows, length, run);
  LaunchForEach(GatedPairsF<1>{out, x, op.alpha, op.limit}, rows, length, run);
}

void Launch(const ScaleRowsOp& op, Run& run) {
  const int64_t rows = op.x.shape[0], length = op.x.shape[1], each = op.weights.shape[1];
  const RowView x(op.x), weights(op.weights);
  if (Eights(length, op.x)) return LaunchForEach(ScaleRowsF<8>{x, weights, each}, rows, length, run);
  LaunchForEach(ScaleRowsF<1>{x, weights, each}, rows, length, run);
}

void Launch(const GateSigmoidOp& op, Run& run) {
  const int64_t rows = RowCount(op.x), length = RowLength(op.x);
  const RowView x(op.x), gate(op.gate);
  const bool one = RowLength(op.gate) == 1;
  if (Eights(length, op.x) && (one || Eights(length, op.gate))) {
    return LaunchForEach(GateSigmoidF<8>{x, gate, one}, rows, length, run);
  }
  LaunchForEach(GateSigmoidF<1>{x, gate, one}, rows, length, run);
}

void LaunchFinish(const DenseLinearOp& op, const View& from, Run& run) {
  const int64_t tokens = op.out.shape[0], length = op.out.shape[1];
  const RowView out(op.out), sums(from);
  const WeightVector bias(op.bias);
  if (Eights(length, op.out, from)) {
    return LaunchForEach(FinishF<8>{out, sums, bias, op.activation, op.accumulate}, tokens, length, run);
  }
  LaunchForEach(FinishF<1>{out, sums, bias, op.activation, op.accumulate}, tokens, length, run);
}

void LaunchCopyBytes(const CopyOp& op, Run& run) {
  if (op.size == 0) return;
  CopiedAs<uint4>(op, run) || CopiedAs<uint32_t>(op, run) || CopiedAs<uint8_t>(op, run);
}

void LaunchConvert(const View& from, const View& to, Run& run) {
  const int64_t rows = RowCount(from), length = RowLength(from);
  if (Eights(length, from, to)) return LaunchForEach(ConvertF<8>{RowView(to), RowView(from)}, rows, length, run);
  LaunchForEach(ConvertF<1>{RowView(to), RowView(from)}, rows, length, run);
}

void LaunchRest(const View& from, const View& rounded, const View& to, Run& run) {
  const int64_t rows = RowCount(from), length = RowLength(from);
  const RowView out(to), x(from), before(rounded);
  if (Eights(length, from, rounded, to)) return LaunchForEach(RestF<8>{out, x, before}, rows, length, run);
  LaunchForEach(RestF<1>{out, x, before}, rows, length, run);
}

}  // namespace zi::cuda
