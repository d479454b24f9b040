// sample: one token per row of logits, drawn with the row's own settings and random bits.
#pragma once
#include "cpu/draw.h"
#include "cpu/kernel_reduce.h"

namespace zi::ZI_ISA {

/// Columns of `settings` and of `draws`.
enum { kTemperature, kTopP, kMinP, kPenalty };
enum { kTopK, kRandomBits, kHistoryBegin, kHistoryCount };

inline const int32_t* DrawOf(const SampleOp& op, int64_t r) {
  return reinterpret_cast<const int32_t*>(op.draws.data) + r * op.draws.strides[0];
}

/// The first entry of what is added to a row's logits, and how many there are.
inline const int32_t* AddedOf(const SampleOp& op, int64_t r) {
  return reinterpret_cast<const int32_t*>(op.added_of.data) + r * op.added_of.strides[0];
}

/// The tables are data: checked before any row is touched.
inline void CheckDraws(const SampleOp& op) {
  const int64_t entries = op.history.shape[0], vocabulary = op.logits.shape[1];
  for (int64_t r = 0; r < op.draws.shape[0]; ++r) {
    const int64_t begin = DrawOf(op, r)[kHistoryBegin], count = DrawOf(op, r)[kHistoryCount];
    if (begin < 0 || count < 0 || begin + count > entries) {
      FailOp("history of row %ld reaches from %ld to %ld, but there are %ld entries", r, begin, begin + count, entries);
    }
  }
  for (int64_t i = 0; i < entries; ++i) {
    const int32_t token = Int(op.history, i);
    if (token < 0 || token >= vocabulary) {
      FailOp("token %d at %ld of the history is none of %ld", token, i, vocabulary);
    }
  }
  for (int64_t i = 0; op.added_of.data && i < op.added_tokens.shape[0]; ++i) {
    const int32_t token = Int(op.added_tokens, i);
    if (token < 0 || token >= vocabulary) FailOp("token %d, entry %ld of what is added to, is none of %ld", token, i, vocabulary);
  }
  for (int64_t r = 0; op.added_of.data && r < op.added_of.shape[0]; ++r) {
    const int64_t begin = AddedOf(op, r)[0], count = AddedOf(op, r)[1], all = op.added_tokens.shape[0];
    if (begin < 0 || count < 0 || begin + count > all) {
      FailOp("what is added to row %ld reaches from %ld to %ld, but there are %ld entries", r, begin, begin + count, all);
    }
  }
  for (int64_t r = 0; op.masks.data && r < op.mask_of.shape[0]; ++r) {
    if (Int(op.mask_of, r) >= op.masks.shape[0]) {
      FailOp("row %ld has mask %d, but there are %ld masks", r, Int(op.mask_of, r), op.masks.shape[0]);
    }
  }
}

/// Takes what may not be drawn away from a row's logits, if the row has a mask.
inline void MaskLogits(const SampleOp& op, int64_t r, float* logits) {
  const int64_t mask = op.masks.data ? Int(op.mask_of, r) : -1, length = op.logits.shape[1];
  if (mask < 0) return;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(op.masks.data) + mask * op.masks.strides[0];
  for (int64_t first = 0; first < length; first += 32) {
    const uint32_t word = words[first / 32];
    if (word == ~0u) continue;
    const int64_t tokens = Smaller(length - first, 32);
    for (int64_t j = 0; j < tokens; ++j) logits[first + j] = word >> j & 1 ? logits[first + j] : -__builtin_inff();
  }
}

/// The row's logits, those of the history moved away from being chosen, others changed as is said, and none but those that may be. False when one of the row is no finite number.
inline bool PenalizedLogits(const SampleOp& op, int64_t r, float* to) {
  const int64_t length = op.logits.shape[1];
  const float* from = Row(op.logits, r);
  Vec nothing = Zero();
  for (int64_t i = 0; i < length; i += kWidth) {
    const Vec value = LoadUpTo(from + i, length - i);
    nothing = Fma(value, Zero(), nothing);
    StoreUpTo(to + i, value, length - i);
  }
  const float zero = Sum(nothing), penalty = Row(op.settings, r)[kPenalty];
  if (zero != zero) return false;
  const int32_t* draw = DrawOf(op, r);
  for (int64_t i = 0; penalty != 1 && i < draw[kHistoryCount]; ++i) {
    const int32_t token = Int(op.history, draw[kHistoryBegin] + i);
    // From the original, so that a token that occurs twice is penalized once.
    const float logit = from[token];
    to[token] = logit > 0 ? logit / penalty : logit * penalty;
  }
  const float* values = reinterpret_cast<const float*>(op.added_values.data);
  for (int64_t i = 0; values && i < AddedOf(op, r)[1]; ++i) {
    const int64_t entry = AddedOf(op, r)[0] + i;
    to[Int(op.added_tokens, entry)] += values[entry];
  }
  MaskLogits(op, r, to);
  return true;
}

/// exp((logit − maximum) / temperature): the largest is 1.
inline void DrawWeights(const float* logits, int64_t length, float maximum, float temperature, float* to) {
  const Vec shift = Set(maximum), divisor = Set(temperature);
  for (int64_t i = 0; i < length; i += kWidth) {
    const Vec scaled = Div(Sub(LoadUpTo(logits + i, length - i), shift), divisor);
    StoreUpTo(to + i, Exp(scaled), length - i);
  }
  if (maximum == __builtin_inff()) {
    for (int64_t i = 0; i < length; ++i) to[i] = logits[i] == maximum ? 1 : 0;
  }
}

inline int32_t SampleRow(const SampleOp& op, int64_t r) {
  const int64_t length = op.logits.shape[1], padded = RoundUp(length, 16);
  const size_t size = static_cast<size_t>(padded) * (2 * sizeof(float) + sizeof(uint64_t));
  float* logits = static_cast<float*>(Scratch(ScratchUse::kTile, size));
  float* weights = logits + padded;
  uint64_t* keys = reinterpret_cast<uint64_t*>(weights + padded);
  if (!PenalizedLogits(op, r, logits)) return kNoToken;
  const float* settings = Row(op.settings, r);
  const float maximum = RowMaximum(logits, length);
  if (settings[kTemperature] == 0 || maximum == -__builtin_inff()) return ColumnOf(logits, length, maximum);
  DrawWeights(logits, length, maximum, settings[kTemperature], weights);
  const int32_t* draw = DrawOf(op, r);
  const DrawSettings chosen{draw[kTopK], settings[kTopP], settings[kMinP], static_cast<uint32_t>(draw[kRandomBits])};
  return DrawToken(logits, weights, length, chosen, keys);
}

inline void SampleKernel(const SampleOp& op, Run& run) {
  CheckDraws(op);
  ForEach(run, op.logits.shape[0], op.logits.shape[1], [&](int64_t r) {
    reinterpret_cast<int32_t*>(op.out.data)[r * op.out.strides[0]] = SampleRow(op, r);
  });
}

}  // namespace zi::ZI_ISA
