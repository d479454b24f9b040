// window_attention: a task is a token with some of its heads; keys of a token are counted from the first that it sees, so that
// its result does not depend on where a prompt is cut.
#pragma once
#include "cpu/kernel_attention_tiles.h"
#include "cpu/kernel_states.h"

namespace zi::ZI_ISA {

/// Heads that share a transposed block of keys.
constexpr int64_t kWindowHeads = 16;

/// What one token sees: so many positions of the window, then entries.
struct WindowKeys {
  const WindowAttentionOp& op;
  StateRow row;
  int64_t position, first, in_window, count;

  WindowKeys(const WindowAttentionOp& attention, const StateRow& sequence, int64_t token) : op(attention), row(sequence) {
    position = row.start + token - row.first;
    first = Larger(0, position - op.window.shape[1] + 1);
    in_window = position + 1 - first;
    count = in_window;
    if (!op.entries.data) return;
    const int64_t entries = (position + 1) / op.ratio;
    if (entries > op.entries.shape[1]) FailOp("%ld entries are seen, of which a state has %ld", entries, op.entries.shape[1]);
    count += entries;
  }
  const float* Key(int64_t i) const {
    if (i >= in_window) {
      return reinterpret_cast<const float*>(op.entries.data) + row.slot * op.entries.strides[0] +
             (i - in_window) * op.entries.strides[1];
    }
    const int64_t at = first + i;
    if (at >= row.start) return Row(op.k, row.first + at - row.start);
    return reinterpret_cast<const float*>(op.window.data) + row.slot * op.window.strides[0] +
           at % op.window.shape[1] * op.window.strides[1];
  }
};

/// Scores [blocks][heads][kKeyBlock] of one head become its probabilities. @returns what they are divided by
inline float WindowSoftmax(const WindowAttentionOp& op, int64_t head, int64_t count, float* scores, int64_t block_floats) {
  const Vec lowest = Set(-__builtin_inff());
  float sink = -__builtin_inff();
  if (op.sinks.data) {
    WithType(op.sinks.dtype, [&]<class W>(W) {
      float lanes[kWidth];
      Store(lanes, LoadUpTo<W>(op.sinks.data + head * W::kBytes, 1));
      sink = lanes[0];
    });
  }
  Vec largest = Set(sink), total = Zero();
  const auto each = [&](auto f) {
    for (int64_t i = 0; i < count; i += kWidth) f(scores + i / kKeyBlock * block_floats + i % kKeyBlock, count - i);
  };
  // Lanes beyond the keys do not count.
  each([&](float* at, int64_t n) {
    Vec score = Mul(Load(at), Set(op.scale));
    if (n < kWidth) score = SelectLess(Iota(), Set(static_cast<float>(n)), score, lowest);
    Store(at, score);
    largest = Max(score, largest);
  });
  const float maximum = MaxLane(largest);
  each([&](float* at, int64_t) {
    const Vec p = Exp(Sub(Load(at), Set(maximum)));
    Store(at, p);
    total = Add(total, p);
  });
  float lanes[kWidth];
  Store(lanes, Exp(Set(sink - maximum)));
  return Sum(total) + (op.sinks.data ? lanes[0] : 0.0f);
}

inline void AttendToken(const WindowKeys& keys, int64_t token, int64_t first_head, int64_t heads) {
  const WindowAttentionOp& op = keys.op;
  const int64_t depth = op.q.shape[2], padded = RoundUp(depth, kWidth), block_floats = heads * kKeyBlock;
  const int64_t blocks = (keys.count + kKeyBlock - 1) / kKeyBlock;
  const size_t floats = static_cast<size_t>(padded * kKeyBlock + blocks * block_floats + (heads + 1) * padded);
  float* turned = static_cast<float*>(Scratch(ScratchUse::kTile, floats * sizeof(float)));
  float *scores = turned + padded * kKeyBlock, *sums = scores + blocks * block_floats, *zeros = sums + heads * padded;
  std::memset(sums, 0, static_cast<size_t>((heads + 1) * padded) * sizeof(float));
  const auto rows_of = [&](int64_t block, const float* (&rows)[kKeyBlock]) {
    const int64_t first = block * kKeyBlock, n = Smaller(kKeyBlock, keys.count - first);
    for (int64_t j = 0; j < kKeyBlock; ++j) rows[j] = j < n ? keys.Key(first + j) : zeros;
    return static_cast<int>(n);
  };
  const float* rows[kKeyBlock];
  for (int64_t block = 0; block < blocks; ++block) {
    rows_of(block, rows);
    TransposeKeys(rows, depth, turned);
    for (int64_t head = 0; head < heads; head += kTokenTile) {
      const float* q[kTokenTile];
      for (int c = 0; c < kTokenTile; ++c) q[c] = Row(op.q, token, first_head + Smaller(head + c, heads - 1));
      ScoreRows(heads - head, q, turned, depth, scores + block * block_floats + head * kKeyBlock);
    }
  }
  float totals[kWindowHeads];
  for (int64_t head = 0; head < heads; ++head) {
    totals[head] = WindowSoftmax(op, first_head + head, keys.count, scores + head * kKeyBlock, block_floats);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const int n = rows_of(block, rows);
    for (int64_t head = 0; head < heads; head += kTokenTile) {
      WeighRows(heads - head, scores + block * block_floats + head * kKeyBlock, rows, 0, n, depth, sums + head * padded, padded);
    }
  }
  for (int64_t head = 0; head < heads; ++head) {
    float* out = Row(op.out, token, first_head + head);
    const Vec total = Set(totals[head]);
    for (int64_t d = 0; d < depth; d += kWidth) StoreUpTo(out + d, Div(Load(sums + head * padded + d), total), depth - d);
  }
}

inline void WindowAttentionKernel(const WindowAttentionOp& op, Run& run) {
  const int64_t tokens = op.q.shape[0], heads = op.q.shape[1], depth = op.q.shape[2], window = op.window.shape[1];
  CheckStateTables(op.sequences, op.slots, tokens, op.window.shape[0]);
  const int64_t groups = (heads + kWindowHeads - 1) / kWindowHeads;
  ForEach(run, tokens * groups, window * depth, [&](int64_t task) {
    const int64_t token = task / groups, first_head = task % groups * kWindowHeads;
    const int64_t s = SequenceOf(op.sequences, token);
    if (s < 0) return;
    const StateRow row = ReadState(op.sequences, op.slots, s);
    if (token >= row.first + row.tokens) return;
    AttendToken(WindowKeys(op, row, token), token, first_head, Smaller(kWindowHeads, heads - first_head));
  });
  // Only now does nobody read what was kept before.
  ForEach(run, op.sequences.shape[0], window * depth / kWidth, [&](int64_t s) {
    const StateRow row = ReadState(op.sequences, op.slots, s);
    float* slot = reinterpret_cast<float*>(op.window.data) + row.slot * op.window.strides[0];
    for (int64_t t = Larger(0, row.tokens - window); t < row.tokens; ++t) {
      std::memcpy(slot + (row.start + t) % window * op.window.strides[1], Row(op.k, row.first + t),
                  static_cast<size_t>(depth) * sizeof(float));
    }
  });
}

}  // namespace zi::ZI_ISA
