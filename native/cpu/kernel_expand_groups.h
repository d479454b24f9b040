// The scales and zeros of stored weights as floats, and how a product with them is rounded.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

inline Vec RoundTo(DType type, Vec a) {
  if (type == DType::kBF16) return RoundToBF16(a);
  return type == DType::kF16 ? RoundToF16(a) : a;
}

// How the product of a code and its scale becomes a weight: the usual ways, and one that does whatever the format says.
struct Exact {
  /// Four times a product is rounded to four times as much, while exponents are far from their ends.
  static constexpr bool kKeepsPowers = true;
  explicit Exact(const Weight&) {}
  Vec operator()(Vec product) const { return product; }
};
struct ToBF16 {
  static constexpr bool kKeepsPowers = true;
  explicit ToBF16(const Weight&) {}
  Vec operator()(Vec product) const { return RoundToBF16(product); }
};
struct ToF16 {
  static constexpr bool kKeepsPowers = false;
  explicit ToF16(const Weight&) {}
  Vec operator()(Vec product) const { return RoundToF16(product); }
};
struct ThroughF16 {
  static constexpr bool kKeepsPowers = false;
  explicit ThroughF16(const Weight&) {}
  Vec operator()(Vec product) const { return RoundToBF16(RoundToF16(product)); }
};
struct AnyRounding {
  static constexpr bool kKeepsPowers = false;
  DType product, type;
  Vec factor;
  explicit AnyRounding(const Weight& w) : product(w.product), type(w.type), factor(Set(w.factor)) {}
  Vec operator()(Vec value) const { return RoundTo(type, Mul(RoundTo(product, value), factor)); }
};

/// Calls f with that of the weight.
template <class F>
inline void WithRounding(const Weight& w, F f) {
  constexpr DType kF32 = DType::kF32, kF16 = DType::kF16, kBF16 = DType::kBF16;
  const auto rounds = [&](DType product, DType type) { return w.factor == 1 && w.product == product && w.type == type; };
  if (rounds(kF32, kF32)) return f(Exact(w));
  if (rounds(kF32, kBF16) || rounds(kBF16, kBF16) || rounds(kBF16, kF32)) return f(ToBF16(w));
  if (rounds(kF32, kF16) || rounds(kF16, kF16) || rounds(kF16, kF32)) return f(ToF16(w));
  if (rounds(kF16, kBF16)) return f(ThroughF16(w));
  f(AnyRounding(w));
}

/// Codes of e4m3 as floats, NaN among them.
inline Vec FloatsOfE4M3(__m128i bytes) {
  const Vec nan = Set(__builtin_nanf(""));
  return SelectEqual(And(WidenBytes(bytes), SetInts(0x7f)), SetInts(0x7f), nan, WidenE4M3(bytes));
}
inline Vec FloatsOfE8M0(__m128i bytes) {
  const Ints exponent = WidenBytes(bytes);
  const Vec power = FloatsOf(ShiftLeft(exponent, 23));
  // 2^-127 has no exponent of its own, and 255 is NaN.
  const Vec low = SelectEqual(exponent, SetInts(0), FloatsOf(SetInts(0x00400000)), power);
  return SelectEqual(exponent, SetInts(255), Set(__builtin_nanf("")), low);
}

/// Up to kWidth scales from the index-th on.
inline Vec ScalesAt(const View& scales, int64_t index, int64_t n) {
  const uint8_t* p = scales.data + index * ElementBytes(scales.dtype);
  switch (scales.dtype) {
    case DType::kF32:
      return PlainNan(LoadUpTo<F32>(p, n));
    case DType::kF16:
      return PlainNan(LoadUpTo<F16>(p, n));
    case DType::kBF16:
      return PlainNan(LoadUpTo<BF16>(p, n));
    case DType::kE4M3:
      return FloatsOfE4M3(LoadBytes(p, Smaller(n, kWidth)));
    case DType::kE8M0:
      return FloatsOfE8M0(LoadBytes(p, Smaller(n, kWidth)));
    case DType::kU8:
    case DType::kI8:
    case DType::kI32:
      break;
  }
  FailOp("type %d is no type of scales", static_cast<int>(scales.dtype));
}

inline float FloatAt(const View& view, int64_t index) {
  float value;
  std::memcpy(&value, view.data + index * 4, sizeof value);
  return value;
}
inline int32_t WordAt(const View& view, int64_t index) {
  int32_t word;
  std::memcpy(&word, view.data + index * 4, sizeof word);
  return word;
}

/// Groups of inputs that a weight has; for table4 they are counted over all values and not by row.
inline int64_t GroupCount(const Weight& w) { return (w.inputs + w.input_group - 1) / w.input_group; }

/// Indices are data: looked at once per operation, before any scale is.
inline void CheckGroups(const Weight& w, const uint8_t* data) {
  if (!data) return;
  const int64_t groups = GroupCount(w);
  View view = w.Part(WeightPart::kGroups);
  view.data = const_cast<uint8_t*>(data);
  for (int64_t k = 0; k < w.inputs; ++k) {
    const int32_t group = WordAt(view, k);
    if (group < 0 || group >= groups) FailOp("group %d of input %ld is none of %ld", group, k, groups);
  }
}
inline void CheckGroups(const Weight& w) { CheckGroups(w, w.Part(WeightPart::kGroups).data); }

