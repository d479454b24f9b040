// Weights of awq and gptq with codes of 4 or 8 bits, turned panel by panel into rows of packed4 or packed8, which have the same
// values: then all that is fast for rows is fast for them.
#pragma once
#include "cpu/kernel_expand.h"

namespace zi::ZI_ISA {

/// How many rows of stored words further is asked for meanwhile.
constexpr int64_t kTurnAhead = 64;

inline bool CanBeTurned(const Weight& w) { return w.format == WeightFormat::kAwq || (w.format == WeightFormat::kGptq && !ByColumns(w)); }

/// The place in its word of the m-th of eight columns of awq.
constexpr int kAwqShifts[8] = {0, 16, 4, 20, 8, 24, 12, 28};

/// What `rows` rows take: codes, scales and zeros behind each other, each from a whole vector on.
struct TurnedBytes {
  int64_t codes, scales, zeros;
  TurnedBytes(const Weight& w, int64_t rows)
      : codes(RoundUp(rows, kWidth) * RowWords(w) * 4),
        scales(RoundUp(rows * GroupCount(w) * ElementBytes(w.Part(WeightPart::kScales).dtype), 64)),
        zeros(RoundUp(RoundUp(rows, 8) / PerWord(w) * GroupCount(w) * 4, 64)) {}
  int64_t all() const { return codes + scales + zeros; }

  static int64_t PerWord(const Weight& w) { return w.format == WeightFormat::kGptq ? 32 / w.bits : 8; }
  /// From row to row: so many words that whole squares are written, and a line more, so that a column's words fall into different
  /// sets of the L1 cache.
  static int64_t RowWords(const Weight& w) { return RoundUp((w.inputs + PerWord(w) - 1) / PerWord(w), 16) + 16; }
};

/// Eight words with a field of each of eight columns to eight with all fields of a column: nibbles of an 8 × 8 square, transposed.
/// Lanes are squares of their own.
inline void TurnNibbles(__m256i (&v)[8]) {
  const auto swap = [&]<int kDistance>(__m256i mask) __attribute__((always_inline)) {
    constexpr int kShift = 4 * kDistance;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      if (i & kDistance) continue;
      const __m256i a = v[i], b = v[i + kDistance];
      const __m256i mixed = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi32(a, kShift), b), mask);
      v[i] = _mm256_xor_si256(a, _mm256_slli_epi32(mixed, kShift));
      v[i + kDistance] = _mm256_xor_si256(b, mixed);
    }
  };
  swap.template operator()<4>(_mm256_set1_epi32(0x0000ffff));
  swap.template operator()<2>(_mm256_set1_epi32(0x00ff00ff));
  swap.template operator()<1>(_mm256_set1_epi32(0x0f0f0f0f));
}

/// kWidth words of eight inputs each, of 64 rows: turned, but columns are still where awq has them.
struct TurnedWords {
  /// By word of eight inputs, place in a stored word, and word of eight rows.
  alignas(64) uint32_t words[kWidth][8][8];
};

/// Reads inputs [k, k + 8 · kWidth) of up to eight words from `from` on; inputs beyond the last are zeros.
inline void TurnAwqWords(const uint8_t* from, int64_t row_bytes, int64_t inputs, __m256i there, TurnedWords& to) {
  for (int64_t i = 0; i < kWidth; ++i, from += 8 * row_bytes, inputs -= 8) {
    __m256i v[8];
#pragma GCC unroll 8
    for (int64_t j = 0; j < 8; ++j) {
      const uint8_t* p = from + j * row_bytes;
      _mm_prefetch(reinterpret_cast<const char*>(p + kTurnAhead * row_bytes), _MM_HINT_T0);
      v[j] = j < inputs ? _mm256_maskload_epi32(reinterpret_cast<const int*>(p), there) : _mm256_setzero_si256();
    }
    TurnNibbles(v);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) _mm256_store_si256(reinterpret_cast<__m256i*>(to.words[i][j]), v[j]);
  }
}

/// Codes of rows from `row` on, a multiple of 8, as words of eight inputs.
inline void TurnAwq(const Weight& w, int64_t row, int64_t rows, uint32_t* to, int64_t pitch) {
  const View& codes = w.Part(WeightPart::kCodes);
  const int64_t row_bytes = codes.strides[0] * 4;
  constexpr int kPlaces = kWidth / 8;
  constexpr int kColumnAt[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  TurnedWords turned;
  alignas(64) float square[kWidth][kWidth];
  for (int64_t r = 0; r < rows; r += 64) {
    const int64_t words = Smaller(8, (rows - r + 7) / 8);
    const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(words)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int64_t k = 0; k < w.inputs; k += 8 * kWidth) {
      TurnAwqWords(codes.data + k * row_bytes + (row + r) / 8 * 4, row_bytes, w.inputs - k, there, turned);
      for (int place = 0; place < 8; place += kPlaces) {
        const float* lanes[kWidth];
        for (int i = 0; i < kWidth; ++i) lanes[i] = reinterpret_cast<const float*>(turned.words[i][place]);
        Transpose(lanes, square[0], kWidth);
        for (int64_t i = 0; i < kWidth; ++i) {
          const int64_t word = i % 8, column = r + word * 8 + kColumnAt[place + i / 8];
          if (word < words) Store(reinterpret_cast<float*>(to + column * pitch + k / 8), Load(square[i]));
        }
      }
    }
  }
}

