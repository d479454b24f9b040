// One token times weights of 4 bits: values are looked up in registers and never stored, in the order that Reorder gives inputs.
#pragma once
#include "cpu/kernel_expand.h"
#include "cpu/kernel_nibble_products.h"

#ifdef ZI_NIBBLE_BLOCKS
namespace zi::ZI_ISA {

/// Rows whose sums one tile makes.
constexpr int kNibbleRows = 2 * kRowTile;
/// Room for the groups of a block of inputs, of which none is shorter than 32, and a vector more.
constexpr int64_t kNibbleGroups = kDepth / 32 + kWidth;

struct NibbleRows {
  /// The first row's; the others follow `distance` bytes after each other.
  const uint8_t* codes;
  int64_t distance;
  AheadInRows ahead;
  /// The tile below, as far from its beginning as this block is: where rows lie without gaps it is asked for in the order of
  /// memory, which caches follow by themselves, and the tile after it comes to the second of them. Else null.
  const uint8_t* below;
  float scales[kNibbleRows][kNibbleGroups];
  float zeros[kNibbleRows][kNibbleGroups];
  /// Where scales are split, they are powers of two with signs, and these are places of what they multiply.
  int32_t places[kNibbleRows][kNibbleGroups];
  /// Scales in e8m0.
  uint8_t powers[kNibbleRows][kNibbleGroups];
};

/// The sixteen values of a group, from a scale that is split.
struct SplitValues {
  Vec Of(const NibbleRows& rows, int r, int64_t g) const {
    return Mul(Load(kRoundedProducts.of[0] + 8 + rows.places[r][g]), Set(rows.scales[r][g]));
  }
};
/// From a scale that is a power of two: all there are stand in a table.
struct PowerValues {
  Vec Of(const NibbleRows& rows, int r, int64_t g) const {
    return Load(kPowerProducts.of[rows.powers[r][g]]);
  }
};
/// The same from any scale.
template <class R>
struct RoundedValues {
  Vec meanings;
  R rounded;
  Vec Of(const NibbleRows& rows, int r, int64_t g) const {
    return rounded(Mul(Sub(meanings, Set(rows.zeros[r][g])), Set(rows.scales[r][g])));
  }
};

inline __attribute__((always_inline)) void AddSums(const Vec (&acc)[kNibbleRows], float* sums) {
#pragma GCC unroll 8
  for (int r = 0; r < kNibbleRows; r += kRowTile) {
    const __m128 add = Sums4(acc[r], acc[r + 1], acc[r + 2], acc[r + 3]);
    _mm_storeu_ps(sums + r, _mm_add_ps(_mm_loadu_ps(sums + r), add));
  }
}

/// sums[r] += the dot product of a row's codes and one token over one block of inputs.
template <int B, class Values>
__attribute__((noinline)) void NibbleTile(const NibbleRows& rows, const RowGroups& groups, const Values& values, const float* x,
                                          int64_t length, float* sums) {
  Vec acc[kNibbleRows];
#pragma GCC unroll 8
  for (int r = 0; r < kNibbleRows; ++r) acc[r] = Zero();
  // Few pointers, so that all of them are registers: two halves of rows, each reached by one distance.
  const int64_t step = rows.distance;
  const uint8_t* const codes[2] = {rows.codes, rows.codes + kRowTile * step};
  const uint8_t* ahead = rows.ahead.turn > 0 ? rows.ahead.here : rows.ahead.below;
  int64_t end = Smaller(groups.first_end, length);
  for (int64_t i = 0, g = 0; i < length; ++g) {
    if (i >= rows.ahead.turn) [[unlikely]] ahead = rows.ahead.below;
    Table16 table[kNibbleRows];
#pragma GCC unroll 8
    for (int r = 0; r < kNibbleRows; ++r) table[r] = {values.Of(rows, r, g)};
    for (; i < end; i += B) {
      Vec in[B / kWidth];
#pragma GCC unroll 8
      for (int j = 0; j < B / kWidth; ++j) in[j] = Load(x + i + j * kWidth);
      // A line of codes lasts for 128 inputs: some rows are asked for with each block of it.
      constexpr int kAhead = kNibbleRows * B / 128;
      if (rows.below) {
        const uint8_t* next = rows.below + i * (kNibbleRows / 2);
#pragma GCC unroll 8
        for (int r = 0; r < kAhead; ++r) {
          _mm_prefetch(reinterpret_cast<const char*>(next + r * 64), _MM_HINT_T0);
          _mm_prefetch(reinterpret_cast<const char*>(next + r * 64 + kNibbleRows * step), _MM_HINT_T1);
        }
      } else {
        const uint8_t* next = ahead + (i >> 1) + i / B * kAhead % kNibbleRows * step;
#pragma GCC unroll 8
        for (int r = 0; r < kAhead; ++r) _mm_prefetch(reinterpret_cast<const char*>(next + r * step), _MM_HINT_T0);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kNibbleRows; ++r) {
        const Ints block = LoadNibbleBlock<B>(codes[r / kRowTile] + (i >> 1) + r % kRowTile * step);
#pragma GCC unroll 8
        for (int j = 0; j < B / kWidth; ++j) {
          acc[r] = Fma(Lookup(table[r], _mm512_srli_epi32(block, static_cast<unsigned>(4 * j))), in[j], acc[r]);
        }
      }
    }
    end = groups.each < length - i ? i + groups.each : length;
  }
  AddSums(acc, sums);
}

/// The same where each block is a group and rows lie without gaps: nothing but what differs between rows is reckoned for each.
template <int B, class Values>
__attribute__((noinline)) void OwnTile(const NibbleRows& rows, const Values& values, const float* x, int64_t length, float* sums) {
  Vec acc[kNibbleRows];
#pragma GCC unroll 8
  for (int r = 0; r < kNibbleRows; ++r) acc[r] = Zero();
  const int64_t step = rows.distance;
  const uint8_t* codes[2] = {rows.codes, rows.codes + kRowTile * step};
  const uint8_t* next = rows.below;
  for (int64_t g = 0; g < length / B; ++g, x += B, codes[0] += B / 2, codes[1] += B / 2, next += kNibbleRows * B / 2) {
#pragma GCC unroll 8
    for (int line = 0; line < kNibbleRows * B / 128; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(next + line * 64), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(next + line * 64 + kNibbleRows * step), _MM_HINT_T1);
    }
    Vec in[B / kWidth];
#pragma GCC unroll 8
    for (int j = 0; j < B / kWidth; ++j) in[j] = Load(x + j * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kNibbleRows; ++r) {
      const Table16 table{values.Of(rows, r, g)};
      const Ints block = LoadNibbleBlock<B>(codes[r / kRowTile] + r % kRowTile * step);
#pragma GCC unroll 8
      for (int j = 0; j < B / kWidth; ++j) {
        acc[r] = Fma(Lookup(table, _mm512_srli_epi32(block, static_cast<unsigned>(4 * j))), in[j], acc[r]);
      }
    }
  }
  AddSums(acc, sums);
}

