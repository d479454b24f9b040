// Drawing one token from weighted ones, the same on every instruction set: plain code, compiled without their flags.
#pragma once
#include <cstdint>

namespace zi {

struct DrawSettings {
  /// 0 for all.
  int64_t top_k;
  /// At least 1 for all.
  float top_p;
  /// Times the largest weight, which is 1.
  float min_p;
  uint32_t random_bits;
};

/// `logits` decide who stays and hold no NaN; `weights` are their exponentials, the largest 1. `keys` is scratch.
int32_t DrawToken(const float* logits, const float* weights, int64_t count, const DrawSettings& settings,
                  uint64_t* keys);

}  // namespace zi
