// compress: entries of runs of tokens, channel by channel a mean that a softmax weighs. It is folded token by token, so that a run
// that several passes share gives the same bits as one that a single pass has.
#pragma once
#include "cpu/kernel_norm.h"
#include "cpu/kernel_states.h"

namespace zi::ZI_ISA {

/// One sequence's tokens, and what is folded of them: rows of `depth` floats for the largest gate, the sum and the weighted sum.
struct RunFold {
  const CompressOp& op;
  StateRow row;
  int64_t ratio, series, depth, padded;
  float* sums;  // [3][padded]

  RunFold(const CompressOp& compress, const StateRow& sequence, float* to)
      : op(compress),
        row(sequence),
        ratio(compress.bias.shape[0]),
        series(compress.values.shape[1]),
        depth(compress.values.shape[2]),
        padded(RoundUp(depth, kWidth)),
        sums(to) {}

  float* State(int64_t part, int64_t which) const {
    return reinterpret_cast<float*>(op.state.data) + row.slot * op.state.strides[0] + part * op.state.strides[1] +
           which * op.state.strides[2];
  }
  void Clear() {
    for (int64_t d = 0; d < padded; ++d) sums[d] = -__builtin_inff();
    std::memset(sums + padded, 0, static_cast<size_t>(2 * padded) * sizeof(float));
  }
  void Load(int64_t part) {
    for (int which = 0; which < 3; ++which) {
      std::memcpy(sums + which * padded, State(part, which), static_cast<size_t>(depth) * sizeof(float));
    }
  }
  void Save(int64_t part) const {
    for (int which = 0; which < 3; ++which) {
      std::memcpy(State(part, which), sums + which * padded, static_cast<size_t>(depth) * sizeof(float));
    }
  }
  /// Tokens at positions [from, to) of one series; what lies before the first of these tokens is in the state.
  void Fold(int64_t which, int64_t from, int64_t to) {
    WithType(op.bias.dtype, [&]<class W>(W) {
      for (int64_t position = Larger(from, row.start); position < to; ++position) {
        const int64_t token = row.first + position - row.start;
        const float *values = Row(op.values, token, which), *gates = Row(op.gates, token, which);
        const uint8_t* bias = op.bias.data + (position % ratio * op.bias.strides[0] + which * depth) * W::kBytes;
        for (int64_t d = 0; d < depth; d += kWidth) {
          const int64_t n = depth - d;
          const Vec gate = Add(LoadUpTo(gates + d, n), LoadUpTo<W>(bias + d * W::kBytes, n));
          const Vec before = ZI_ISA::Load(sums + d), largest = Max(gate, before);
          const Vec kept = Exp(Sub(before, largest)), part = Exp(Sub(gate, largest));
          Store(sums + d, largest);
          Store(sums + padded + d, Fma(ZI_ISA::Load(sums + padded + d), kept, part));
          Store(sums + 2 * padded + d, Fma(ZI_ISA::Load(sums + 2 * padded + d), kept, Mul(part, LoadUpTo(values + d, n))));
        }
      }
    });
  }
  /// What counts for the entry of run `run`, of tokens before position `end`.
  void FoldEntry(int64_t run, int64_t end) {
    const int64_t begin = run * ratio;
    if (series == 1) {
      if (row.begins || row.start <= begin) Clear();
      else Load(0);
      return Fold(0, begin, end);
    }
    if (row.begins || row.start <= begin - ratio) Clear();
    else Load(row.start >= begin ? 0 : 1);
    Fold(0, begin - ratio, Smaller(begin, end));
    Fold(1, begin, end);
  }
  /// What counts for the entry of the run behind `run`, of its first series.
  void FoldNext(int64_t run, int64_t end) {
    const int64_t begin = run * ratio;
    if (row.begins || row.start <= begin) Clear();
    else Load(1);
    Fold(0, begin, end);
  }
};

/// The sums as an entry: their mean, normed and turned.
inline void FinishEntry(const RunFold& fold, int64_t run) {
  const CompressOp& op = fold.op;
  const int64_t depth = fold.depth, padded = fold.padded, pairs = op.inverse_frequencies.shape[0];
  if (run >= op.entries.shape[1]) FailOp("entry %ld is outside the %ld of a state", run, op.entries.shape[1]);
  float* entry = reinterpret_cast<float*>(op.entries.data) + fold.row.slot * op.entries.strides[0] + run * op.entries.strides[1];
  float* mean = fold.sums;
  for (int64_t d = 0; d < depth; d += kWidth) {
    StoreUpTo(mean + d, Div(Load(fold.sums + 2 * padded + d), Load(fold.sums + padded + d)), depth - d);
  }
  const float squares = SumRow(mean, depth, [](Vec v, Vec sum, int64_t) { return Fma(v, v, sum); });
  const Vec inverse = Set(1.0f / __builtin_sqrtf(squares / depth + op.eps));
  WithType(op.norm.dtype, [&]<class W>(W) {
    for (int64_t d = 0; d < depth; d += kWidth) {
      const int64_t n = depth - d;
      StoreUpTo(entry + d, Mul(Mul(LoadUpTo(mean + d, n), inverse), LoadUpTo<W>(op.norm.data + d * W::kBytes, n)), n);
    }
  });
  const float* frequencies = reinterpret_cast<const float*>(op.inverse_frequencies.data);
  const double position = static_cast<double>(run * fold.ratio);
  float* turned = entry + depth - 2 * pairs;
  for (int64_t i = 0; i < pairs; ++i) {
    float cosine, sine;
    CosSin(position * frequencies[i], op.rotary_scale, &cosine, &sine);
    const float a = turned[2 * i], b = turned[2 * i + 1];
    turned[2 * i] = a * cosine - b * sine;
    turned[2 * i + 1] = b * cosine + a * sine;
  }
}

inline void CompressKernel(const CompressOp& op, Run& run) {
  const int64_t tokens = op.values.shape[0], ratio = op.bias.shape[0];
  const int64_t depth = op.values.shape[2], padded = RoundUp(depth, kWidth), series = op.values.shape[1];
  CheckStateTables(op.sequences, op.slots, tokens, op.state.shape[0]);
  const auto scratch = [&] {
    return static_cast<float*>(Scratch(ScratchUse::kTile, static_cast<size_t>(6 * padded) * sizeof(float)));
  };
  // A run belongs to the token that ends it.
  ForEach(run, tokens, series * depth / kWidth * 40, [&](int64_t token) {
    const int64_t s = SequenceOf(op.sequences, token);
    if (s < 0) return;
    const StateRow row = ReadState(op.sequences, op.slots, s);
    const int64_t end = row.start + token - row.first + 1;
    if (token >= row.first + row.tokens || end % ratio != 0) return;
    RunFold fold(op, row, scratch());
    fold.FoldEntry(end / ratio - 1, end);
    FinishEntry(fold, end / ratio - 1);
  });
  ForEach(run, op.sequences.shape[0], series * depth / kWidth * 40 * ratio, [&](int64_t s) {
    const StateRow row = ReadState(op.sequences, op.slots, s);
    if (row.tokens == 0) return;
    const int64_t end = row.start + row.tokens, open = end / ratio;
    float* sums = scratch();
    RunFold entry(op, row, sums), next(op, row, sums + 3 * padded);
    entry.FoldEntry(open, end);
    if (series == 2) next.FoldNext(open, end), next.Save(1);
    entry.Save(0);
  });
}

}  // namespace zi::ZI_ISA