/// One token times weights of 4 bits that have an OrderBlock.
class OneTokenNibbles {
 public:
  explicit OneTokenNibbles(const Weight& w)
      : weight_(w), codes_{RowCodes(w, 0, 0), RowCodes(w, 1, 0) - RowCodes(w, 0, 0), 1}, order_block_(OrderBlock(w)) {
    const DType scales = w.Part(WeightPart::kScales).dtype;
    const bool to_bf16 = w.factor == 1 && (w.product == DType::kBF16 || (w.product == DType::kF32 && w.type == DType::kBF16));
    // Such scales have so few bits that all products with their fractions, or with all of them, stand in a table.
    by_table_ = w.format == WeightFormat::kPacked4 && scales == DType::kBF16 && to_bf16;
    const bool as_stored = w.factor == 1 && !w.Part(WeightPart::kGlobal).data;
    const bool to_f16 = w.product == DType::kF16 || w.type == DType::kF16;
    powers_ = w.format == WeightFormat::kFp4 && scales == DType::kE8M0 && w.row_group == 1 && as_stored && !to_f16;
    whole_groups_ = kDepth % w.input_group == 0 ? kDepth / w.input_group : 0;
    // Two such tiles stay in the nearest cache.
    in_order_ = codes_.distance * 2 == w.inputs && kNibbleRows * codes_.distance <= 24 << 10;
  }

