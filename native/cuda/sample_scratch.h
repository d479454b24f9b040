// What the phases of drawing tokens leave to the next in scratch: a state, histograms and sums of parts for each row. In plain
// C++, because plans ask how much it is.
#pragma once
#include <cstddef>
#include <cstdint>

namespace zi::cuda {

/// Tokens of a row that a block takes at once; sums of 20 bits of each fit in 32.
constexpr int kSamplePartTokens = 4096;
/// Tokens are narrowed down by three digits of their logits' order: 11, 11 and 10 bits.
constexpr int kSampleDigits = 2048;

using SampleCount = unsigned long long;

struct SampleState {
  /// The likeliest token and its logit, as a key.
  SampleCount best;
  /// How many tokens, or how much weight, must still come from those that begin with `prefix`; what weighs more than they do.
  SampleCount wanted, higher;
  /// Weight of all that an earlier filter left; zero without one.
  SampleCount left;
  /// How many tokens at the cut stay, lowest ids first.
  SampleCount ties;
  /// Order of the cut as far as it is known, and that of an earlier filter.
  uint32_t prefix, floor;
  /// Blocks of the row that have ended.
  uint32_t arrived;
  uint32_t not_finite, draws;
  float maximum;
};

struct SampleHistogram {
  SampleCount weights[kSampleDigits];
  uint32_t counts[kSampleDigits];
};

/// What a part holds: the weight of its tokens above the cut, and how many are at it.
struct SampleShare {
  SampleCount above, ties;
};

constexpr int64_t SampleParts(int64_t vocabulary) { return (vocabulary + kSamplePartTokens - 1) / kSamplePartTokens; }

struct SampleScratch {
  SampleState* states;          // [rows]
  SampleHistogram* histograms;  // [rows, 2]: of the first digit, and of the one that is looked at
  SampleShare* shares;          // [rows, parts]
  float* logits;                // [rows, vocabulary]: after the penalty, where there is one

  SampleScratch(uint8_t* at, int64_t rows, int64_t vocabulary)
      : states(reinterpret_cast<SampleState*>(at)),
        histograms(reinterpret_cast<SampleHistogram*>(states + rows)),
        shares(reinterpret_cast<SampleShare*>(histograms + 2 * rows)),
        logits(reinterpret_cast<float*>(shares + rows * SampleParts(vocabulary))) {}

  static size_t Bytes(int64_t rows, int64_t vocabulary) {
    const size_t each = sizeof(SampleState) + 2 * sizeof(SampleHistogram) +
                        static_cast<size_t>(SampleParts(vocabulary)) * sizeof(SampleShare) +
                        static_cast<size_t>(vocabulary) * sizeof(float);
    return static_cast<size_t>(rows) * each;
  }
};

}  // namespace zi::cuda
