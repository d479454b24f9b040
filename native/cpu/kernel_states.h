// Which state each sequence of a micro-batch goes on with: tables that are checked before any state is touched.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

struct StateRow {
  int64_t first, tokens, slot;
  /// Position of the first token.
  int64_t start;
  /// The sequence has no tokens before these: its state is zeros, whatever the slot holds.
  bool begins;
};

inline StateRow ReadState(const View& sequences, const View& slots, int64_t s) {
  const int32_t* row = reinterpret_cast<const int32_t*>(sequences.data) + s * sequences.strides[0];
  return {row[0], row[1], Int(slots, s), row[2] - row[1], row[1] == row[2]};
}

/// The last sequence that begins at the token or before it; −1 where there is none.
inline int64_t SequenceOf(const View& sequences, int64_t token) {
  int64_t low = -1, high = sequences.shape[0];
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    const int32_t first = reinterpret_cast<const int32_t*>(sequences.data)[middle * sequences.strides[0]];
    (first <= token ? low : high) = middle;
  }
  return low;
}

inline void CheckStateTables(const View& sequences, const View& slots, int64_t tokens, int64_t slot_count) {
  for (int64_t s = 0; s < sequences.shape[0]; ++s) {
    const StateRow row = ReadState(sequences, slots, s);
    if (row.first < 0 || row.tokens < 0 || row.first + row.tokens > tokens) {
      FailOp("sequence %ld: tokens %ld … +%ld are outside the %ld of the batch", s, row.first, row.tokens, tokens);
    }
    if (row.start < 0) FailOp("sequence %ld: a context of %ld tokens has no %ld of them", s, row.start + row.tokens, row.tokens);
    if (row.slot < 0 || row.slot >= slot_count) {
      FailOp("sequence %ld: state %ld is outside the %ld states", s, row.slot, slot_count);
    }
  }
}

}  // namespace zi::ZI_ISA
