// One token times stored weights in f32: values are made in registers and never stored, in the order of a dense weight.
//
// A decoder takes a row's scales over a block of inputs (`Load`, false where another way must be taken), makes of a group what
// values are made of (`At`), and kWidth codes to values with it (`Values`).
#pragma once
#include <type_traits>

#include "cpu/kernel_expand.h"

namespace zi::ZI_ISA {

/// Rows whose sums one tile makes: as many as registers allow.
constexpr int kFloatRows = kWidth == 16 ? 2 * kRowTile : kRowTile;
/// Room for the groups of a block of inputs, of which none is shorter than kWidth, and two vectors more.
constexpr int64_t kFloatGroups = kDepth / kWidth + 2 * kWidth;

struct FloatScales {
  float scales[kFloatGroups];
  float zeros[kFloatGroups];
};

/// What the sixteen codes of 4 bits stand for.
inline Table16 MeaningsOf(const Weight& w) {
  if (w.format == WeightFormat::kPacked4) return LoadTable16(kFourBits);
  if (w.format == WeightFormat::kFp4) return LoadTable16(kE2M1);
  float meanings[16];
  std::memcpy(meanings, w.Part(WeightPart::kTable).data, sizeof meanings);
  return MapTable16(LoadTable16(meanings), PlainNan);
}

/// Codes of 4 bits with any meanings.
template <class R>
struct NibbleFloats {
  using Group = Table16;
  static constexpr int64_t kInputs = 32, kBytes = 16;
  R rounded;
  NibbleOrder order;
  Table16 meanings;

  NibbleFloats(const Weight& w, const R& rounds)
      : rounded(rounds),
        order(w.format == WeightFormat::kTable4 ? NibbleOrder(4, 0, 12, 8, 20, 16, 28, 24) : NibbleOrder(0, 4, 8, 12, 16, 20, 24, 28)),
        meanings(MeaningsOf(w)) {}
  bool Load(const Weight& w, int64_t row, const RowGroups& groups, FloatScales& to) const {
    LoadRowGroups(w, row, groups, to.scales, to.zeros);
    if (!w.Part(WeightPart::kZeros).data) std::memset(to.zeros, 0, static_cast<size_t>(groups.count) * sizeof(float));
    return true;
  }
  Group At(const FloatScales& from, int64_t g) const {
    const Vec scale = Set(from.scales[g]), zero = Set(from.zeros[g]);
    return MapTable16(meanings, [&](Vec code) { return rounded(Mul(Sub(code, zero), scale)); });
  }
  Vec Values(const Group& table, const uint8_t* codes, int64_t at) const { return Lookup(table, LoadNibbles(codes + at / 2, order)); }
};

/// fp4 in groups of 16: all values of a group are its scale and one and a half of it, both rounded, times powers of two.
template <class R>
struct E2M1Floats {
  using Group = Table16;
  static constexpr int64_t kInputs = 16, kBytes = 8;
  R rounded;
  NibbleOrder order{0, 4, 8, 12, 16, 20, 24, 28};
  Table16 ones = LoadTable16(kOnes), halves = LoadTable16(kHalves);

  bool Load(const Weight& w, int64_t row, const RowGroups& groups, FloatScales& to) const {
    LoadRowGroups(w, row, groups, to.scales, to.zeros);
    // Nothing is infinite, and no half is below the normal numbers.
    Vec odd = Zero();
    for (int64_t g = 0; g < groups.count; g += kWidth) {
      const int64_t n = groups.count - g;
      const Vec scale = LoadUpTo(to.scales + g, n), size = Abs(scale);
      odd = Add(odd, Add(Sub(scale, scale), SelectLess(size, Set(0x1p-120f), size, SelectLess(size, Set(0x1p120f), Zero(), size))));
      Store(to.zeros + g, rounded(Mul(scale, Set(1.5f))));
      Store(to.scales + g, rounded(scale));
    }
    return Sum(odd) == 0;
  }
  Group At(const FloatScales& from, int64_t g) const {
    const Vec one = Set(from.scales[g]), half = Set(from.zeros[g]);
    // A value is one of both: the other's factor is 0.
    return MapTables16(ones, halves, [&](Vec of_one, Vec of_half) { return Fma(one, of_one, Mul(half, of_half)); });
  }
  Vec Values(const Group& table, const uint8_t* codes, int64_t at) const { return Lookup(table, LoadNibbles(codes + at / 2, order)); }

