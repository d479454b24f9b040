// bring_experts: one block decides which slots the chosen experts get that lie in none, or that the host computes them, then all copy
// those that come from page-locked host memory themselves, so that no program of the host need know who was chosen.
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

constexpr int kDecideThreads = kMostExpertsInSlots;
constexpr int kWarps = kDecideThreads / 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// What the host computes in the device's place; `here` is null where it computes nothing.
struct AsideArguments {
  int32_t *here, *there;
  int64_t here_stride, there_stride, rows, columns, job;
  RowView x, host_x, weights, host_weights;
  MailArguments mail;
};

struct BringArguments {
  const int32_t* experts;
  int64_t tokens, each, stride;
  int expert_count, part_count;
  int32_t *slot_of, *uses, *key_of, *stamps, *calls, *counts, *list;
  int64_t keys, first_key, age_calls;
  int slot_count;
  const int32_t* places;
  const uint8_t* home;
  int64_t home_bytes;
  uint8_t* slots;
  int64_t slot_bytes;
  AsideArguments aside;
  /// Null where experts come from `home`.
  int32_t* asked;
  MailArguments behind;
  int64_t behind_job;
  Fault* fault;
};

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

/// The one that leaves first of the slots that are this thread's: every kDecideThreads-th.
__device__ inline Candidate FirstOfMine(const BringArguments& a, int32_t calls) {
  Candidate first{LLONG_MAX, INT_MAX};
  for (int slot = static_cast<int>(threadIdx.x); slot < a.slot_count; slot += kDecideThreads) {
    const int32_t key = a.key_of[slot], stamp = a.stamps[slot];
    if (key >= 0 && stamp == calls) continue;
    const uint32_t since = CallsSince(calls, stamp);
    const int32_t uses = key < 0 ? 0 : UsesBefore(a.uses[key], key < a.first_key, since, a.age_calls);
    const Candidate mine{Worth(key < 0, uses, since), slot};
    if (Before(mine, first)) first = mine;
  }
  return first;
}

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
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) Ask(a.behind, a.behind_job, 0);
}

