// Which state each sequence of a micro-batch goes on with, as the kernels of layers with a state read it.
#pragma once
#include "cuda/fault.h"
#include "ops/operand.h"

namespace zi::cuda {

struct StateRow {
  int64_t first, tokens, slot;
  /// Position of the first token.
  int64_t start;
  /// The sequence has no tokens before these: its state is zeros, whatever the slot holds.
  bool begins;
};

struct StateTable {
  const int32_t *sequences, *slots;
  int64_t sequence_stride, slot_stride;
  int count;
  int64_t tokens, slot_count;
  Fault* fault;

  StateTable(const View& sequence_table, const View& slot_table, int64_t token_count, int64_t states, Fault* faults)
      : sequences(reinterpret_cast<const int32_t*>(sequence_table.data)),
        slots(reinterpret_cast<const int32_t*>(slot_table.data)),
        sequence_stride(sequence_table.strides[0]),
        slot_stride(slot_table.strides[0]),
        count(static_cast<int>(sequence_table.shape[0])),
        tokens(token_count),
        slot_count(states),
        fault(faults) {}

#ifdef __CUDACC__
  /// False, and reported, where the tables cannot be.
  __device__ bool Read(int s, StateRow& row) const {
    const int32_t* from = sequences + s * sequence_stride;
    row = {from[0], from[1], slots[s * slot_stride], int64_t{from[2]} - from[1], from[1] == from[2]};
    if (row.first < 0 || row.tokens < 0 || row.start < 0 || row.first + row.tokens > tokens) {
      Report(fault, kStateTokensOutside, s, row.first + row.tokens, tokens);
      return false;
    }
    if (row.slot >= 0 && row.slot < slot_count) return true;
    Report(fault, kStateOutside, s, row.slot, slot_count);
    return false;
  }
  /// The sequence of a token; false where it is none's, or reported.
  __device__ bool ReadOf(int64_t token, StateRow& row) const {
    const int s = Find(token);
    return s >= 0 && Read(s, row) && token < row.first + row.tokens;
  }
  /// The last sequence that begins at the token or before it; −1 where there is none.
  __device__ int Find(int64_t token) const {
    int low = -1, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (sequences[middle * sequence_stride] <= token ? low : high) = middle;
    }
    return low;
  }
#endif
};

}  // namespace zi::cuda