/// Zeros of `count` groups from `group` on, of row `r` of the scales; what codes that hold them are less than them is `offset`.
inline Vec ZerosAt(const Weight& w, int64_t r, int64_t group, int64_t n) {
  const View& zeros = w.Part(WeightPart::kZeros);
  if (zeros.dtype == DType::kI8) {
    return WidenI8(LoadBytes(zeros.data + r * zeros.strides[0] + group, Smaller(n, kWidth)));
  }
  const int bits = w.format == WeightFormat::kPacked8 ? 8 : 4, per_word = 32 / bits;
  const uint8_t* words = zeros.data + (r / per_word * zeros.strides[0] + group) * 4;
  const int shift = static_cast<int>(r % per_word) * bits, mask = (1 << bits) - 1;
  const Vec codes = ToFloats(And(ShiftRight(LoadInts(words, n), shift), SetInts(mask)));
  return Sub(codes, Set(static_cast<float>((mask + 1) / 2)));
}

/// Scales of table4, which may be places in a table with scales of their own, from the index-th on.
inline Vec NestedScalesAt(const Weight& w, int64_t index, int64_t n) {
  const View& scales = w.Part(WeightPart::kScales);
  if (scales.dtype != DType::kU8) return ScalesAt(scales, index, n);
  float values[kWidth] = {};
  for (int64_t i = 0; i < Smaller(n, kWidth); ++i) {
    const float inner = FloatAt(w.Part(WeightPart::kNestedTable), scales.data[index + i]);
    values[i] = inner * FloatAt(w.Part(WeightPart::kNestedScales), (index + i) / 256) + w.nested_offset;
  }
  return PlainNan(Load(values));
}

/// Scratch for the groups of one row, whole vectors each.
struct GroupBuffers {
  float* scales;
  float* zeros;
  /// By input of a block, where groups are not runs of whole vectors.
  float* input_scales;
  float* input_zeros;
  /// A row of a block before it is packed.
  float* row;

  static int64_t GroupFloats(const Weight& w, int64_t depth) { return Larger(GroupCount(w), depth) + 2 * kWidth; }
  static int64_t Count(const Weight& w, int64_t depth) { return 2 * GroupFloats(w, depth) + 3 * (depth + kWidth); }
  GroupBuffers(const Weight& w, int64_t depth, float* from)
      : scales(from),
        zeros(scales + GroupFloats(w, depth)),
        input_scales(zeros + GroupFloats(w, depth)),
        input_zeros(input_scales + depth + kWidth),
        row(input_zeros + depth + kWidth) {}
};

/// The groups of a row over inputs [k, k + length): group i of the buffers goes from first_end + (i - 1) · each to
/// first_end + i · each, counted from k. With `groups` all of the row's are there, and each input has its own.
struct RowGroups {
  int64_t first, count;
  int64_t first_end, each;
  bool scattered;
  /// Every group is a run of whole vectors.
  bool in_vectors;
};

/// `at`: k, or for table4 the place of that input among all values.
inline RowGroups FindRowGroups(const Weight& w, int64_t at, int64_t length) {
  RowGroups groups{0, GroupCount(w), 0, w.input_group, true, false};
  if (w.Part(WeightPart::kGroups).data) return groups;
  groups.scattered = false;
  groups.first = at / w.input_group;
  groups.first_end = (groups.first + 1) * w.input_group - at;
  groups.count = length <= groups.first_end ? 1 : 1 + (length - groups.first_end + w.input_group - 1) / w.input_group;
  groups.in_vectors =
      groups.first_end >= length || (groups.first_end % kWidth == 0 && w.input_group % kWidth == 0);
  return groups;
}

inline void LoadRowGroups(const Weight& w, int64_t row, const RowGroups& groups, float* to_scales, float* to_zeros) {
  const bool flat = w.format == WeightFormat::kTable4;
  const int64_t m = row + w.first_row, r = w.row_group == 1 ? m : m / w.row_group;
  const View& scales = w.Part(WeightPart::kScales);
  const int64_t base = flat ? 0 : r * scales.strides[0];
  const View& global = w.Part(WeightPart::kGlobal);
  const Vec common = Set(global.data ? FloatAt(global, 0) : 1);
  for (int64_t i = 0; i < groups.count; i += kWidth) {
    const int64_t n = groups.count - i;
    Vec scale = flat ? NestedScalesAt(w, groups.first + i, n) : ScalesAt(scales, base + groups.first + i, n);
    if (global.data) scale = PlainNan(w.global_divides ? Div(scale, common) : Mul(scale, common));
    Store(to_scales + i, scale);
    if (w.Part(WeightPart::kZeros).data) Store(to_zeros + i, ZerosAt(w, r, groups.first + i, n));
  }
}

/// The scale and zero of every input of the block.
inline void SpreadRowGroups(const Weight& w, const RowGroups& groups, int64_t k, int64_t length, const GroupBuffers& to) {
  const bool zeros = w.Part(WeightPart::kZeros).data != nullptr;
  const View& index = w.Part(WeightPart::kGroups);
  int64_t group = 0, end = groups.first_end;
  for (int64_t i = 0; i < length; ++i) {
    if (groups.scattered) {
      group = WordAt(index, k + i);
    } else if (i == end) {
      ++group;
      end += groups.each;
    }
    to.input_scales[i] = to.scales[group];
    if (zeros) to.input_zeros[i] = to.zeros[group];
  }
  for (int64_t i = length; i < RoundUp(length, kWidth); ++i) to.input_scales[i] = to.input_zeros[i] = 0;
}

}  // namespace zi::ZI_ISA
