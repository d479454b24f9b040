// argmax, top_tokens, nll_fold and note_not_finite: reductions over rows.
#pragma once
#include "cpu/kernel_math.h"

namespace zi::ZI_ISA {

/// Largest of a row, NaN ignored; −inf when there is nothing else. Two chains hide the latency of max.
inline float RowMaximum(const float* row, int64_t length) {
  const float lowest = -__builtin_inff();
  Vec best[2] = {Set(lowest), Set(lowest)};
  int64_t i = 0;
  // Max returns its second argument when either is NaN: a NaN in the row leaves the maximum as it was.
  for (; i + 2 * kWidth <= length; i += 2 * kWidth) {
    best[0] = Max(Load(row + i), best[0]);
    best[1] = Max(Load(row + i + kWidth), best[1]);
  }
  float result = MaxLane(Max(best[0], best[1]));
  for (; i < length; ++i) result = row[i] > result ? row[i] : result;
  return result;
}

/// The same, or NaN when the row holds anything that is no finite number.
inline float FiniteMaximum(const float* row, int64_t length) {
  const float lowest = -__builtin_inff();
  Vec best[2] = {Set(lowest), Set(lowest)}, nothing[2] = {Zero(), Zero()};
  int64_t i = 0;
  for (; i + 2 * kWidth <= length; i += 2 * kWidth) {
    for (int j = 0; j < 2; ++j) {
      const Vec value = Load(row + i + j * kWidth);
      best[j] = Max(value, best[j]);
      nothing[j] = Fma(value, Zero(), nothing[j]);  // zero times anything else is NaN, and NaN it stays
    }
  }
  float result = MaxLane(Max(best[0], best[1])), zero = Sum(Add(nothing[0], nothing[1]));
  for (; i < length; ++i) {
    result = row[i] > result ? row[i] : result;
    zero += row[i] * 0.0f;
  }
  return result + zero;
}

/// First column that holds `largest`.
inline int32_t ColumnOf(const float* row, int64_t length, float largest) {
  for (int64_t i = 0; i < length; ++i) {
    if (row[i] == largest) return static_cast<int32_t>(i);
  }
  return 0;
}

/// First column that holds the largest value; kNoToken for a row with anything that is no finite number.
inline int32_t RowArgmax(const float* row, int64_t length) {
  const float largest = FiniteMaximum(row, length);
  return largest == largest ? ColumnOf(row, length, largest) : kNoToken;
}

inline void ArgmaxKernel(const ArgmaxOp& op, Run& run) {
  const int64_t length = op.logits.shape[1];
  ForEach(run, op.logits.shape[0], length / kWidth, [&](int64_t r) {
    reinterpret_cast<int32_t*>(op.out.data)[r * op.out.strides[0]] = RowArgmax(Row(op.logits, r), length);
  });
}

/// The likeliest first, of equal ones the lower token; what is no number is none of them, and leaves places with kNoToken.
inline void TopOfRow(const float* row, int64_t length, int32_t* tokens, float* values, int64_t wanted) {
  int64_t found = 0;
  for (int64_t i = 0; i < length; ++i) {
    // Later ones have to be larger, so most of a row is passed by with one comparison.
    if (!(row[i] == row[i]) || (found == wanted && !(row[i] > values[wanted - 1]))) continue;
    int64_t at = found < wanted ? found++ : wanted - 1;
    for (; at > 0 && row[i] > values[at - 1]; --at) values[at] = values[at - 1], tokens[at] = tokens[at - 1];
    values[at] = row[i], tokens[at] = static_cast<int32_t>(i);
  }
  for (; found < wanted; ++found) values[found] = -__builtin_inff(), tokens[found] = kNoToken;
}

inline void TopTokensKernel(const TopTokensOp& op, Run& run) {
  const int64_t length = op.logits.shape[1];
  ForEach(run, op.logits.shape[0], length, [&](int64_t r) {
    int32_t* tokens = reinterpret_cast<int32_t*>(op.tokens.data) + r * op.tokens.strides[0];
    TopOfRow(Row(op.logits, r), length, tokens, Row(op.values, r), op.tokens.shape[1]);
  });
}

inline void NoteNotFiniteKernel(const NoteNotFiniteOp& op, Run& run) {
  const int64_t length = op.x.shape[1];
  int32_t* found = reinterpret_cast<int32_t*>(op.found.data);
  ForEach(run, op.x.shape[0], length / kWidth, [&](int64_t t) {
    int32_t& at = found[t * op.found.strides[0]];
    if (op.first) at = -1;
    const float maximum = FiniteMaximum(Row(op.x, t), length);
    if (at < 0 && maximum != maximum) at = op.place;
  });
}

/// Σ exp(x − maximum): f32 within blocks of 1024, double across them.
inline double SumExp(const float* row, int64_t length, float maximum) {
  constexpr int64_t kBlock = 1024;
  const Vec shift = Set(maximum);
  double total = 0;
  for (int64_t begin = 0; begin < length; begin += kBlock) {
    const int64_t end = Smaller(length, begin + kBlock);
    Vec sum = Zero();
    int64_t i = begin;
    for (; i + kWidth <= end; i += kWidth) sum = Add(sum, Exp(Sub(Load(row + i), shift)));
    total += static_cast<double>(Sum(sum));
    if (i < end) {
      float lanes[kWidth];
      Store(lanes, Exp(Sub(LoadPartial(row + i, static_cast<int>(end - i)), shift)));
      for (int64_t j = 0; j < end - i; ++j) total += static_cast<double>(lanes[j]);
    }
  }
  return total;
}

inline void NllFoldRow(float* state, const float* row, int64_t length, int64_t target, bool first) {
  const float before = first ? -__builtin_inff() : state[0];
  const float here = FiniteMaximum(row, length);
  if (here != here || before != before) {
    state[0] = state[1] = state[2] = __builtin_nanf("");
    return;
  }
  const double sum_before = first ? 0.0 : static_cast<double>(state[1]);
  if (first) state[2] = 0;
  if (target >= 0 && target < length) state[2] = row[target];
  const float maximum = here > before ? here : before;
  double sum = 0;
  if (maximum != -__builtin_inff()) {
    sum = SumExp(row, length, maximum);
    if (sum_before > 0) sum += sum_before * __builtin_exp(static_cast<double>(before) - static_cast<double>(maximum));
  }
  state[0] = maximum;
  state[1] = static_cast<float>(sum);
}

inline void NllFoldKernel(const NllFoldOp& op, Run& run) {
  const int64_t length = op.logits.shape[1];
  ForEach(run, op.logits.shape[0], length / kWidth * 8, [&](int64_t r) {
    NllFoldRow(Row(op.state, r), Row(op.logits, r), length, Int(op.targets, r) - op.first_column, op.first);
  });
}

}  // namespace zi::ZI_ISA
