// Stored codes as pairs of bf16, 32 of a row to a register: the bits of their rounded values, with nothing stored between.
#pragma once
#include "cpu/kernel_pair_nibbles.h"

#ifdef ZI_PAIR_PRODUCTS
namespace zi::ZI_ISA {

/// e4m3: the rounded products of the eight fractions with a scale stand in a table, and exponents are added.
struct E4M3Pairs {
  static constexpr int64_t kBytes = 32;
  struct Group {
    Ints normal, low;
  };

  bool Load(const Weight& w, int64_t row, const RowGroups& groups, PairScales& to) const {
    LoadRowGroups(w, row, groups, to.scales, to.zeros);
    return AreUsual(to.scales, groups.count);
  }
  /// No code is NaN.
  bool Takes(const uint8_t* codes, int64_t length) const {
    Ints largest = _mm512_setzero_si512();
    int64_t i = 0;
    for (; i + 64 <= length; i += 64) {
      largest = _mm512_max_epu8(largest, And(_mm512_loadu_si512(codes + i), _mm512_set1_epi8(0x7f)));
    }
    if (i < length) {
      const Ints rest = _mm512_maskz_loadu_epi64(0x0f, codes + i);
      largest = _mm512_max_epu8(largest, And(rest, _mm512_set1_epi8(0x7f)));
    }
    return _mm512_cmpeq_epu8_mask(largest, _mm512_set1_epi8(0x7f)) == 0;
  }
  Group At(const PairScales& from, int64_t g) const {
    constexpr float kFractions[16] = {0x1p-7f, 0x1.2p-7f, 0x1.4p-7f, 0x1.6p-7f, 0x1.8p-7f, 0x1.ap-7f, 0x1.cp-7f, 0x1.ep-7f,
                                      0,       0x1p-9f,   0x2p-9f,   0x3p-9f,   0x4p-9f,   0x5p-9f,   0x6p-9f,   0x7p-9f};
    const Vec products = Mul(zi::ZI_ISA::Load(kFractions), Set(from.scales[g]));
    const Ints pairs = PairsFrom(products, products);
    return {_mm512_shuffle_i32x4(pairs, pairs, 0x00), _mm512_shuffle_i32x4(pairs, pairs, 0x55)};
  }
  Vec Pairs(const Group& group, const uint8_t* codes) const {
    const Ints words = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const __mmask32 is_low = _mm512_testn_epi16_mask(words, _mm512_set1_epi16(0x78));
    Ints value = _mm512_permutexvar_epi16(words, group.normal);
    value = _mm512_mask_permutexvar_epi16(value, is_low, words, group.low);
    const Ints sign_and_power = And(_mm512_slli_epi16(words, 4), _mm512_set1_epi16(static_cast<int16_t>(0x8780)));
    return FloatsOf(_mm512_add_epi16(value, sign_and_power));
  }
};

/// Codes of 8 bits that stand for whole numbers.
template <bool kOffset, bool kZeros, class R>
struct BytePairs {
  static constexpr int64_t kBytes = 32;
  struct Group {
    float scale, zero;
  };
  R rounded;

