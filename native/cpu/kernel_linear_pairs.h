// One token times stored weights as pairs of bf16: codes become pairs in registers, in the order of a dense weight.
#pragma once
#include "cpu/kernel_linear_rows.h"
#include "cpu/kernel_pairs.h"

#ifdef ZI_PAIR_PRODUCTS
namespace zi::ZI_ISA {

static_assert(kPairDepth % (2 * kDepth) == 0);
/// Rows whose sums one tile makes.
constexpr int kPairRows = 2 * kRowTile;

struct PairRows {
  /// The first row's; the others follow `distance` bytes after each other, and `next` is what is needed after this block.
  const uint8_t* codes;
  const uint8_t* next;
  /// The tile below, as far from its beginning as this block is: where rows lie without gaps it is asked for in their order.
  const uint8_t* below;
  int64_t distance;
  PairScales scales[kPairRows];
};

/// sums[r] += the dot product of a row's codes and one token over one block of inputs. kOwn: each register is a group, and rows
/// lie without gaps.
template <class D, bool kOwn>
__attribute__((noinline)) void PairTile(const D& from, const PairRows& rows, const RowGroups& groups, const float* x,
                                        int64_t length, float* sums) {
  // A line of codes lasts for this many registers: some rows are asked for with each.
  constexpr int64_t kSteps = 64 / D::kBytes;
  constexpr int kAhead = kPairRows / kSteps;
  const D decoder = from;
  Vec acc[kPairRows];
#pragma GCC unroll 8
  for (int r = 0; r < kPairRows; ++r) acc[r] = Zero();
  const int64_t step = rows.distance;
  const uint8_t* const codes[2] = {rows.codes, rows.codes + kRowTile * step};
  const auto add = [&](int64_t i, const auto& group_of) __attribute__((always_inline)) {
    const Vec in = Load(x + i * kWidth);
    if constexpr (kOwn) {
      constexpr int64_t kTileBytes = kPairRows * D::kBytes;
#pragma GCC unroll 8
      for (int64_t at = 0; at < kTileBytes; at += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(rows.below + i * kTileBytes + at), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(rows.below + i * kTileBytes + at + kPairRows * step), _MM_HINT_T1);
      }
    } else {
      const uint8_t* next = rows.next + i * D::kBytes + i % kSteps * kAhead * step;
#pragma GCC unroll 8
      for (int r = 0; r < kAhead; ++r) _mm_prefetch(reinterpret_cast<const char*>(next + r * step), _MM_HINT_T0);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kPairRows; ++r) {
      acc[r] = DotPairs(decoder.Pairs(group_of(r), codes[r / kRowTile] + i * D::kBytes + r % kRowTile * step), in, acc[r]);
    }
  };
  const int64_t each = groups.each / kPairInputs, last = length / kPairInputs;
  if constexpr (kOwn) {
    for (int64_t i = 0; i < last; ++i) add(i, [&](int r) __attribute__((always_inline)) { return decoder.At(rows.scales[r], i); });
  } else {
    int64_t end = Smaller(groups.first_end, length) / kPairInputs;
    for (int64_t i = 0, g = 0; i < last; ++g) {
      typename D::Group group[kPairRows];
#pragma GCC unroll 8
      for (int r = 0; r < kPairRows; ++r) group[r] = decoder.At(rows.scales[r], g);
      for (; i < end; ++i) add(i, [&](int r) __attribute__((always_inline)) { return group[r]; });
      end = each < last - i ? i + each : last;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kPairRows; r += kRowTile) {
    const __m128 add = Sums4(acc[r], acc[r + 1], acc[r + 2], acc[r + 3]);
    _mm_storeu_ps(sums + r, _mm_add_ps(_mm_loadu_ps(sums + r), add));
  }
}

/// The rows of a panel times one token. `other(row, k, block)` adds up what the decoder cannot take: a few rows over one block.
template <class D, class F>
inline void OneTokenPairs(const Weight& w, const D& decoder, const PackedInputs& x, const Panel& task, float* sums, F other) {
  const int64_t end = Smaller(task.row + task.rows, w.outputs);
  PairRows rows;
  const bool flat = w.format == WeightFormat::kTable4;
  const auto scale_row = [&](int64_t row) { return (row + w.first_row) / w.row_group; };
  for (int64_t row = task.row; row < end; row += kPairRows) {
    for (int64_t k = 0, block = 0; k < w.inputs; k += kPairDepth, ++block) {
      const int64_t length = Smaller(kPairDepth, w.inputs - k);
      const bool below = k + kPairDepth >= w.inputs;
      rows.codes = RowCodes(w, row, k);
      rows.next = below ? RowCodes(w, row + kPairRows, 0) : RowCodes(w, row, k + kPairDepth);
      rows.distance = RowCodes(w, row + 1, k) - rows.codes;
      const uint8_t* start = RowCodes(w, row, 0);
      rows.below = start + kPairRows * (rows.distance + (rows.codes - start));
      // Two such tiles stay in the nearest cache.
      const bool in_order = RowCodes(w, row, w.inputs) - start == rows.distance && kPairRows * rows.distance <= 24 << 10;
      const RowGroups groups = FindPairGroups(w, row, k, length);
      bool all = row + kPairRows <= end;
      for (int r = 0; all && r < kPairRows; ++r) {
        if (w.row_group > 1 && r > 0 && scale_row(row + r) == scale_row(row + r - 1)) {
          rows.scales[r] = rows.scales[r - 1];
        } else {
          all = decoder.Load(w, row + r, flat ? FindPairGroups(w, row + r, k, length) : groups, rows.scales[r]);
        }
        all = all && decoder.Takes(rows.codes + r * rows.distance, length);
      }
      if (!all) {
        other(row, k, block);
      } else {
        const bool own = in_order && groups.each == kPairInputs && groups.first_end == kPairInputs;
        const auto tile = own ? PairTile<D, true> : PairTile<D, false>;
        tile(decoder, rows, groups, x.At(block, 0), length, sums + (row - task.row));
      }
    }
  }
}

}  // namespace zi::ZI_ISA
#endif