 private:
  static constexpr float kOnes[16] = {0, 0.5f, 1, 0, 2, 0, 4, 0, 0, -0.5f, -1, 0, -2, 0, -4, 0};
  static constexpr float kHalves[16] = {0, 0, 0, 1, 0, 2, 0, 4, 0, 0, 0, -1, 0, -2, 0, -4};
};

/// Codes of 8 bits.
template <class C, bool kZeros, class R>
struct ByteFloats {
  struct Group {
    float scale, zero;
  };
  static constexpr int64_t kInputs = 32, kBytes = 32;
  R rounded;

  bool Load(const Weight& w, int64_t row, const RowGroups& groups, FloatScales& to) const {
    LoadRowGroups(w, row, groups, to.scales, to.zeros);
    return true;
  }
  Group At(const FloatScales& from, int64_t g) const { return {from.scales[g], kZeros ? from.zeros[g] : 0}; }
  Vec Values(const Group& group, const uint8_t* codes, int64_t at) const {
    const Vec code = C::Load(codes + at, kWidth);
    return rounded(Mul(kZeros ? Sub(code, Set(group.zero)) : code, Set(group.scale)));
  }
};

struct FloatRows {
  /// The first row's; the others follow `distance` bytes after each other, and `next` is what is needed after this block.
  const uint8_t* codes;
  const uint8_t* next;
  int64_t distance;
  FloatScales scales[kFloatRows];
};

/// sums[r] += the dot product of a row's codes and one token over one block of inputs.
template <class D>
__attribute__((noinline)) void FloatTile(const D& from, const FloatRows& rows, const RowGroups& groups, const float* x,
                                         int64_t length, float* sums) {
  // A line of codes lasts for this many steps: some rows are asked for with each.
  constexpr int64_t kSteps = 64 / D::kBytes;
  constexpr int kAhead = kFloatRows > kSteps ? kFloatRows / kSteps : 1;
  const D decoder = from;
  Vec acc[kFloatRows];
#pragma GCC unroll 8
  for (int r = 0; r < kFloatRows; ++r) acc[r] = Zero();
  const int64_t step = rows.distance;
  const uint8_t* const codes[2] = {rows.codes, rows.codes + kRowTile * step};
  const int64_t each = groups.each / D::kInputs, last = length / D::kInputs;
  int64_t end = Smaller(groups.first_end / D::kInputs, last);
  for (int64_t i = 0, g = 0; i < last; ++g) {
    typename D::Group group[kFloatRows];
#pragma GCC unroll 8
    for (int r = 0; r < kFloatRows; ++r) group[r] = decoder.At(rows.scales[r], g);
    for (; i < end; ++i) {
      const uint8_t* next = rows.next + i * D::kBytes + i * kAhead % kFloatRows * step;
#pragma GCC unroll 8
      for (int r = 0; r < kAhead; ++r) _mm_prefetch(reinterpret_cast<const char*>(next + r * step), _MM_HINT_T0);
#pragma GCC unroll 4
      for (int64_t at = 0; at < D::kInputs; at += kWidth) {
        const Vec in = Load(x + i * D::kInputs + at);
#pragma GCC unroll 8
        for (int r = 0; r < kFloatRows; ++r) {
          const uint8_t* row = codes[r / kRowTile] + i * D::kBytes + r % kRowTile * step;
          acc[r] = Fma(decoder.Values(group[r], row, at), in, acc[r]);
        }
      }
    }
    end = each < last - i ? i + each : last;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kFloatRows; r += kRowTile) {
    const __m128 add = Sums4(acc[r], acc[r + 1], acc[r + 2], acc[r + 3]);
    _mm_storeu_ps(sums + r, _mm_add_ps(_mm_loadu_ps(sums + r), add));
  }
}

/// Whether every step of a decoder takes codes of one group, and rows begin with whole bytes and groups.
inline bool HasFloats(const Weight& w) {
  const int64_t step = w.format == WeightFormat::kFp4 && w.input_group == 16 ? 16 : 32;
  const bool whole = w.input_group % step == 0;
  if (w.inputs % step != 0 || w.Part(WeightPart::kGroups).data) return false;
  if (w.format == WeightFormat::kTable4) return whole && w.inputs % w.input_group == 0;
  return whole || w.input_group >= w.inputs;
}

/// Calls f with the decoder of a weight that HasFloats, where there is one.
template <class F>
inline void WithFloats(const Weight& w, F f) {
  const bool zeros = w.Part(WeightPart::kZeros).data != nullptr;
  const auto with = [&]<class R>(const R& rounded) {
    switch (w.format) {
      case WeightFormat::kFp4:
        if constexpr (R::kKeepsPowers) {
          if (w.input_group == 16) return f(E2M1Floats<R>{rounded});
        }
        if (w.input_group != 16) return f(NibbleFloats<R>(w, rounded));
        return;
      case WeightFormat::kPacked4:
      case WeightFormat::kTable4:
        return f(NibbleFloats<R>(w, rounded));
      case WeightFormat::kInt8:
        return zeros ? f(ByteFloats<I8Codes, true, R>{rounded}) : f(ByteFloats<I8Codes, false, R>{rounded});
      case WeightFormat::kPacked8:
        return zeros ? f(ByteFloats<OffsetCodes, true, R>{rounded}) : f(ByteFloats<OffsetCodes, false, R>{rounded});
      case WeightFormat::kE4M3:
      case WeightFormat::kDense:
      case WeightFormat::kDenseIn:
      case WeightFormat::kAwq:
      case WeightFormat::kGptq:
      case WeightFormat::kE4M3In:
        return;
    }
  };
  WithRounding(w, [&]<class R>(const R& rounded) {
    // The rarer roundings share what does whatever the format says.
    if constexpr (std::is_same_v<R, ToBF16>) return with(rounded);
    return with(AnyRounding(w));
  });
}

/// Sums of rows from the task's first on over one token, and how many of them: those that make whole tiles and have a decoder.
inline int64_t OneTokenFloats(const Weight& w, const PackedInputs& x, const Panel& task, float* sums) {
  if (!HasFloats(w)) return 0;
  const int64_t end = Smaller(task.row + task.rows, w.outputs);
  const bool flat = w.format == WeightFormat::kTable4;
  int64_t row = task.row;
  WithFloats(w, [&](const auto& decoder) {
    FloatRows rows;
    for (; row + kFloatRows <= end; row += kFloatRows) {
      alignas(64) float row_sums[kFloatRows] = {};
      for (int64_t k = 0, block = 0; k < w.inputs; k += kDepth, ++block) {
        const int64_t length = Smaller(kDepth, w.inputs - k);
        const auto groups_of = [&](int64_t r) { return FindRowGroups(w, flat ? (r + w.first_row) * w.inputs + k : k, length); };
        for (int r = 0; r < kFloatRows; ++r) {
          if (!decoder.Load(w, row + r, groups_of(row + r), rows.scales[r])) return;
        }
        rows.codes = RowCodes(w, row, k);
        rows.next = k + kDepth < w.inputs ? RowCodes(w, row, k + kDepth) : RowCodes(w, row + kFloatRows, 0);
        rows.distance = RowCodes(w, row + 1, k) - rows.codes;
        FloatTile(decoder, rows, groups_of(row), x.At(block, 0), length, row_sums);
      }
      std::memcpy(sums + (row - task.row), row_sums, sizeof row_sums);
    }
  });
  return row - task.row;
}

}  // namespace zi::ZI_ISA
