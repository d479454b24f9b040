// causal_conv: channels side by side in vectors, each sequence's tokens in order; a task has its channels to the end, state
// included. Taps are summed from the oldest to the latest, so that a token's result does not depend on where work is cut.
#pragma once
#include "cpu/kernel_math.h"
#include "cpu/kernel_states.h"

namespace zi::ZI_ISA {

/// Neighbouring channels of one group that a task convolves.
constexpr int64_t kConvChannels = 4 * kWidth;

/// `width` rows of kConvChannels: what channels from `first` on are multiplied with, tap by tap, then their bias.
inline void LoadTaps(const CausalConvOp& op, int64_t first, int64_t count, float* taps) {
  const int64_t width = op.weight.shape[1];
  std::memset(taps, 0, static_cast<size_t>((width + 1) * kConvChannels) * sizeof(float));
  WithType(op.weight.dtype, [&]<class W>(W) {
    for (int64_t c = 0; c < count; ++c) {
      const uint8_t* row = op.weight.data + (first + c) * op.weight.strides[0] * W::kBytes;
      for (int64_t j = 0; j < width; j += kWidth) {
        float lanes[kWidth];
        const int64_t n = Smaller(kWidth, width - j);
        Store(lanes, LoadUpTo<W>(row + j * W::kBytes, n));
        for (int64_t i = 0; i < n; ++i) taps[(j + i) * kConvChannels + c] = lanes[i];
      }
    }
  });
  if (!op.bias.data) return;
  WithType(op.bias.dtype, [&]<class B>(B) {
    for (int64_t c = 0; c < count; c += kWidth) {
      StoreUpTo(taps + width * kConvChannels + c, LoadUpTo<B>(op.bias.data + (first + c) * B::kBytes, count - c), count - c);
    }
  });
}

/// One sequence's tokens on `count` channels of `group`, of which the first is `column`; `channel` among all.
inline void ConvolveSequence(const CausalConvOp& op, const StateRow& row, int64_t group, int64_t column, int64_t count,
                             const float* taps, const float* zeros) {
  const int64_t width = op.weight.shape[1], before = width - 1;
  const int64_t channel = group * op.x.shape[2] + column;
  float* state = reinterpret_cast<float*>(op.state.data) + row.slot * op.state.strides[0] + channel;
  /// The input of the sequence's token `t`, counted from its first one here: negative ones are in the state.
  const auto input = [&](int64_t t) -> const float* {
    if (t >= 0) return Row(op.x, row.first + t, group) + column;
    return row.begins ? zeros : state + (before + t) * op.state.strides[1];
  };
  for (int64_t t = 0; t < row.tokens; ++t) {
    float* out = Row(op.out, row.first + t, group) + column;
    for (int64_t c = 0; c < count; c += kWidth) {
      const int64_t n = count - c;
      Vec sum = Load(taps + width * kConvChannels + c);
      for (int64_t j = 0; j < width; ++j) sum = Fma(LoadUpTo(input(t - before + j) + c, n), Load(taps + j * kConvChannels + c), sum);
      StoreUpTo(out + c, Activate(op.activation, sum), n);
    }
  }
  // Later rows of the state are read before they are written.
  for (int64_t j = 0; j < before && row.tokens > 0; ++j) {
    const float* from = input(row.tokens - before + j);
    float* to = state + j * op.state.strides[1];
    if (from != to) std::memmove(to, from, static_cast<size_t>(count) * sizeof(float));
  }
}

inline void CausalConvKernel(const CausalConvOp& op, Run& run) {
  const int64_t groups = op.x.shape[1], length = op.x.shape[2], sequences = op.sequences.shape[0];
  CheckStateTables(op.sequences, op.slots, op.x.shape[0], op.state.shape[0]);
  if (length == 0) return;
  const int64_t width = op.weight.shape[1], blocks = (length + kConvChannels - 1) / kConvChannels;
  ForEach(run, groups * blocks, op.x.shape[0] * 4 * (width + 4) + kConvChannels * width, [&](int64_t task) {
    const int64_t group = task / blocks, column = task % blocks * kConvChannels;
    const int64_t count = Smaller(kConvChannels, length - column);
    float* taps = static_cast<float*>(
        Scratch(ScratchUse::kTile, static_cast<size_t>((width + 2) * kConvChannels) * sizeof(float)));
    float* zeros = taps + (width + 1) * kConvChannels;
    std::memset(zeros, 0, static_cast<size_t>(kConvChannels) * sizeof(float));
    LoadTaps(op, group * length + column, count, taps);
    for (int64_t s = 0; s < sequences; ++s) {
      ConvolveSequence(op, ReadState(op.sequences, op.slots, s), group, column, count, taps, zeros);
    }
  });
}

}  // namespace zi::ZI_ISA