  /// Sums of rows from the task's first on, and how many of them: those that make whole tiles.
  int64_t Sums(const PackedInputs& x, const Panel& task, float* sums) {
    const int64_t end = Smaller(task.row + task.rows, weight_.outputs);
    int64_t row = task.row;
    for (; row + kNibbleRows <= end; row += kNibbleRows) {
      for (int64_t k = 0, block = 0; k < weight_.inputs; k += kDepth, ++block) {
        const int64_t length = Smaller(kDepth, weight_.inputs - k);
        LoadRows(row, k, length);
        Tile(x.At(block, 0), length, sums + (row - task.row));
      }
    }
    return row - task.row;
  }

 private:
  void LoadRows(int64_t row, int64_t k, int64_t length) {
    const Weight& w = weight_;
    rows_.codes = codes_.At(row, k);
    rows_.ahead = AheadInRows(codes_, w.inputs, row, kNibbleRows, k);
    rows_.distance = codes_.distance;
    rows_.below = in_order_ ? codes_.At(row + kNibbleRows, 0) + k / 2 * kNibbleRows : nullptr;
    groups_ = whole_groups_ > 0 && length == kDepth
                  ? RowGroups{k / kDepth * whole_groups_, whole_groups_, w.input_group, w.input_group, false, true}
                  : FindRowGroups(w, k, length);
    if (powers_) return LoadPowers(row);
    split_ = by_table_ && SplitRows(row);
    if (split_) return;
    const bool zeros = w.Part(WeightPart::kZeros).data != nullptr;
    for (int r = 0; r < kNibbleRows; ++r) {
      LoadRowGroups(w, row + r, groups_, rows_.scales[r], rows_.zeros[r]);
      if (!zeros) std::memset(rows_.zeros[r], 0, static_cast<size_t>(groups_.count) * sizeof(float));
    }
  }

  int64_t ScaleRow(int64_t row) const {
    const int64_t m = row + weight_.first_row;
    return weight_.row_group == 1 ? m : m / weight_.row_group;
  }

  /// The scales of a row from the block's first group on. Those of the rows below are asked for.
  const uint8_t* ScalesOf(int64_t scale_row) const {
    const View& scales = weight_.Part(WeightPart::kScales);
    const int64_t bytes = ElementBytes(scales.dtype), distance = scales.strides[0] * bytes;
    const uint8_t* p = scales.data + scale_row * distance + groups_.first * bytes;
    _mm_prefetch(reinterpret_cast<const char*>(p + kNibbleRows * distance), _MM_HINT_T0);
    return p;
  }

  /// The scales of the tile below are asked for a share with each block, and all of them where they lie behind each other.
  void LoadPowers(int64_t row) {
    const View& scales = weight_.Part(WeightPart::kScales);
    const int64_t distance = scales.strides[0];
    const uint8_t* first = scales.data + (row + weight_.first_row) * distance;
    const int64_t count = groups_.count;
    static_assert(kNibbleGroups < 64);
    const __mmask64 there = (__mmask64{1} << count) - 1;
    for (int r = 0; r < kNibbleRows; ++r) {
      const __m512i bytes = _mm512_maskz_loadu_epi8(there, first + r * distance + groups_.first);
      _mm512_mask_storeu_epi8(rows_.powers[r], there, bytes);
    }
    const uint8_t* below = first + kNibbleRows * (distance + groups_.first);
    for (int64_t at = 0; at < kNibbleRows * count; at += 64) _mm_prefetch(reinterpret_cast<const char*>(below + at), _MM_HINT_T0);
  }

