// Inputs as columns of tiles of AMX: rounded to bf16, or split into three bf16 that add up to them exactly. Each part is a column
// of its own, and the sums of a token's columns are added at the end.
#pragma once
#include "cpu/kernel_expand.h"

namespace zi::amx {

/// Inputs of a step: pairs that one tile holds a row of.
constexpr int64_t kStepInputs = 32;
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileFloats = kTileRows * kWidth;
/// Parts of an input that hold it exactly.
constexpr int64_t kMostParts = 3;

/// Inputs of tokens as tiles of pairs: by 32 inputs [16 pairs][columns]. Where all columns fit one tile they are the parts of the
/// first token, then those of the next; else a tile has one part of 16 tokens, with all tiles of a part and 16 tokens together.
struct ColumnTiles {
  uint32_t* data;
  int64_t tokens, parts, steps;

  bool narrow() const { return tokens * parts <= kTileRows; }
  int64_t columns() const { return narrow() ? tokens * parts : kTileRows; }
  int64_t count() const { return narrow() ? 1 : (tokens + kTileRows - 1) / kTileRows * parts; }
  int64_t words() const { return count() * steps * kTileRows * columns(); }
  uint32_t* At(int64_t tile, int64_t step) const { return data + (tile * steps + step) * kTileRows * columns(); }
};

/// 32 inputs as pairs, by part; n are there.
inline void SplitInputs(const float* from, int64_t n, int64_t parts, Ints* pairs) {
  Vec rest[2];
  for (int half = 0; half < 2; ++half) {
    const int64_t left = n - half * kWidth;
    rest[half] = left > 0 ? LoadUpTo(from + half * kWidth, left) : Zero();
  }
  if (parts == 1) {
    pairs[0] = PairsFrom(rest[0], rest[1]);
    return;
  }
  // The least part first, as they are added up.
  for (int64_t part = parts - 1; part >= 0; --part) {
    Vec high[2];
    for (int half = 0; half < 2; ++half) {
      const Vec value = PlainNan(rest[half]);
      high[half] = FloatsOf(And(_mm512_castps_si512(value), SetInts(static_cast<int>(0xffff0000u))));
      // Nothing is left of what is no number.
      const __mmask16 finite = _mm512_cmp_ps_mask(Sub(value, value), Zero(), _CMP_EQ_OQ);
      rest[half] = _mm512_maskz_sub_ps(finite, value, high[half]);
    }
    pairs[part] = PairsFrom(high[0], high[1]);
  }
}

/// The three parts of one token.
inline void PackThreeColumns(const ColumnTiles& to, int64_t inputs, const float* from, Run& run) {
  // Word i of three registers is part i % 3 of pair i / 3: from the first two parts, and then from the third.
  Ints two[3], third[3];
  __mmask16 is_third[3];
  for (int v = 0; v < 3; ++v) {
    alignas(64) int32_t places[2][16] = {};
    is_third[v] = 0;
    for (int i = 0; i < 16; ++i) {
      const int word = v * 16 + i, pair = word / 3, part = word % 3;
      places[part == 2][i] = part == 1 ? pair + 16 : pair;
      if (part == 2) is_third[v] = static_cast<__mmask16>(is_third[v] | 1 << i);
    }
    two[v] = _mm512_load_si512(places[0]);
    third[v] = _mm512_load_si512(places[1]);
  }
  ForEach(run, to.steps, 16, [&](int64_t step) {
    Ints pairs[kMostParts];
    SplitInputs(from + step * kStepInputs, inputs - step * kStepInputs, kMostParts, pairs);
    uint32_t* words = to.At(0, step);
    for (int v = 0; v < 3; ++v) {
      const Ints mixed = _mm512_permutex2var_epi32(pairs[0], two[v], pairs[1]);
      _mm512_storeu_si512(words + v * 16, _mm512_mask_permutexvar_epi32(mixed, is_third[v], third[v], pairs[2]));
    }
  });
}

/// `row(t)`: where the inputs of a token are.
template <class F>
inline void PackColumns(const ColumnTiles& to, int64_t inputs, F row, Run& run) {
  if (to.tokens == 1 && to.parts == kMostParts) return PackThreeColumns(to, inputs, row(0), run);
  if (to.narrow()) {
    ForEach(run, to.tokens, inputs, [&](int64_t t) {
      const float* from = row(t);
      for (int64_t step = 0; step < to.steps; ++step) {
        alignas(64) uint32_t words[kMostParts][kTileRows];
        Ints pairs[kMostParts];
        SplitInputs(from + step * kStepInputs, inputs - step * kStepInputs, to.parts, pairs);
        uint32_t* column = to.At(0, step) + t * to.parts;
        for (int64_t part = 0; part < to.parts; ++part) {
          _mm512_store_si512(words[part], pairs[part]);
          for (int64_t i = 0; i < kTileRows; ++i) column[i * to.columns() + part] = words[part][i];
        }
      }
    });
    return;
  }
  constexpr int64_t kSteps = 16;
  const int64_t pieces = (to.steps + kSteps - 1) / kSteps;
  ForEach(run, to.count() / to.parts * pieces, kSteps * kTileRows * 8, [&](int64_t item) {
    const int64_t block = item / pieces, end = Smaller(to.steps, (item % pieces + 1) * kSteps);
    for (int64_t step = item % pieces * kSteps; step < end; ++step) {
      alignas(64) float words[kMostParts][kTileRows][kWidth];
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int64_t t = block * kTileRows + i;
        Ints pairs[kMostParts] = {SetInts(0), SetInts(0), SetInts(0)};
        if (t < to.tokens) SplitInputs(row(t) + step * kStepInputs, inputs - step * kStepInputs, to.parts, pairs);
        for (int64_t part = 0; part < to.parts; ++part) Store(words[part][i], FloatsOf(pairs[part]));
      }
      for (int64_t part = 0; part < to.parts; ++part) {
        const float* lanes[kTileRows];
        for (int64_t i = 0; i < kTileRows; ++i) lanes[i] = words[part][i];
        Transpose(lanes, reinterpret_cast<float*>(to.At(block * to.parts + part, step)), kTileRows);
      }
    }
  });
}

/// Steps of 32 inputs, and how many words columns of that many tokens take.
inline int64_t StepsOf(int64_t inputs) { return (inputs + kStepInputs - 1) / kStepInputs; }
inline int64_t ColumnWords(int64_t tokens, int64_t parts, int64_t inputs) {
  return RoundUp(ColumnTiles{nullptr, tokens, parts, StepsOf(inputs)}.words(), kWidth);
}

}  // namespace zi::amx
