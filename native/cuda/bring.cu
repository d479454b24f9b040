// bring_experts: one block decides which slots the chosen experts get that lie in none, then all copy these from page-locked host
// memory themselves, so that the host need not know who was chosen.
#include <climits>
#include <stdexcept>

#include "cuda/fault.h"
#include "cuda/overlap.h"
#include "ops/slots.h"

namespace zi::cuda {
namespace {

constexpr int kDecideThreads = kMostExpertsInSlots;
constexpr int kWarps = kDecideThreads / 32;
constexpr unsigned kAllLanes = 0xffffffffu;

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
    const Candidate mine{Worth(key < 0, key < 0 ? 0 : a.uses[key], CallsSince(calls, stamp)), slot};
    if (Before(mine, first)) first = mine;
  }
  return first;
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
  const bool misses = want && slot < 0;
  const unsigned in_warp = __ballot_sync(kAllLanes, misses);
  if (lane == 0) missing_before[warp] = __popc(in_warp);
  const int hits = __syncthreads_count(want && !misses);
  int before = __popc(in_warp & ((1u << lane) - 1)), count = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += missing_before[w];
    count += missing_before[w];
  }
  if (misses) missing[before] = static_cast<int16_t>(me);
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
  if (me == 0) {
    a.list[0] = count;
    a.counts[0] += hits;
    a.counts[1] += count;
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
  Overlapped(Decide, dim3(1), kDecideThreads, run, a);
  Overlapped(CopyExperts, dim3(kCopyBlocks), kCopyThreads, run, a);
}

}  // namespace zi::cuda
