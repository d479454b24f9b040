// bring_experts: one block decides which slots the chosen experts get that lie in none, or that the host computes them. Others then
// bring what comes, so that no program of the host need know who was chosen.
#include <algorithm>
#include <climits>
#include <stdexcept>

#include "cuda/exchange.h"
#include "cuda/mail.h"
#include "cuda/overlap.h"
#include "cuda/views.h"
#include "ops/exchange.h"
#include "ops/slots.h"

namespace zi::cuda {
namespace {

/// A thread for each expert, and at least so many: barriers of more take longer.
constexpr int kLeastDeciding = 512, kMostDeciding = kMostExpertsInSlots;
constexpr int kMostWarps = kMostDeciding / 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// What the host computes in the device's place; `here` is null where it computes nothing.
struct AsideArguments {
  int32_t *here, *there;
  int64_t here_stride, there_stride, rows, columns, job;
  RowView x, host_x, weights, host_weights;
  /// Both x are f32 whose rows begin and end with four values.
  bool fours;
  MailArguments mail;
};

struct BringArguments {
  const int32_t* experts;
  int64_t tokens, each, stride;
  int expert_count;
  int32_t *slot_of, *uses, *key_of, *stamps, *calls, *counts, *list;
  int64_t keys, first_key, age_calls;
  int slot_count;
  AsideArguments aside;
  /// Null where experts come from their home.
  int32_t* asked;
  MailArguments behind;
  int64_t behind_job;
  Fault* fault;
};

__device__ inline int Warps() { return static_cast<int>(blockDim.x) / 32; }

struct Candidate {
  int64_t worth;
  int slot;
};
__device__ inline bool Before(const Candidate& a, const Candidate& b) {
  return a.worth != b.worth ? a.worth < b.worth : a.slot < b.slot;
}
__device__ inline Candidate FirstOfWarp(Candidate mine) {
  for (int step = 16; step > 0; step /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, mine.worth, step), __shfl_xor_sync(kAllLanes, mine.slot, step)};
    if (Before(other, mine)) mine = other;
  }
  return mine;
}

/// What slots are worth that belong to this thread, every blockDim.x-th of all: so many are held in registers, and those beyond looked
/// at anew each time.
class OwnSlots {
 public:
  __device__ OwnSlots(const BringArguments& a, int32_t calls) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      keys_[i] = SlotOf(i) < a.slot_count ? a.key_of[SlotOf(i)] : -1;
      held_[i] = WorthNow(a, SlotOf(i), keys_[i], calls);
    }
  }
  /// The one that leaves first.
  __device__ Candidate First(const BringArguments& a, int32_t calls) const {
    Candidate first{kStays, INT_MAX};
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const Candidate mine{held_[i], held_[i] == kStays ? INT_MAX : SlotOf(i)};
      if (Before(mine, first)) first = mine;
    }
    for (int slot = SlotOf(kHeld); slot < a.slot_count; slot += static_cast<int>(blockDim.x)) {
      const int64_t worth = WorthNow(a, slot, a.key_of[slot], calls);
      if (worth != kStays && Before({worth, slot}, first)) first = {worth, slot};
    }
    return first;
  }
  /// The slot is taken: who lay there, or -1.
  __device__ int32_t Take(const BringArguments& a, int slot) {
    int32_t key = -1;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (SlotOf(i) != slot) continue;
      held_[i] = kStays;
      key = keys_[i];
    }
    return slot < SlotOf(kHeld) ? key : a.key_of[slot];
  }

 private:
  static constexpr int kHeld = 8;
  /// What this call wants stays.
  static constexpr int64_t kStays = LLONG_MAX;

  __device__ static int SlotOf(int i) { return static_cast<int>(threadIdx.x + i * blockDim.x); }
  __device__ static int64_t WorthNow(const BringArguments& a, int slot, int32_t key, int32_t calls) {
    if (slot >= a.slot_count) return kStays;
    const int32_t stamp = a.stamps[slot];
    if (key >= 0 && stamp == calls) return kStays;
    const uint32_t since = CallsSince(calls, stamp);
    const int32_t uses = key < 0 ? 0 : UsesBefore(a.uses[key], key < a.first_key, since, a.age_calls);
    return Worth(key < 0, uses, since);
  }

  int32_t keys_[kHeld];
  int64_t held_[kHeld];
};