  /// Scales in bf16 as powers of two and places in the table of products. False where one is no usual number.
  bool SplitRows(int64_t row) {
    const Weight& w = weight_;
    const bool zeros = w.Part(WeightPart::kZeros).data != nullptr;
    Ints furthest = SetInts(0);
    for (int r = 0; r < kNibbleRows; ++r) {
      const int64_t from = ScaleRow(row + r);
      const uint8_t* p = ScalesOf(from);
      for (int64_t g = 0; g < groups_.count; g += kWidth) {
        const int64_t n = groups_.count - g;
        const __m256i halves = n >= kWidth ? LoadHalves(p + g * 2) : LoadHalvesPartial(p + g * 2, static_cast<int>(n));
        const Ints bits = _mm512_slli_epi32(WidenShorts(halves), 16);
        Ints place = And(_mm512_srli_epi32(bits, 11), SetInts(127 << 5));
        if (zeros) place = _mm512_sub_epi32(place, _mm512_cvtps_epi32(ZerosAt(w, from, groups_.first + g, n)));
        _mm512_storeu_si512(rows_.places[r] + g, place);
        Store(rows_.scales[r] + g, FloatsOf(And(bits, SetInts(static_cast<int>(0xff800000u)))));
        furthest = Furthest(furthest, bits, n);
      }
    }
    return AreNormal(furthest);
  }

  /// The largest of what was found and of n floats' exponents, counted from the second of them on.
  static Ints Furthest(Ints before, Ints bits, int64_t n) {
    const Ints from_second = _mm512_sub_epi32(_mm512_slli_epi32(bits, 1), SetInts(2 << 24));
    if (n >= kWidth) return _mm512_max_epu32(before, from_second);
    return _mm512_mask_max_epu32(before, FirstLanes(static_cast<int>(n)), before, from_second);
  }
  /// All have an exponent of their own, also after half of it.
  static bool AreNormal(Ints furthest) {
    return _mm512_cmpge_epu32_mask(furthest, SetInts(static_cast<int>(253u << 24))) == 0;
  }

  void Tile(const float* x, int64_t length, float* sums) const {
    if (powers_) return Tile(PowerValues{}, x, length, sums);
    if (split_) return Tile(SplitValues{}, x, length, sums);
    const Vec meanings = Load(weight_.format == WeightFormat::kFp4 ? kE2M1 : kFourBits);
    WithRounding(weight_, [&]<class R>(const R& rounded) { Tile(RoundedValues<R>{meanings, rounded}, x, length, sums); });
  }
  template <class Values>
  void Tile(const Values& values, const float* x, int64_t length, float* sums) const {
    if (order_block_ == 64) return TileOf<64>(values, x, length, sums);
    TileOf<32>(values, x, length, sums);
  }
  template <int B, class Values>
  void TileOf(const Values& values, const float* x, int64_t length, float* sums) const {
    if (in_order_ && weight_.input_group == B) return OwnTile<B>(rows_, values, x, length, sums);
    NibbleTile<B>(rows_, groups_, values, x, length, sums);
  }

  const Weight& weight_;
  const CodeRows codes_;
  const int64_t order_block_;
  bool by_table_, powers_, in_order_;
  /// Groups of a whole block of inputs, or 0 where their ends are not those of blocks.
  int64_t whole_groups_;
  /// Whether the scales of these rows are such.
  bool split_ = false;
  RowGroups groups_{};
  NibbleRows rows_;
};

}  // namespace zi::ZI_ISA
#endif
