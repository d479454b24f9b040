// Which state each sequence of a micro-batch goes on with: tables that are checked before any state is touched.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

struct StateRow {
  int64_t first, tokens, slot;
  /// The sequence has no tokens before these: its state is zeros, whatever the slot holds.
  bool begins;
};

inline StateRow ReadState(const View& sequences, const View& slots, int64_t s) {
  const int32_t* row = reinterpret_cast<const int32_t*>(sequences.data) + s * sequences.strides[0];
  return {row[0], row[1], Int(slots, s), row[1] == row[2]};
}

inline void CheckStateTables(const View& sequences, const View& slots, int64_t tokens, int64_t slot_count) {
  for (int64_t s = 0; s < sequences.shape[0]; ++s) {
    const StateRow row = ReadState(sequences, slots, s);
    if (row.first < 0 || row.tokens < 0 || row.first + row.tokens > tokens) {
      FailOp("sequence %ld: tokens %ld … +%ld are outside the %ld of the batch", s, row.first, row.tokens, tokens);
    }
    if (row.slot < 0 || row.slot >= slot_count) {
      FailOp("sequence %ld: state %ld is outside the %ld states", s, row.slot, slot_count);
    }
  }
}

}  // namespace zi::ZI_ISA