/// Says who comes and who leaves for that, as the host's slots have to know.
__device__ inline void WriteAsked(const BringArguments& a, int i, int32_t comes, int slot) {
  if (!a.asked) return;
  const int32_t leaves = a.key_of[slot];
  int32_t* const words = a.asked + kAskedHead + kAskedEach * i;
  words[kComesKey] = comes;
  words[kComesUses] = a.uses[comes];
  words[kLeavesKey] = leaves;
  words[kLeavesUses] = leaves < 0 ? 0 : a.uses[leaves];
  words[kLeavesStamp] = a.stamps[slot];
}

/// By every thread, when all has been written.
__device__ inline void AskForPlaces(const BringArguments& a, int count, int32_t calls) {
  if (!a.asked || count == 0) return;
  if (threadIdx.x == 0) {
    a.asked[kAskedCount] = count;
    a.asked[kAskedCalls] = calls;
    a.asked[kAskedFirstKey] = static_cast<int32_t>(a.first_key);
    NoteAsked(a.behind, count, 0);
  }
  __syncthreads();
  if (threadIdx.x == 0) Ask(a.behind, a.behind_job, 0);
}

/// The experts that were wanted least of those that miss are left to the host. Returns whether this thread's is; `count` of all
/// miss. To be called by every thread.
__device__ inline bool LeftToHost(const BringArguments& a, bool misses, int count, int32_t calls, int* to_host) {
  __shared__ int32_t uses_of[kMostDeciding];
  __shared__ Candidate firsts[kMostWarps];
  __shared__ int share, most_uses, balanced;
  const int me = static_cast<int>(threadIdx.x);
  const int32_t uses = misses ? a.uses[a.first_key + me] : INT_MAX;
  uses_of[me] = uses;
  if (me == 0) {
    const int32_t tries = PeekAtHost(a.aside.mail.words + kTryWord), planned = PeekAtHost(a.aside.mail.words + kSharesWord + count);
    balanced = tries != 0;
    share = ShareOf(planned, count, calls, balanced != 0);
    if (share > 0) AwaitHost(a.aside.mail, a.fault);
    most_uses = 0;
  }
  __syncthreads();
  if (share > 0 && share == count) {
    const Candidate first = FirstOfWarp(OwnSlots(a, calls).First(a, calls));
    if (me % 32 == 0) firsts[me / 32] = first;
    if (misses) atomicMax(&most_uses, uses);
    __syncthreads();
    if (me < 32) {
      const Candidate leaves = FirstOfWarp(me < Warps() ? firsts[me] : Candidate{LLONG_MAX, INT_MAX});
      const int32_t key = a.key_of[leaves.slot];
      if (me == 0 && ComesAnyway(key < 0, most_uses, key < 0 ? 0 : a.uses[key], balanced != 0)) --share;
    }
    __syncthreads();
  }
  *to_host = share;
  if (!misses || share == 0) return false;
  int before = 0;
  for (int e = 0; e < a.expert_count; ++e) before += uses_of[e] < uses || (uses_of[e] == uses && e < me);
  return before < share;
}

__device__ inline void Load(const RowView& x, int64_t row, int64_t column, float* to) { *to = x.Get(row, column); }
__device__ inline void Load(const RowView& x, int64_t row, int64_t column, float4* to) {
  *to = *reinterpret_cast<const float4*>(x.Row<float>(row) + column);
}

