// state_scan: token by token, which is exact wherever a prompt is cut; some columns of one head's state are a task, since columns
// know nothing of each other.
#pragma once
#include "cpu/kernel_norm.h"
#include "cpu/kernel_states.h"

namespace zi::ZI_ISA {

constexpr int kScanVecs = 4;
/// With 128 rows, a task's state fills most of the first cache and no more.
constexpr int64_t kScanColumns = kScanVecs * kWidth;

/// One value of a vector of any float type.
inline float ScanValue(const View& vector, int64_t i) {
  float lanes[kWidth];
  WithType(vector.dtype, [&]<class W>(W) { Store(lanes, LoadUpTo<W>(vector.data + i * W::kBytes, 1)); });
  return lanes[0];
}

/// Columns [column, column + count) of head h in one sequence.
struct ScanTask {
  const StateScanOp& op;
  StateRow sequence;
  int64_t head, column, count;

  float* state;  // [Dk][kScanColumns]
  float *q, *k;  // [Dk], as they count

  void Place() {
    const size_t floats = static_cast<size_t>(op.k.shape[2] * (kScanColumns + 2) + 2 * kWidth);
    state = static_cast<float*>(Scratch(ScratchUse::kTile, floats * sizeof(float)));
    q = state + op.k.shape[2] * kScanColumns;
    k = q + op.k.shape[2] + kWidth;
  }
  float* Stored(int64_t row) const {
    return reinterpret_cast<float*>(op.state.data) + sequence.slot * op.state.strides[0] + head * op.state.strides[1] +
           row * op.state.strides[2] + column;
  }
  void Load() const {
    for (int64_t i = 0; i < op.k.shape[2]; ++i) {
      for (int64_t c = 0; c < kScanColumns; c += kWidth) {
        const int64_t n = count - c;
        const Vec value = sequence.begins || n <= 0 ? Zero() : LoadUpTo(Stored(i) + c, n);
        Store(state + i * kScanColumns + c, value);
      }
    }
  }
  void Save() const {
    for (int64_t i = 0; i < op.k.shape[2]; ++i) {
      for (int64_t c = 0; c < count; c += kWidth) StoreUpTo(Stored(i) + c, Load1(i, c), count - c);
    }
  }
  Vec Load1(int64_t row, int64_t c) const { return ZI_ISA::Load(state + row * kScanColumns + c); }
};

/// x times `scale`, and over √(Σx² + eps) unless that is 0.
inline void ScanInput(const float* x, int64_t length, float eps, float scale, float* to) {
  if (eps != 0) scale /= __builtin_sqrtf(SumRow(x, length, [](Vec v, Vec sum, int64_t) { return Fma(v, v, sum); }) + eps);
  for (int64_t i = 0; i < length; i += kWidth) StoreUpTo(to + i, Mul(LoadUpTo(x + i, length - i), Set(scale)), length - i);
}

/// Both products of the state before the token with its k and q, then the state after it.
template <bool kDelta>
inline void ScanToken(const ScanTask& task, int64_t token, float step_bias, float decay, float skip) {
  const StateScanOp& op = task.op;
  const int64_t depth = op.k.shape[2], each = op.v.shape[1] / op.k.shape[1];
  const int64_t group = task.head / each, within = task.head % each;
  ScanInput(Row(op.q, token, group), depth, op.norm_eps, op.query_scale, task.q);
  ScanInput(Row(op.k, token, group), depth, op.norm_eps, 1, task.k);
  const ScanStep step = StepOf(Row(op.step, token, group)[within] + step_bias, decay, op.min_step, op.max_step);
  const float weight = kDelta ? SigmoidOf(Row(op.beta, token, group)[within]) : step.step;
  const float *k = task.k, *q = task.q;
  Vec along_k[kScanVecs], along_q[kScanVecs];
  for (int v = 0; v < kScanVecs; ++v) along_k[v] = along_q[v] = Zero();
  float product = 0;
  for (int64_t i = 0; i < depth; ++i) {
    const float* row = task.state + i * kScanColumns;
    const Vec kv = Set(k[i]), qv = Set(q[i]);
    for (int v = 0; v < kScanVecs; ++v) {
      const Vec s = Load(row + v * kWidth);
      if constexpr (kDelta) along_k[v] = Fma(kv, s, along_k[v]);
      along_q[v] = Fma(qv, s, along_q[v]);
    }
  }
  // The state after the token is γ·S + k·δᵀ, so out = γ·(Sᵀq) + (k·q)·δ.
  {
    Vec sum = Zero();
    for (int64_t i = 0; i < depth; i += kWidth) sum = Fma(LoadUpTo(k + i, depth - i), LoadUpTo(q + i, depth - i), sum);
    product = Sum(sum);
  }
  const Vec kept = Set(step.kept);
  Vec delta[kScanVecs];
  float* out = Row(op.out, token, task.head) + task.column;
  const float* values = Row(op.v, token, task.head) + task.column;
  for (int v = 0; v < kScanVecs; ++v) {
    const int64_t n = task.count - v * kWidth;
    if (n <= 0) {
      delta[v] = Zero();
      continue;
    }
    const Vec value = LoadUpTo(values + v * kWidth, n);
    delta[v] = Mul(Set(weight), kDelta ? Fnma(kept, along_k[v], value) : value);
    const Vec result = Fma(Set(product), delta[v], Mul(kept, along_q[v]));
    StoreUpTo(out + v * kWidth, op.skip.data ? Fma(Set(skip), value, result) : result, n);
  }
  for (int64_t i = 0; i < depth; ++i) {
    float* row = task.state + i * kScanColumns;
    const Vec kv = Set(k[i]);
    for (int v = 0; v < kScanVecs; ++v) Store(row + v * kWidth, Fma(kv, delta[v], Mul(kept, Load(row + v * kWidth))));
  }
}

template <bool kDelta>
inline void ScanColumns(ScanTask& task, Run& run) {
  task.Place();
  task.Load();
  const StateScanOp& op = task.op;
  const float step_bias = ScanValue(op.step_bias, task.head), decay = ScanValue(op.decay, task.head);
  const float skip = op.skip.data ? ScanValue(op.skip, task.head) : 0.0f;
  for (int64_t t = 0; t < task.sequence.tokens; ++t) {
    if (run.cancel.load(std::memory_order_relaxed)) return;
    ScanToken<kDelta>(task, task.sequence.first + t, step_bias, decay, skip);
  }
  task.Save();
}

inline void StateScanKernel(const StateScanOp& op, Run& run) {
  const int64_t tokens = op.v.shape[0], heads = op.v.shape[1], length = op.v.shape[2], depth = op.k.shape[2];
  const int64_t sequences = op.sequences.shape[0];
  CheckStateTables(op.sequences, op.slots, tokens, op.state.shape[0]);
  if (length == 0 || sequences == 0) return;
  const int64_t blocks = (length + kScanColumns - 1) / kScanColumns;
  const int64_t work = Larger(1, tokens / sequences) * depth * kScanVecs * 6;
  ForEach(run, sequences * heads * blocks, work, [&](int64_t index) {
    const int64_t column = index % blocks * kScanColumns;
    ScanTask task{op, ReadState(op.sequences, op.slots, index / blocks / heads), index / blocks % heads, column,
                  Smaller(kScanColumns, length - column), nullptr, nullptr, nullptr};
    if (task.sequence.tokens == 0) return;
    if (op.beta.data) {
      ScanColumns<true>(task, run);
    } else {
      ScanColumns<false>(task, run);
    }
  });
}

}  // namespace zi::ZI_ISA
