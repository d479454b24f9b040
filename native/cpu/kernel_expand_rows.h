// Rows of weights that are stored row by row, expanded to floats: e4m3, int8, packed8, packed4, fp4, table4.
//
// Where groups are runs of whole vectors a code meets one scale at a time, and what has 4 bits is looked up among the sixteen
// values that the group has; elsewhere every input has its own scale and zero.
#pragma once
#include <type_traits>

#include "cpu/kernel_e4m3.h"

namespace zi::ZI_ISA {

// Codes of a byte, n (kWidth or fewer) as floats.
struct E4M3Codes {
  static Vec Load(const uint8_t* p, int64_t n) { return WidenE4M3(LoadBytes(p, n)); }
};
struct E4M3CodesOrNan {
  static Vec Load(const uint8_t* p, int64_t n) { return FloatsOfE4M3(LoadBytes(p, n)); }
};
struct I8Codes {
  static Vec Load(const uint8_t* p, int64_t n) { return WidenI8(LoadBytes(p, n)); }
};
struct OffsetCodes {
  static Vec Load(const uint8_t* p, int64_t n) { return WidenI8(_mm_xor_si128(LoadBytes(p, n), _mm_set1_epi8(-128))); }
};

inline bool HasNanCodes(const uint8_t* codes, int64_t n) {
  uint8_t any = 0;
  for (int64_t i = 0; i < n; ++i) any |= (codes[i] & 0x7f) == 0x7f;
  return any;
}

/// Calls f(first, end, group) for the runs of inputs of one group.
template <class F>
inline void ForGroups(const RowGroups& groups, int64_t length, F f) {
  int64_t end = Smaller(groups.first_end, length);
  for (int64_t first = 0, g = 0; first < length; ++g) {
    f(first, end, g);
    first = end;
    end = groups.each < length - first ? first + groups.each : length;
  }
}

template <class C, bool kZeros, class R>
inline void ExpandBytes(const uint8_t* codes, const R& rounded, const RowGroups& groups, int64_t length,
                        const GroupBuffers& buffers, float* to) {
  const auto value = [&](int64_t i, int64_t n, Vec zero, Vec scale) {
    const Vec code = C::Load(codes + i, n);
    Store(to + i, rounded(Mul(kZeros ? Sub(code, zero) : code, scale)));
  };
  if (groups.in_vectors) {
    ForGroups(groups, length, [&](int64_t i, int64_t end, int64_t g) {
      const Vec scale = Set(buffers.scales[g]), zero = kZeros ? Set(buffers.zeros[g]) : Zero();
      for (; i + kWidth <= end; i += kWidth) value(i, kWidth, zero, scale);
      if (i < end) value(i, end - i, zero, scale);
    });
    return;
  }
  for (int64_t i = 0; i < length; i += kWidth) {
    value(i, Smaller(kWidth, length - i), Load(buffers.input_zeros + i), Load(buffers.input_scales + i));
  }
}

/// @param order_block of OrderBlock, or 0
template <class R>
inline void ExpandE4M3(const Weight& w, const uint8_t* codes, const R& rounded, const RowGroups& groups, int64_t length,
                       int64_t order_block, const GroupBuffers& buffers, float* to) {
#ifdef ZI_NIBBLE_BLOCKS
  if (HasE4M3Words(w)) {
    bool done = false;
    WithE4M3(w, [&](const auto& decoder) {
      return done = ExpandWords(decoder, codes, groups, length, buffers, order_block == 0, to);
    });
    if (done) return;
  }
#endif
  if (HasNanCodes(codes, length)) {
    ExpandBytes<E4M3CodesOrNan, false>(codes, rounded, groups, length, buffers, to);
  } else {
    ExpandBytes<E4M3Codes, false>(codes, rounded, groups, length, buffers, to);
  }
  if (order_block > 0) ReorderBlocks(to, length, order_block);
}

/// The block of Reorder that inputs of this weight take where its values lie as floats; 0 for none. Every group is whole blocks.
inline int64_t OrderBlock(const Weight& w) {
#ifdef ZI_NIBBLE_BLOCKS
  if (HasE4M3Words(w)) return kWordCodes;
  // By columns they are turned into rows of packed4.
  const bool by_columns = w.format == WeightFormat::kAwq || (w.format == WeightFormat::kGptq && w.bits == 4);
  const bool low_first = by_columns || w.format == WeightFormat::kPacked4 || w.format == WeightFormat::kFp4;
  // Some experts of a mixture may have no index: inputs lie for all in one order.
  if (!low_first || w.Part(WeightPart::kGroups).rank != 0) return 0;
  for (const int64_t block : {64, 32}) {
    if (w.inputs % block == 0 && (w.input_group % block == 0 || w.input_group >= w.inputs)) return block;
  }
#endif
  return 0;
}

#ifdef ZI_NIBBLE_BLOCKS
/// A block of codes, four or two to a lane, the first lowest.
template <int B>
inline Ints LoadNibbleBlock(const uint8_t* p) {
  if constexpr (B == 64) return WidenShorts(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return WidenBytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#endif

/// Codes of 4 bits and what each of the sixteen stands for.
struct Nibbles {
  NibbleOrder order;
  const float* meanings;
  const uint8_t* codes;
  /// The first is the second of its byte.
  bool odd;
  bool high_first;
  int64_t order_block;

  Ints At(int64_t i, int64_t n) const {
    const uint8_t* p = codes + i / 2;
    if (n >= kWidth) return LoadNibbles(p, order);
    uint8_t bytes[kWidth / 2] = {};
    std::memcpy(bytes, p, static_cast<size_t>(n + 1) / 2);
    return LoadNibbles(bytes, order);
  }
  Vec OddAt(int64_t i, int64_t n) const {
    float values[kWidth] = {};
    for (int64_t j = 0; j < Smaller(kWidth, n); ++j) {
      const int64_t at = i + j + 1;
      const bool high = (at % 2 == 0) == high_first;
      values[j] = meanings[high ? codes[at / 2] >> 4 : codes[at / 2] & 15];
    }
    return Load(values);
  }
};

#ifdef ZI_NIBBLE_BLOCKS
/// Values of the codes from i to end, block by block in the order of Reorder.
template <int B>
inline void SpreadBlocks(const uint8_t* codes, const Table16& values, int64_t i, int64_t end, float* to) {
  for (; i < end; i += B) {
    Ints block = LoadNibbleBlock<B>(codes + i / 2);
    for (int j = 0; j < B / kWidth; ++j) {
      Store(to + i + j * kWidth, Lookup(values, block));
      block = _mm512_srli_epi32(block, 4);
    }
  }
}
#endif

template <bool kZeros, class R>
inline void ExpandNibbles(const Nibbles& nibbles, const R& rounded, const RowGroups& groups, int64_t length,
                          const GroupBuffers& buffers, float* to) {
  const auto value = [&](Vec code, Vec zero, Vec scale) { return rounded(Mul(kZeros ? Sub(code, zero) : code, scale)); };
  const Table16 meanings = LoadTable16(nibbles.meanings);
  if (groups.in_vectors && !nibbles.odd) {
    ForGroups(groups, length, [&](int64_t i, int64_t end, int64_t g) {
      const Vec scale = Set(buffers.scales[g]), zero = kZeros ? Set(buffers.zeros[g]) : Zero();
      const Table16 values = MapTable16(meanings, [&](Vec code) { return value(code, zero, scale); });
#ifdef ZI_NIBBLE_BLOCKS
      if (nibbles.order_block == 64) return SpreadBlocks<64>(nibbles.codes, values, i, end, to);
      if (nibbles.order_block == 32) return SpreadBlocks<32>(nibbles.codes, values, i, end, to);
#endif
      for (; i + kWidth <= end; i += kWidth) Store(to + i, Lookup(values, LoadNibbles(nibbles.codes + i / 2, nibbles.order)));
      if (i < end) Store(to + i, Lookup(values, nibbles.At(i, end - i)));
    });
    return;
  }
  for (int64_t i = 0; i < length; i += kWidth) {
    const Vec code = nibbles.odd ? nibbles.OddAt(i, length - i) : Lookup(meanings, nibbles.At(i, length - i));
    Store(to + i, value(code, Load(buffers.input_zeros + i), Load(buffers.input_scales + i)));
  }
}

constexpr float kFourBits[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
constexpr float kE2M1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

/// Where the codes of a row begin, and of inputs from k on.
inline const uint8_t* RowCodes(const Weight& w, int64_t row, int64_t k) {
  const View& codes = w.Part(WeightPart::kCodes);
  switch (w.format) {
    case WeightFormat::kE4M3:
    case WeightFormat::kInt8:
      return codes.data + row * codes.strides[0] + k;
    case WeightFormat::kPacked8:
      return codes.data + row * codes.strides[0] * 4 + k;
    case WeightFormat::kPacked4:
      return codes.data + row * codes.strides[0] * 4 + k / 2;
    case WeightFormat::kFp4:
      return codes.data + row * codes.strides[0] + k / 2;
    case WeightFormat::kTable4:
      return codes.data + (row * w.inputs + k) / 2;
    case WeightFormat::kDense:
    case WeightFormat::kDenseIn:
    case WeightFormat::kAwq:
    case WeightFormat::kGptq:
    case WeightFormat::kE4M3In:
      break;
  }
  FailOp("%s has no codes by row", kWeightFormatNames[static_cast<int>(w.format)]);
}

/// Row `row` over inputs [k, k + length) to `to`, zero-padded to whole vectors; k is a multiple of kWidth.
/// @param order_block of OrderBlock, or 0
__attribute__((noinline)) inline void ExpandRow(const Weight& w, int64_t row, int64_t k, int64_t length, int64_t order_block,
                                                const RowGroups& groups, const GroupBuffers& buffers, float* to) {
  LoadRowGroups(w, row, groups, buffers.scales, buffers.zeros);
  const uint8_t* codes = RowCodes(w, row, k);
  const bool zeros = w.Part(WeightPart::kZeros).data != nullptr;
  const bool odd = w.format == WeightFormat::kTable4 && (row * w.inputs + k) % 2 != 0;
  if (!groups.in_vectors || odd) SpreadRowGroups(w, groups, k, length, buffers);
  const NibbleOrder low(0, 4, 8, 12, 16, 20, 24, 28), high(4, 0, 12, 8, 20, 16, 28, 24);
  WithRounding(w, [&](const auto& rounded) {
    const auto bytes = [&]<class C, bool kZeros>() { ExpandBytes<C, kZeros>(codes, rounded, groups, length, buffers, to); };
    const auto nibbles = [&]<bool kZeros>(const Nibbles& from) {
      ExpandNibbles<kZeros>(from, rounded, groups, length, buffers, to);
    };
    switch (w.format) {
      case WeightFormat::kE4M3:
        return ExpandE4M3(w, codes, rounded, groups, length, order_block, buffers, to);
      case WeightFormat::kInt8:
        return zeros ? bytes.template operator()<I8Codes, true>() : bytes.template operator()<I8Codes, false>();
      case WeightFormat::kPacked8:
        return zeros ? bytes.template operator()<OffsetCodes, true>() : bytes.template operator()<OffsetCodes, false>();
      case WeightFormat::kPacked4: {
        const Nibbles from{low, kFourBits, codes, false, false, order_block};
        return zeros ? nibbles.template operator()<true>(from) : nibbles.template operator()<false>(from);
      }
      case WeightFormat::kFp4:
        return nibbles.template operator()<false>({low, kE2M1, codes, false, false, order_block});
      case WeightFormat::kTable4: {
        float meanings[16];
        std::memcpy(meanings, w.Part(WeightPart::kTable).data, sizeof meanings);
        for (int i = 0; i < 16; i += kWidth) Store(meanings + i, PlainNan(Load(meanings + i)));
        return nibbles.template operator()<false>({high, meanings, codes, odd, true, 0});
      }
      case WeightFormat::kDense:
      case WeightFormat::kDenseIn:
      case WeightFormat::kAwq:
      case WeightFormat::kGptq:
      case WeightFormat::kE4M3In:
        break;
    }
    FailOp("%s is not stored by rows", kWeightFormatNames[static_cast<int>(w.format)]);
  });
  for (int64_t i = length; i < RoundUp(length, kWidth); ++i) to[i] = 0;
}

}  // namespace zi::ZI_ISA