/// Gives the host all inputs, one or four at a time. Several loads are on their way at once: one block writes all.
template <class V>
__device__ inline void WriteInputs(const AsideArguments& aside) {
  constexpr unsigned kEach = sizeof(V) / sizeof(float), kAhead = kEach == 1 ? 6 : 4;
  const auto columns = static_cast<unsigned>(aside.columns) / kEach, all = static_cast<unsigned>(aside.rows) * columns;
  for (unsigned first = threadIdx.x; first < all; first += kAhead * blockDim.x) {
    V values[kAhead];
#pragma unroll
    for (unsigned u = 0; u < kAhead; ++u) {
      const unsigned i = first + u * blockDim.x;
      if (i < all) Load(aside.x, i / columns, i % columns * kEach, &values[u]);
    }
#pragma unroll
    for (unsigned u = 0; u < kAhead; ++u) {
      const unsigned i = first + u * blockDim.x;
      if (i < all) *reinterpret_cast<V*>(aside.host_x.Row<float>(i / columns) + i % columns * kEach) = values[u];
    }
  }
}

/// Says who computes which choice, and gives the host what its job takes.
__device__ inline void AskForExperts(const BringArguments& a, const uint8_t* leaves, int count, int to_host) {
  const AsideArguments& aside = a.aside;
  const int me = static_cast<int>(threadIdx.x);
  for (int64_t choice = me; choice < a.tokens * a.each; choice += blockDim.x) {
    const int64_t token = choice / a.each, which = choice % a.each;
    const int32_t expert = a.experts[token * a.stride + which];
    const bool left = to_host > 0 && expert >= 0 && expert < a.expert_count && leaves[expert];
    aside.here[token * aside.here_stride + which] = left ? kElsewhere : expert;
    if (to_host == 0) continue;
    aside.there[token * aside.there_stride + which] = left ? expert : kElsewhere;
    if (aside.weights.data) aside.host_weights.Row<float>(token)[which] = aside.weights.Row<float>(token)[which];
  }
  if (me == 0) NoteAsked(aside.mail, count - to_host, to_host);
  if (to_host == 0) return;
  if (aside.fours) {
    WriteInputs<float4>(aside);
  } else {
    WriteInputs<float>(aside);
  }
  __syncthreads();
  if (me == 0) Ask(aside.mail, aside.job, to_host);
}

