// Implements cpu/draw.h.
#include "cpu/draw.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace zi {
namespace {

/// Rises with the logit. The two zeros are one.
uint32_t Rank(float logit) {
  const float value = logit + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Rises with the logit; of equal logits, the lowest token has the highest key. No two are equal.
uint64_t Key(float logit, int64_t token) {
  return uint64_t{Rank(logit)} << 32 | (0xffffffffu - static_cast<uint32_t>(token));
}
int64_t TokenOf(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

/// Moves the keys of the k largest logits, and of all that equal the k-th, to the front; returns how many.
int64_t KeepLargest(uint64_t* keys, int64_t count, int64_t k) {
  if (k <= 0 || k >= count) return count;
  std::nth_element(keys, keys + (k - 1), keys + count, std::greater<>());
  const uint64_t least = keys[k - 1] >> 32 << 32;
  return std::partition(keys, keys + count, [least](uint64_t key) { return key >= least; }) - keys;
}

/// The key of the last token of the smallest set of likeliest ones that has a share of `top_p` of all `count`.
uint64_t LastOfNucleus(uint64_t* keys, int64_t count, const float* weights, double total, float top_p) {
  const double wanted = total * static_cast<double>(top_p);
  double sum = 0;
  // Sorted in growing pieces, because the nucleus is often a handful of a large vocabulary.
  for (int64_t begin = 0, size = 64; begin < count; size *= 4) {
    const int64_t end = std::min(count, begin + size);
    if (end < count) std::nth_element(keys + begin, keys + end, keys + count, std::greater<>());
    std::sort(keys + begin, keys + end, std::greater<>());
    for (; begin < end; ++begin) {
      sum += static_cast<double>(weights[TokenOf(keys[begin])]);
      if (sum >= wanted) return keys[begin];
    }
  }
  return keys[count - 1];
}

/// f(token, weight) for the tokens that stay, in order of ids, until f returns true.
template <class F>
void ForKept(const float* logits, const float* weights, int64_t count, uint64_t least, float min_p, F f) {
  for (int64_t token = 0; token < count; ++token) {
    if (weights[token] < min_p || Key(logits[token], token) < least) continue;
    if (f(token, static_cast<double>(weights[token]))) return;
  }
}

double Total(const float* logits, const float* weights, int64_t count, uint64_t least, float min_p) {
  double total = 0;
  ForKept(logits, weights, count, least, min_p, [&](int64_t, double weight) {
    total += weight;
    return false;
  });
  return total;
}

}  // namespace

int32_t DrawToken(const float* logits, const float* weights, int64_t count, const DrawSettings& settings,
                  uint64_t* keys) {
  const bool some = settings.top_k > 0 && settings.top_k < count, nucleus = settings.top_p < 1;
  uint64_t least = 0;
  if (some || nucleus) {
    for (int64_t token = 0; token < count; ++token) keys[token] = Key(logits[token], token);
    const int64_t kept = KeepLargest(keys, count, settings.top_k);
    if (some) least = *std::min_element(keys, keys + kept);
    if (nucleus) {
      const double total = Total(logits, weights, count, least, 0);
      least = LastOfNucleus(keys, kept, weights, total, settings.top_p);
    }
  }
  const double total = Total(logits, weights, count, least, settings.min_p);
  const double wanted = total * ((static_cast<double>(settings.random_bits) + 0.5) / 4294967296.0);
  double sum = 0;
  int64_t drawn = 0;
  ForKept(logits, weights, count, least, settings.min_p, [&](int64_t token, double weight) {
    sum += weight;
    drawn = token;
    return sum > wanted;
  });
  return static_cast<int32_t>(drawn);
}

}  // namespace zi
