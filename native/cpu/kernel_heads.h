// head_linear: a product per head with its own rows of one weight, or with their transpose. Blocks of the weight are expanded
// once and meet all tokens; an element's additions have an order that depends on nothing but the weight's shape.
#pragma once
#include "cpu/kernel_turned_rows.h"

namespace zi::ZI_ISA {

/// Rows of a weight that are expanded together.
constexpr int64_t kHeadRows = 16;
/// Tokens whose sums are kept at once.
constexpr int64_t kHeadTokens = 64;

/// Expands rows [row, row + count) over inputs [k, k + length) to rows of kPitch floats; returns where the first one lies.
inline float* ExpandHeadRows(const Weight& w, int64_t row, int64_t count, int64_t k, int64_t length, float* to, float* scratch) {
  if (w.format == WeightFormat::kDense) {
    const View& values = w.Part(WeightPart::kCodes);
    WithType(values.dtype, [&]<class W>(W) {
      for (int64_t r = 0; r < count; ++r) {
        const uint8_t* from = values.data + ((row + r) * values.strides[0] + k) * W::kBytes;
        for (int64_t i = 0; i < length; i += kWidth) Store(to + r * kPitch + i, LoadUpTo<W>(from + i * W::kBytes, length - i));
      }
    });
    return to;
  }
  if (CanBeTurned(w)) {
    // From a multiple of eight rows on.
    const int64_t skipped = row % 8;
    auto* words = reinterpret_cast<uint8_t*>(scratch + RoundUp(Expander<F32>::Floats(w), kWidth));
    const Weight turned = TurnedRows(w, row - skipped, skipped + count, words);
    return ExpandHeadRows(turned, skipped, count, k, length, to, scratch);
  }
  if (!ByColumns(w)) {
    // In the order of inputs, which linear's tiles need not have.
    const GroupBuffers buffers(w, kDepth, scratch);
    RowGroups groups = FindRowGroups(w, k, length);
    for (int64_t r = 0; r < count; ++r) {
      if (w.format == WeightFormat::kTable4) groups = FindRowGroups(w, (row + r + w.first_row) * w.inputs + k, length);
      ExpandRow(w, row + r, k, length, 0, groups, buffers, to + r * kPitch);
    }
    return to;
  }
  // Columns are expanded from a multiple of eight on.
  const int64_t skipped = row % 8;
  Ahead none{nullptr, 0, 0, 0};
  Expander<F32>(w, scratch).Expand(row - skipped, skipped + count, k, to, none);
  return to + skipped * kPitch;
}

/// Scratch: expanded rows, with room for those before and behind, and what expanding and turning take.
inline int64_t HeadTileFloats(const Weight& w) {
  const int64_t turned = CanBeTurned(w) ? TurnedBytes(w, kHeadRows + 8).all() / 4 : 0;
  return (RoundUp(kHeadRows + 8, kWidth) + kWidth) * kPitch + turned +
         (w.format == WeightFormat::kDense ? 0 : RoundUp(Expander<F32>::Floats(w), kWidth));
}

/// out[t, head, n] = Σₖ x[t, head, k] · W[first + n, k] for n in [begin, begin + rows).
inline void HeadRows(const HeadLinearOp& op, int64_t head, int64_t begin, int64_t rows) {
  const Weight& w = op.weight;
  const int64_t tile_floats = HeadTileFloats(w), tokens = op.x.shape[0];
  float* tile = static_cast<float*>(
      Scratch(ScratchUse::kTile, static_cast<size_t>(tile_floats + kHeadTokens * kHeadRows + kPitch) * sizeof(float)));
  float* scratch = tile + (RoundUp(kHeadRows + 8, kWidth) + kWidth) * kPitch;
  float *sums = tile + tile_floats, *padded = sums + kHeadTokens * kHeadRows;
  const int64_t first = head * op.head_rows + op.first_row + begin;
  for (int64_t t0 = 0; t0 < tokens; t0 += kHeadTokens) {
    const int64_t count = Smaller(kHeadTokens, tokens - t0);
    std::memset(sums, 0, static_cast<size_t>(count * kHeadRows) * sizeof(float));
    for (int64_t k = 0; k < w.inputs; k += kDepth) {
      const int64_t length = Smaller(kDepth, w.inputs - k), whole = RoundUp(length, kWidth);
      const float* values = ExpandHeadRows(w, first, rows, k, length, tile, scratch);
      for (int64_t t = 0; t < count; ++t) {
        const float* x = Row(op.x, t0 + t, head) + k;
        for (int64_t i = 0; i < whole; i += kWidth) Store(padded + i, LoadUpTo(x + i, length - i));
        for (int64_t r = 0; r < rows; ++r) {
          Vec sum = Zero();
          for (int64_t i = 0; i < whole; i += kWidth) sum = Fma(Load(values + r * kPitch + i), Load(padded + i), sum);
          sums[t * kHeadRows + r] += Sum(sum);
        }
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      std::memcpy(Row(op.out, t0 + t, head) + begin, sums + t * kHeadRows, static_cast<size_t>(rows) * sizeof(float));
    }
  }
}

/// out[t, head, k] = Σₙ x[t, head, n] · W[first + n, k] for k in [begin, begin + length).
inline void HeadColumns(const HeadLinearOp& op, int64_t head, int64_t begin, int64_t length) {
  const Weight& w = op.weight;
  const int64_t tile_floats = HeadTileFloats(w), tokens = op.x.shape[0], rows = op.x.shape[2];
  float* tile = static_cast<float*>(
      Scratch(ScratchUse::kTile, static_cast<size_t>(tile_floats + kHeadTokens * kPitch) * sizeof(float)));
  float* scratch = tile + (RoundUp(kHeadRows + 8, kWidth) + kWidth) * kPitch;
  float* sums = tile + tile_floats;
  const int64_t first = head * op.head_rows + op.first_row;
  for (int64_t t0 = 0; t0 < tokens; t0 += kHeadTokens) {
    const int64_t count = Smaller(kHeadTokens, tokens - t0);
    std::memset(sums, 0, static_cast<size_t>(count * kPitch) * sizeof(float));
    for (int64_t row = 0; row < rows; row += kHeadRows) {
      const int64_t step = Smaller(kHeadRows, rows - row);
      const float* values = ExpandHeadRows(w, first + row, step, begin, length, tile, scratch);
      for (int64_t t = 0; t < count; ++t) {
        const float* x = Row(op.x, t0 + t, head) + row;
        float* to = sums + t * kPitch;
        for (int64_t i = 0; i < length; i += kWidth) {
          Vec sum = Load(to + i);
          for (int64_t r = 0; r < step; ++r) sum = Fma(Set(x[r]), Load(values + r * kPitch + i), sum);
          Store(to + i, sum);
        }
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      std::memcpy(Row(op.out, t0 + t, head) + begin, sums + t * kPitch, static_cast<size_t>(length) * sizeof(float));
    }
  }
}

inline void HeadLinearKernel(const HeadLinearOp& op, Run& run) {
  if (!op.weight.dense()) CheckGroups(op.weight);
  const int64_t tokens = op.x.shape[0], heads = op.x.shape[1];
  if (tokens == 0) return;
  const int64_t each = op.transposed ? kDepth : kHeadRows, all = op.out.shape[2], parts = (all + each - 1) / each;
  const int64_t work = op.x.shape[2] * Smaller(each, all) / kWidth * (tokens + 1);
  ForEach(run, heads * parts, work, [&](int64_t task) {
    const int64_t begin = task % parts * each, count = Smaller(each, all - begin);
    op.transposed ? HeadColumns(op, task / parts, begin, count) : HeadRows(op, task / parts, begin, count);
  });
}

}  // namespace zi::ZI_ISA