/// Those that miss and come get the slots of those that leave first. To be called by every thread.
__device__ inline void TakeSlots(const BringArguments& a, const int16_t* missing, int count, int32_t calls) {
  __shared__ Candidate firsts[kMostWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  OwnSlots own(a, calls);
  Candidate mine = own.First(a, calls);
  for (int i = 0; i < count; ++i) {
    const Candidate best = FirstOfWarp(mine);
    if (lane == 0) firsts[warp] = best;
    __syncthreads();
    const Candidate first = FirstOfWarp(lane < Warps() ? firsts[lane] : Candidate{LLONG_MAX, INT_MAX});
    if (first.slot == mine.slot) {
      const int expert = missing[i];
      const int32_t leaves = own.Take(a, first.slot), comes = static_cast<int32_t>(a.first_key) + expert;
      WriteAsked(a, i, comes, first.slot);
      if (leaves >= 0) a.slot_of[leaves] = -1;
      a.key_of[first.slot] = comes;
      a.slot_of[comes] = first.slot;
      a.stamps[first.slot] = calls;
      a.list[1 + 2 * i] = expert;
      a.list[2 + 2 * i] = first.slot;
      mine = own.First(a, calls);
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kMostDeciding) Decide(const __grid_constant__ BringArguments a) {
  __shared__ uint8_t wanted[kMostDeciding];
  __shared__ int16_t missing[kMostDeciding];
  __shared__ int missing_before[kMostWarps];
  Begin();
  const int me = static_cast<int>(threadIdx.x), warp = me / 32, lane = me % 32;
  wanted[me] = 0;
  const int32_t calls = *a.calls + 1;
  __syncthreads();
  for (int64_t choice = me; choice < a.tokens * a.each; choice += blockDim.x) {
    const int32_t expert = a.experts[choice / a.each * a.stride + choice % a.each];
    if (expert >= 0 && expert < a.expert_count) {
      wanted[expert] = 1;
    } else {
      Report(a.fault, kExpertOutside, choice, expert, a.expert_count);
    }
  }
  if (calls % a.age_calls == 0) {
    for (int64_t key = me; key < a.keys; key += blockDim.x) a.uses[key] /= 2;
  }
  __syncthreads();
  const bool want = me < a.expert_count && wanted[me];
  int slot = -1;
  if (want) {
    const int64_t key = a.first_key + me;
    a.uses[key] = UsedOnce(a.uses[key]);
    slot = a.slot_of[key];
    if (slot >= 0) a.stamps[slot] = calls;
  }
  bool misses = want && slot < 0;
  const int hits = __syncthreads_count(want && !misses);
  int to_host = 0;
  if (a.aside.here) {
    const int all = __syncthreads_count(misses);
    bool leaves = false;
    if (all > 0) leaves = LeftToHost(a, misses, all, calls, &to_host);
    __syncthreads();
    wanted[me] = leaves;
    __syncthreads();
    AskForExperts(a, wanted, all, to_host);
    misses = misses && !leaves;
  }
  const unsigned in_warp = __ballot_sync(kAllLanes, misses);
  if (lane == 0) missing_before[warp] = __popc(in_warp);
  __syncthreads();
  int before = __popc(in_warp & ((1u << lane) - 1)), count = 0;
  for (int w = 0; w < Warps(); ++w) {
    if (w < warp) before += missing_before[w];
    count += missing_before[w];
  }
  if (misses) missing[before] = static_cast<int16_t>(me);
  if (me == 0 && a.asked && count > 0) AwaitHost(a.behind, a.fault);
  __syncthreads();
  if (count > 0) TakeSlots(a, missing, count, calls);
  AskForPlaces(a, count, calls);
  if (me == 0) {
    a.list[0] = count;
    a.counts[0] += hits;
    a.counts[1] += count;
    a.counts[2] += to_host;
    *a.calls = calls;
  }
}

int32_t* Words(const View& view) { return reinterpret_cast<int32_t*>(view.data); }

}  // namespace

void Launch(const BringExpertsOp& op, Run& run) {
  if (op.part_count() > kMostParts) throw std::runtime_error("experts of more parts than a kernel takes");
  BringArguments a{};
  a.experts = Words(op.experts);
  a.tokens = op.experts.shape[0];
  a.each = op.experts.shape[1];
  a.stride = op.experts.strides[0];
  a.expert_count = static_cast<int>(op.expert_count());
  a.slot_of = Words(op.slot_of);
  a.uses = Words(op.uses);
  a.key_of = Words(op.key_of);
  a.stamps = Words(op.stamps);
  a.calls = Words(op.calls);
  a.counts = Words(op.counts);
  a.list = Words(op.list);
  a.keys = op.uses.shape[0];
  a.first_key = op.first_key;
  a.age_calls = op.age_calls;
  a.slot_count = static_cast<int>(op.slots.shape[0]);
  a.fault = run.fault();
  if (op.aside) {
    const AsideExperts& aside = op.aside;
    a.aside.here = Words(aside.here);
    a.aside.there = Words(aside.there);
    a.aside.here_stride = aside.here.strides[0];
    a.aside.there_stride = aside.there.strides[0];
    a.aside.rows = aside.x.shape[0];
    a.aside.columns = aside.x.shape[1];
    a.aside.job = aside.job;
    a.aside.x = RowView(aside.x);
    a.aside.host_x = RowView(aside.host_x);
    a.aside.fours = aside.x.dtype == DType::kF32 && aside.x.shape[1] % 4 == 0 && RowsAligned(aside.x, 16) && RowsAligned(aside.host_x, 16);
    if (aside.weights.data) {
      a.aside.weights = RowView(aside.weights);
      a.aside.host_weights = RowView(aside.host_weights);
    }
    a.aside.mail = MailArguments(aside.mail);
  }
  if (op.behind) {
    a.asked = Words(op.behind.asked);
    a.behind = MailArguments(op.behind.mail);
    a.behind_job = op.behind.job;
  }
  const int experts = (a.expert_count + 31) / 32 * 32;
  Overlapped(Decide, dim3(1), std::clamp(experts, kLeastDeciding, kMostDeciding), run, a);
  if (op.behind) return LaunchExchange(op, run);
  LaunchBringing(op, run);
}

}  // namespace zi::cuda
