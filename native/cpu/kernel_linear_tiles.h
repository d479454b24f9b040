// The register tile of linear's dot products and the packed inputs that it reads.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

#ifndef ZI_DEPTH_VECTORS
#define ZI_DEPTH_VECTORS 64
#endif
/// Inputs per block: rows of this many floats keep a 4-row weight tile and a few tokens in the L1 cache.
constexpr int64_t kDepth = ZI_DEPTH_VECTORS * kWidth;
/// Distance of packed rows: one vector more than a block, so that loads of several rows at the same place in a block
/// fall into different banks and sets of the L1 cache.
constexpr int64_t kPitch = kDepth + kWidth;
/// Weight rows whose sums are reduced together.
constexpr int kRowTile = 4;

/// x[T, K] as [blocks of K][T][kPitch lanes], rows zero-padded to whole vectors: tiles read it in order and need no tail.
struct PackedInputs {
  float* data;
  int64_t tokens;
  const float* At(int64_t block, int64_t token) const { return data + (block * tokens + token) * kPitch; }
};

/// A token's inputs, and in which order tiles want them (ReorderBlocks or ReorderPairs; 0: as they are).
struct InputRow {
  const float* data;
  int64_t inputs, order_block;
};

/// Its inputs [from, to) as part of row t; both multiples of kDepth lanes, or the row's end.
template <class W>
inline void PackRow(const InputRow& row, const PackedInputs& packed, int64_t t, int64_t from, int64_t to) {
  constexpr int64_t kStep = kWidth * W::kInputs;
  const auto at = [&](int64_t lane) { return const_cast<float*>(packed.At(lane / kDepth, t)) + lane % kDepth; };
  for (int64_t i = from; i < to; i += kStep) Store(at(i / W::kInputs), W::TakeInputs(row.data + i, row.inputs - i));
  if (row.order_block == 0) return;
  const int64_t lanes = to / W::kInputs;
  for (int64_t lane = from / W::kInputs; lane < lanes; lane += kDepth) {
    const int64_t length = Smaller(kDepth, lanes - lane);
    W::kInputs > 1 ? ReorderPairs(at(lane), length) : ReorderBlocks(at(lane), length, row.order_block);
  }
}

template <class W>
inline PackedInputs PackInputs(const View& x, int64_t first, int64_t tokens, int64_t order_block, Run& run) {
  const int64_t inputs = x.shape[1], blocks = (inputs / W::kInputs + kDepth - 1) / kDepth;
  const size_t size = static_cast<size_t>(blocks * tokens * kPitch) * sizeof(float);
  PackedInputs packed{static_cast<float*>(Scratch(ScratchUse::kOperation, size)), tokens};
  ForEach(run, tokens, inputs / kWidth, [&](int64_t t) {
    PackRow<W>({Row(x, first + t), inputs, order_block}, packed, t, 0, inputs);
  });
  return packed;
}

/// sums[c · sums_stride + r] += dot(weight row r, token c) over one block, for 4·G rows and C tokens.
/// Tokens are kPitch apart. `length` inputs of type W are read from each row. The lines at the same places behind the first
/// kAhead of `next` (weights needed after this block) are on their way when the tile is done.
template <class W, int G, int C, int kAhead>
__attribute__((noinline)) void DotTile(const uint8_t* const* rows, const uint8_t* const* next, const float* x, int64_t length, float* sums,
                    int64_t sums_stride) {
  constexpr int R = kRowTile * G;
  Vec acc[R][C];
  // Unrolled by pragma so that every accumulator is a register from beginning to end.
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = Zero();
  }
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    Vec in[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) in[c] = Load(x + c * kPitch + k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec w = W::LoadFull(rows[r] + k * W::kBytes);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = W::MultiplyAdd(w, in[c], acc[r][c]);
    }
  };
  constexpr int64_t kLine = 64 / W::kBytes;  // inputs per cache line of a row
  int64_t k = 0;
  for (; k + kLine <= length; k += kLine) {
    if constexpr (kAhead > 0) {
#pragma GCC unroll 8
      for (int r = 0; r < kAhead; ++r) _mm_prefetch(reinterpret_cast<const char*>(next[r] + k * W::kBytes), _MM_HINT_T0);
    }
#pragma GCC unroll 4
    for (int64_t i = 0; i < kLine; i += kWidth) step(k + i);
  }
  for (; k + kWidth <= length; k += kWidth) step(k);
  if (k < length) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec w = W::LoadFirst(rows[r] + k * W::kBytes, static_cast<int>(length - k));
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = W::MultiplyAdd(w, Load(x + c * kPitch + k), acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      float* sum = sums + c * sums_stride + g * kRowTile;
      const __m128 add = Sums4(acc[g * 4][c], acc[g * 4 + 1][c], acc[g * 4 + 2][c], acc[g * 4 + 3][c]);
      _mm_storeu_ps(sum, _mm_add_ps(_mm_loadu_ps(sum), add));
    }
  }
}

/// Tokens of the next tile when `left` remain: two middling tiles rather than a full one and a sliver.
inline int64_t TileTokens(int64_t left, int64_t most = kTokenTile) {
  return left > most && left < 2 * most ? (left + 1) / 2 : Smaller(left, most);
}

/// DotTile for up to C tokens.
template <class W, int kAhead, int G = 1, int C = kTokenTile / G>
inline void DotTokens(int64_t tokens, const uint8_t* const* rows, const uint8_t* const* next, const float* x,
                      int64_t length, float* sums, int64_t sums_stride) {
  if (tokens >= C) {
    DotTile<W, G, C, kAhead>(rows, next, x, length, sums, sums_stride);
  } else if constexpr (C > 1) {
    DotTokens<W, kAhead, G, C - 1>(tokens, rows, next, x, length, sums, sums_stride);
  }
}

}  // namespace zi::ZI_ISA
