// Which expert leaves its slot for another: the same on every device, so that a run can be repeated.
//
// An expert is wanted once in a call however many tokens choose it. Uses are halved from time to time, so what was wanted long ago
// counts little. Of experts that were wanted equally often before this pass, the one that came last leaves: where a pass wants more experts than there
// are slots, those that lie in slots stay for the next pass. Whatever this call wants stays.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define ZI_SLOT_RULE __host__ __device__ inline
#else
#define ZI_SLOT_RULE inline
#endif

namespace zi {

/// One use, so that some are left when they have been halved.
constexpr int32_t kOneUse = 1 << 10;
constexpr int32_t kMostUses = 1 << 30;

ZI_SLOT_RULE int32_t UsedOnce(int32_t uses) { return uses < kMostUses ? uses + kOneUse : uses; }

/// Calls are counted in a word that may begin anew.
ZI_SLOT_RULE uint32_t CallsSince(int32_t calls, int32_t stamp) {
  return static_cast<uint32_t>(calls) - static_cast<uint32_t>(stamp);
}

/// Uses are halved after the calls of so many passes: sooner forgets what is common, later keeps what was.
constexpr int64_t kAgePasses = 32;

/// Uses before this pass, whose calls have come as far as some layer: experts of earlier ones have been used once more by now, which
/// says nothing about what is common.
ZI_SLOT_RULE int32_t UsesBefore(int32_t uses, bool is_of_earlier_layer, uint32_t calls_since, int64_t age_calls) {
  const bool in_this_pass = is_of_earlier_layer && static_cast<int64_t>(calls_since) < age_calls / kAgePasses;
  if (!in_this_pass) return uses;
  return uses > kOneUse ? uses - kOneUse : 0;
}

/// The slot with the least leaves first, and of equals the first one; negative for one that is free.
ZI_SLOT_RULE int64_t Worth(bool is_free, int32_t uses, uint32_t calls_since) {
  if (is_free) return -1;
  return (static_cast<int64_t>(uses) << 32) | static_cast<int64_t>(calls_since);
}

/// An expert comes in the place of one that was wanted at least so much less. With less between them they would change places again
/// and again, and each time all wait for a link, while the host would have computed it in half the time.
constexpr int32_t kWorthComing = 2 * kOneUse;

/// Whether one that misses comes although the host could compute all: where a slot is free, or where it was wanted clearly more than who
/// leaves and rates are to be balanced. Otherwise a pool would stay as it is.
ZI_SLOT_RULE bool ComesAnyway(bool is_free, int32_t uses, int32_t uses_of_leaving, bool balanced) {
  return is_free || (balanced && uses - uses_of_leaving >= kWorthComing);
}

}  // namespace zi