  bool Load(const Weight& w, int64_t row, const RowGroups& groups, PairScales& to) const {
    return LoadPairScales(w, row, groups, to);
  }
  bool Takes(const uint8_t*, int64_t) const { return true; }
  Group At(const PairScales& from, int64_t g) const { return {from.scales[g], kZeros ? from.zeros[g] : 0}; }
  Vec Pairs(const Group& group, const uint8_t* codes) const {
    const auto product = [&](const uint8_t* at) {
      const Vec code = kOffset ? OffsetCodes::Load(at, kWidth) : I8Codes::Load(at, kWidth);
      return Mul(kZeros ? Sub(code, Set(group.zero)) : code, Set(group.scale));
    };
    return FloatsOf(RoundedPairs(rounded, product(codes), product(codes + kWidth)));
  }
};

/// Whether every register of pairs takes codes of one group, or of two whole ones.
inline bool HasPairs(const Weight& w) {
  if (w.type != DType::kBF16 || w.inputs % kPairInputs != 0 || w.Part(WeightPart::kGroups).data) return false;
  const bool one_group = w.input_group >= w.inputs, whole = w.input_group % kPairInputs == 0;
  if (w.format == WeightFormat::kFp4) return one_group || whole || w.input_group == kPairInputs / 2;
  // Its groups go on over the ends of rows.
  if (w.format == WeightFormat::kTable4) return whole && w.inputs % w.input_group == 0;
  return one_group || whole;
}

/// Whether PowerPairs has its values: powers of two take them from bf16 to nothing but bf16.
inline bool HasPowerPairs(const Weight& w) {
  const bool as_stored = w.factor == 1 && !w.Part(WeightPart::kGlobal).data;
  const bool to_bf16 = w.product == DType::kBF16 || w.product == DType::kF32;
  const bool powers = w.format == WeightFormat::kFp4 && w.Part(WeightPart::kScales).dtype == DType::kE8M0;
  return powers && as_stored && to_bf16 && HasPairs(w) && (w.input_group >= kPairInputs || w.input_group >= w.inputs);
}

/// Calls f with the decoder of a weight that HasPairs. False where there is none.
template <class F>
inline bool WithPairs(const Weight& w, F f) {
  const bool zeros = w.Part(WeightPart::kZeros).data != nullptr;
  bool called = true;
  WithRounding(w, [&]<class R>(const R& rounded) {
    constexpr bool kAtOnce = std::is_same_v<R, ToBF16>;
    constexpr bool kAny = std::is_same_v<R, AnyRounding>, kThroughF16 = std::is_same_v<R, ThroughF16>;
    if constexpr (kAtOnce) {
      switch (w.format) {
        case WeightFormat::kPacked4:
          if (w.Part(WeightPart::kScales).dtype != DType::kBF16) return f(AnyNibbles<R>(w, rounded));
          return zeros ? f(ShortScaleNibbles<true>{}) : f(ShortScaleNibbles<false>{});
        case WeightFormat::kTable4:
          return f(AnyNibbles<R>(w, rounded));
        case WeightFormat::kFp4:
          if (HasPowerPairs(w)) return f(PowerPairs{});
          return w.input_group == kPairInputs / 2 && w.input_group < w.inputs ? f(E2M1Pairs<true>{}) : f(E2M1Pairs<false>{});
        case WeightFormat::kE4M3:
          return f(E4M3Pairs{});
        case WeightFormat::kInt8:
          return zeros ? f(BytePairs<false, true, R>{rounded}) : f(BytePairs<false, false, R>{rounded});
        case WeightFormat::kPacked8:
          return zeros ? f(BytePairs<true, true, R>{rounded}) : f(BytePairs<true, false, R>{rounded});
        case WeightFormat::kDense:
        case WeightFormat::kDenseIn:
        case WeightFormat::kAwq:
        case WeightFormat::kGptq:
        case WeightFormat::kE4M3In:
          break;
      }
    } else if constexpr (kThroughF16) {
      if (w.format == WeightFormat::kPacked4 || w.format == WeightFormat::kTable4) return f(AnyNibbles<R>(w, rounded));
    } else if constexpr (kAny) {
      if (w.format == WeightFormat::kInt8 && !zeros) return f(BytePairs<false, false, R>{rounded});
    }
    called = false;
  });
  return called;
}

/// The block of Reorder that inputs of this weight take where its values lie as pairs; 0 for none.
inline int64_t PairOrderBlock(const Weight& w) { return kPairsReordered && HasPowerPairs(w) ? kPairInputs : 0; }

/// The groups of a block of a weight that HasPairs, as decoders count them: runs of whole registers.
inline RowGroups FindPairGroups(const Weight& w, int64_t row, int64_t k, int64_t length) {
  const int64_t at = w.format == WeightFormat::kTable4 ? (row + w.first_row) * w.inputs + k : k;
  RowGroups groups = FindRowGroups(w, at, length);
  if (groups.each < kPairInputs) groups.each = groups.first_end = kPairInputs;
  return groups;
}

/// `count` groups of kRun registers each, from the g-th on.
template <int kRun, class D>
__attribute__((noinline)) void ExpandRuns(const D& from, const PairScales& scales, int64_t g, int64_t count, const uint8_t* codes,
                                          float* to) {
  const D decoder = from;
  for (const int64_t end = g + count; g < end; ++g, codes += kRun * D::kBytes, to += kRun * kWidth) {
    const auto group = decoder.At(scales, g);
#pragma GCC unroll 4
    for (int i = 0; i < kRun; ++i) Store(to + i * kWidth, decoder.Pairs(group, codes + i * D::kBytes));
  }
}

/// `length` codes of a row to pairs; the first `skipped` groups of its scales are not theirs.
template <class D>
inline void ExpandPairs(const D& decoder, const PairScales& scales, int64_t skipped, const RowGroups& groups, const uint8_t* codes,
                        int64_t length, float* to) {
  const int64_t each = groups.each / kPairInputs, last = length / kPairInputs, whole = groups.first_end == groups.each ? last / each : 0;
  if (each == 1 && whole > 0) return ExpandRuns<1>(decoder, scales, skipped, last, codes, to);
  int64_t i = 0, g = skipped;
  if (each == 2 && whole > 0) ExpandRuns<2>(decoder, scales, g, whole, codes, to);
  if (each == 4 && whole > 0) ExpandRuns<4>(decoder, scales, g, whole, codes, to);
  if ((each == 2 || each == 4) && whole > 0) {
    i = whole * each;
    g += whole;
  }
  for (int64_t end = i > 0 ? last : Smaller(groups.first_end / kPairInputs, last); i < last; ++g) {
    const auto group = decoder.At(scales, g);
    for (; i < end; ++i) Store(to + i * kWidth, decoder.Pairs(group, codes + i * D::kBytes));
    end = each < last - i ? i + each : last;
  }
}

}  // namespace zi::ZI_ISA
#endif