/// The experts that were wanted least of those that miss are left to the host. Returns whether this thread's is; `count` of all
/// miss. To be called by every thread.
__device__ inline bool LeftToHost(const BringArguments& a, bool misses, int count, int32_t calls, int* to_host) {
  __shared__ int32_t uses_of[kDecideThreads];
  __shared__ Candidate firsts[kWarps];
  __shared__ int share, most_uses, balanced;
  const int me = static_cast<int>(threadIdx.x);
  const int32_t uses = misses ? a.uses[a.first_key + me] : INT_MAX;
  uses_of[me] = uses;
  if (me == 0) {
    balanced = LoadFromHost(a.aside.mail.words + kTryWord) != 0;
    share = ShareOf(LoadFromHost(a.aside.mail.words + kSharesWord + count), count, calls, balanced != 0);
    if (share > 0) AwaitHost(a.aside.mail, a.fault);
    most_uses = 0;
  }
  __syncthreads();
  if (share > 0 && share == count) {
    const Candidate first = FirstOfWarp(FirstOfMine(a, calls));
    if (me % 32 == 0) firsts[me / 32] = first;
    if (misses) atomicMax(&most_uses, uses);
    __syncthreads();
    if (me < 32) {
      const Candidate leaves = FirstOfWarp(me < kWarps ? firsts[me] : Candidate{LLONG_MAX, INT_MAX});
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

/// Says who computes which choice, and gives the host what its job takes.
__device__ inline void AskForExperts(const BringArguments& a, const uint8_t* leaves, int count, int to_host) {
  const AsideArguments& aside = a.aside;
  const int me = static_cast<int>(threadIdx.x);
  for (int64_t choice = me; choice < a.tokens * a.each; choice += kDecideThreads) {
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
  for (int64_t i = me; i < aside.rows * aside.columns; i += kDecideThreads) {
    aside.host_x.Row<float>(i / aside.columns)[i % aside.columns] = aside.x.Get(i / aside.columns, i % aside.columns);
  }
  __threadfence_system();
  __syncthreads();
  if (me == 0) Ask(aside.mail, aside.job, to_host);
}

__global__ void __launch_bounds__(kDecideThreads) Decide(const __grid_constant__ BringArguments a) {
  __shared__ uint8_t wanted[kDecideThreads];
  __shared__ int16_t missing[kDecideThreads];
  __shared__ int missing_before[kWarps];
  __shared__ Candidate firsts[kWarps];
  Begin();
  const int me = static_cast<int>(threadIdx.x), warp = me / 32, lane = me % 32;
  wanted[me] = 0;
  const int32_t calls = *a.calls + 1;
  __syncthreads();
  for (int64_t choice = me; choice < a.tokens * a.each; choice += kDecideThreads) {
    const int32_t expert = a.experts[choice / a.each * a.stride + choice % a.each];
    if (expert >= 0 && expert < a.expert_count) {
      wanted[expert] = 1;
    } else {
      Report(a.fault, kExpertOutside, choice, expert, a.expert_count);
    }
  }
  if (calls % a.age_calls == 0) {
    for (int64_t key = me; key < a.keys; key += kDecideThreads) a.uses[key] /= 2;
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
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += missing_before[w];
    count += missing_before[w];
  }
  if (misses) missing[before] = static_cast<int16_t>(me);
  if (me == 0 && a.asked && count > 0) AwaitHost(a.behind, a.fault);
  __syncthreads();
  Candidate mine = count > 0 ? FirstOfMine(a, calls) : Candidate{LLONG_MAX, INT_MAX};
  for (int i = 0; i < count; ++i) {
    const Candidate best = FirstOfWarp(mine);
    if (lane == 0) firsts[warp] = best;
    __syncthreads();
    const Candidate first = FirstOfWarp(lane < kWarps ? firsts[lane] : Candidate{LLONG_MAX, INT_MAX});
    if (first.slot == mine.slot) {
      const int expert = missing[i];
      const int32_t leaves = a.key_of[first.slot], comes = static_cast<int32_t>(a.first_key) + expert;
      WriteAsked(a, i, comes, first.slot);
      if (leaves >= 0) a.slot_of[leaves] = -1;
      a.key_of[first.slot] = comes;
      a.slot_of[comes] = first.slot;
      a.stamps[first.slot] = calls;
      a.list[1 + 2 * i] = expert;
      a.list[2 + 2 * i] = first.slot;
      mine = FirstOfMine(a, calls);
    }
    __syncthreads();
  }
  AskForPlaces(a, count, calls);
  if (me == 0) {
    a.list[0] = count;
    a.counts[0] += hits;
    a.counts[1] += count;
    a.counts[2] += to_host;
    *a.calls = calls;
  }
}

constexpr int kCopyThreads = 256;
constexpr int kPieceBytes = 32 << 10;
/// What a link has on its way is a tenth of what so many threads ask for.
constexpr unsigned kCopyBlocks = 64;
constexpr int kMostParts = 64;

/// Several loads are on their way at once: each takes microseconds beyond the link.
template <class V>
__device__ inline void CopyWide(uint8_t* to, const uint8_t* from, int bytes) {
  constexpr int kAhead = 4;
  const int count = bytes / static_cast<int>(sizeof(V));
  const V* const source = reinterpret_cast<const V*>(from);
  V* const target = reinterpret_cast<V*>(to);
  for (int first = static_cast<int>(threadIdx.x); first < count; first += kAhead * kCopyThreads) {
    V values[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (first + u * kCopyThreads < count) values[u] = source[first + u * kCopyThreads];
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (first + u * kCopyThreads < count) target[first + u * kCopyThreads] = values[u];
    }
  }
  for (int i = count * static_cast<int>(sizeof(V)) + static_cast<int>(threadIdx.x); i < bytes; i += kCopyThreads) to[i] = from[i];
}

/// The same of bytes at any address: each word of the target is made of two that lie aligned in the source.
__device__ inline void CopyShifted(uint8_t* to, const uint8_t* from, int bytes) {
  const auto shift = static_cast<unsigned>(reinterpret_cast<uintptr_t>(from) % 4);
  const uint32_t* const source = reinterpret_cast<const uint32_t*>(from - shift);
  uint32_t* const target = reinterpret_cast<uint32_t*>(to);
  const int count = bytes / 4;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kCopyThreads) {
    target[i] = __funnelshift_r(source[i], source[i + 1], 8 * shift);
  }
  for (int i = count * 4 + static_cast<int>(threadIdx.x); i < bytes; i += kCopyThreads) to[i] = from[i];
}

__device__ inline void CopyPiece(uint8_t* to, const uint8_t* from, int bytes) {
  const auto lies = reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to);
  if (lies % 16 == 0) return CopyWide<uint4>(to, from, bytes);
  if (lies % 8 == 0) return CopyWide<uint2>(to, from, bytes);
  if (lies % 4 == 0) return CopyWide<uint32_t>(to, from, bytes);
  CopyShifted(to, from, bytes);
}

__global__ void __launch_bounds__(kCopyThreads) CopyExperts(const __grid_constant__ BringArguments a) {
  __shared__ int pieces_before[kMostParts + 1];
  Begin();
  if (threadIdx.x == 0) {
    pieces_before[0] = 0;
    for (int part = 0; part < a.part_count; ++part) {
      pieces_before[part + 1] = pieces_before[part] + (a.places[2 * part + 1] + kPieceBytes - 1) / kPieceBytes;
    }
  }
  __syncthreads();
  const int each = pieces_before[a.part_count];
  const int64_t all = static_cast<int64_t>(a.list[0]) * each;
  for (int64_t piece = blockIdx.x; piece < all; piece += gridDim.x) {
    const auto which = static_cast<int>(piece / each), in_expert = static_cast<int>(piece % each);
    const int expert = a.list[1 + 2 * which], slot = a.list[2 + 2 * which];
    int part = 0;
    while (pieces_before[part + 1] <= in_expert) ++part;
    const int64_t first = static_cast<int64_t>(in_expert - pieces_before[part]) * kPieceBytes;
    const int64_t to = a.places[2 * part] + first, bytes = min(a.places[2 * part + 1] - first, static_cast<int64_t>(kPieceBytes));
    const int32_t* const words = a.places + (1 + static_cast<int64_t>(expert)) * 2 * a.part_count + 2 * part;
    const int64_t from = (static_cast<int64_t>(static_cast<uint32_t>(words[1])) << 32 | static_cast<uint32_t>(words[0])) + first;
    if (from < 0 || from + bytes > a.home_bytes || to < 0 || to + bytes > a.slot_bytes) {
      if (threadIdx.x == 0) Report(a.fault, kExpertPartOutside, expert, from + bytes, a.home_bytes);
      continue;
    }
    CopyPiece(a.slots + slot * a.slot_bytes + to, a.home + from, static_cast<int>(bytes));
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
  a.part_count = static_cast<int>(op.part_count());
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
  a.places = Words(op.places);
  a.home = op.home.data;
  a.home_bytes = op.home.shape[0];
  a.slots = op.slots.data;
  a.slot_bytes = op.slots.shape[1];
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
  Overlapped(Decide, dim3(1), kDecideThreads, run, a);
  if (op.behind) return LaunchExchange(op, run);
  Overlapped(CopyExperts, dim3(kCopyBlocks), kCopyThreads, run, a);
}

}  // namespace zi::cuda