/// Words of codes, a square at a time.
inline void TurnGptq(const Weight& w, int64_t row, int64_t rows, uint32_t* to, int64_t pitch) {
  const View& codes = w.Part(WeightPart::kCodes);
  const int64_t words = (w.inputs * w.bits + 31) / 32, row_words = codes.strides[0];
  const auto at = [&](int64_t word, int64_t r) { return codes.data + (word * row_words + row + r) * 4; };
  for (int64_t word = 0; word < words; word += kWidth) {
    for (int64_t r = 0; r < rows; r += kWidth) {
      if (word + kWidth <= words && r + kWidth <= rows) {
        const float* square[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          square[i] = reinterpret_cast<const float*>(at(word + i, r));
          _mm_prefetch(reinterpret_cast<const char*>(at(word + i + kTurnAhead, r)), _MM_HINT_T0);
        }
        Transpose(square, reinterpret_cast<float*>(to + r * pitch + word), pitch);
        continue;
      }
      for (int64_t i = word; i < Smaller(words, word + kWidth); ++i) {
        for (int64_t j = r; j < Smaller(rows, r + kWidth); ++j) std::memcpy(to + j * pitch + i, at(i, j), 4);
      }
    }
  }
}

/// Scales by group and row to scales by row and group.
inline void TurnScales(const Weight& w, int64_t row, int64_t rows, uint8_t* to) {
  const View& scales = w.Part(WeightPart::kScales);
  const int64_t groups = GroupCount(w);
  const auto turn = [&]<class T>(T) {
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* from = scales.data + (g * scales.strides[0] + row + w.first_row) * static_cast<int64_t>(sizeof(T));
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(to + (r * groups + g) * static_cast<int64_t>(sizeof(T)), from + r * static_cast<int64_t>(sizeof(T)), sizeof(T));
      }
    }
  };
  if (ElementBytes(scales.dtype) == 2) return turn(uint16_t{});
  turn(uint32_t{});
}

/// Zeros as words of rows, by row of words and group. `row` is a multiple of 8, and a weight by columns begins at its first row.
inline void TurnZeros(const Weight& w, int64_t row, int64_t rows, uint32_t* to) {
  const View& zeros = w.Part(WeightPart::kZeros);
  const int64_t groups = GroupCount(w), per_word = TurnedBytes::PerWord(w), first = (row + w.first_row) / per_word;
  const uint32_t ones = w.format == WeightFormat::kGptq && w.zero_plus_one ? 0xffffffffu / ((1u << w.bits) - 1) : 0;
  for (int64_t word = 0; word < (rows + per_word - 1) / per_word; ++word) {
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t stored = static_cast<uint32_t>(WordAt(zeros, g * zeros.strides[0] + first + word));
      uint32_t turned = stored + ones;
      if (w.format == WeightFormat::kAwq) {
        turned = 0;
        for (int i = 0; i < 8; ++i) turned |= (stored >> kAwqShifts[i] & 15) << (4 * i);
      }
      to[word * groups + g] = turned;
    }
  }
}

/// Rows [row, row + rows) of a weight that CanBeTurned, `row` a multiple of 8, as a weight of their own in `scratch`.
inline Weight TurnedRows(const Weight& w, int64_t row, int64_t rows, uint8_t* scratch) {
  const TurnedBytes bytes(w, rows);
  const int64_t pitch = TurnedBytes::RowWords(w), groups = GroupCount(w), per_word = TurnedBytes::PerWord(w);
  uint32_t* codes = reinterpret_cast<uint32_t*>(scratch);
  if (w.format == WeightFormat::kAwq) {
    TurnAwq(w, row, rows, codes, pitch);
  } else {
    TurnGptq(w, row, rows, codes, pitch);
  }
  TurnScales(w, row, rows, scratch + bytes.codes);
  uint32_t* zeros = reinterpret_cast<uint32_t*>(scratch + bytes.codes + bytes.scales);
  TurnZeros(w, row, rows, zeros);
  Weight turned = w;
  turned.format = per_word == 8 ? WeightFormat::kPacked4 : WeightFormat::kPacked8;
  turned.outputs = rows;
  turned.first_row = 0;
  turned.row_group = 1;
  const auto set = [&](WeightPart part, const void* data, DType type, int64_t count, int64_t length) {
    const uint8_t* bytes_of = static_cast<const uint8_t*>(data);
    turned.parts[static_cast<int>(part)] = {const_cast<uint8_t*>(bytes_of), type, 2, {count, length, 0, 0}, {length, 1, 0, 0}};
  };
  set(WeightPart::kCodes, codes, DType::kI32, rows, pitch);
  set(WeightPart::kScales, scratch + bytes.codes, w.Part(WeightPart::kScales).dtype, rows, groups);
  set(WeightPart::kZeros, zeros, DType::kI32, (rows + per_word - 1) / per_word, groups);
  return turned;
}

}  // namespace zi::ZI_ISA
