// Implements cuda/exchange.h: as soon as the host says where an expert is, blocks read its bytes and those of the slot that it comes to,
// and write both, so that both ways of the link are in use at once.
#include <stdexcept>

#include "cuda/exchange.h"
#include "cuda/mail.h"
#include "cuda/overlap.h"
#include "ops/exchange.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// So many have the whole link both ways.
constexpr unsigned kBlocks = 32;
constexpr int kPieceBytes = 32 << 10;
/// Rows that were found count from a multiple of this, which differs from call to call.
constexpr uint32_t kRowsEach = 2048;
static_assert(kMostExpertsInSlots < kRowsEach - 1);

struct ExchangeArguments {
  const int32_t *list, *calls, *places, *found;
  int64_t found_stride;
  int part_count;
  uint8_t *slots, *home;
  int64_t slot_bytes, home_bytes;
  MailArguments mail;
  Fault* fault;
};

/// By one thread of a block: whether so many experts are there. The first block alone looks at the host's words.
__device__ inline bool AwaitRow(const ExchangeArguments& a, int told, uint32_t calls) {
  int32_t* const seen = a.mail.state + kFoundState;
  const uint32_t begin = calls * kRowsEach;
  if (blockIdx.x == 0) {
    const int32_t* const turn = a.found + told * a.found_stride + kFoundTurn;
    uint32_t row = static_cast<uint32_t>(told) + 1;
    while (LoadFromHost(turn) != static_cast<int32_t>(calls)) {
      if (LoadFromHost(a.mail.words + kClosedWord) == 0 && LoadFromHost(a.mail.words + kFailedWord) == 0) continue;
      Report(a.fault, kHostFailed, told, 0, 0);
      row = kRowsEach - 1;
      break;
    }
    asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(seen), "r"(begin + row) : "memory");
    return row != kRowsEach - 1;
  }
  for (;;) {
    const uint32_t rows = static_cast<uint32_t>(LoadFromDevice(seen)) - begin;
    if (rows == kRowsEach - 1) return false;
    if (rows < kRowsEach && rows > static_cast<uint32_t>(told)) return true;
    __nanosleep(64);
  }
}

/// By the first warp of a block: a row of what was found, in shared memory. Requests for one line of the host's memory go one after
/// another, a microsecond each, so that a block makes one for the words of a row.
__device__ inline bool TakeRow(const ExchangeArguments& a, int told, uint32_t calls, int32_t* words) {
  const int lane = static_cast<int>(threadIdx.x);
  const bool there = __shfl_sync(0xffffffffu, lane == 0 && AwaitRow(a, told, calls), 0);
  if (!there) return false;
  const int32_t* const row = a.found + told * a.found_stride;
  for (int word = lane; word < kFoundHead + 2 * a.part_count; word += 32) words[word] = __ldcv(row + word);
  return true;
}

/// Several loads are on their way at once. What the host has is read anew: a drive may have written there, or the device before.
template <class V>
__device__ inline void Exchange(uint8_t* here, uint8_t* there, int bytes, bool swaps) {
  constexpr int kAhead = 4;
  const int count = bytes / static_cast<int>(sizeof(V));
  V* const near = reinterpret_cast<V*>(here);
  V* const far = reinterpret_cast<V*>(there);
  for (int first = static_cast<int>(threadIdx.x); first < count; first += kAhead * kThreads) {
    V comes[kAhead], leaves[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = first + u * kThreads;
      if (i >= count) continue;
      comes[u] = __ldcv(far + i);
      if (swaps) leaves[u] = near[i];
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = first + u * kThreads;
      if (i >= count) continue;
      near[i] = comes[u];
      if (swaps) far[i] = leaves[u];
    }
  }
  if constexpr (sizeof(V) > 1) {
    const int whole = count * static_cast<int>(sizeof(V));
    if (whole < bytes) Exchange<unsigned char>(here + whole, there + whole, bytes - whole, swaps);
  }
}

__device__ inline void ExchangePiece(uint8_t* here, uint8_t* there, int bytes, bool swaps) {
  const auto lies = reinterpret_cast<uintptr_t>(here) | reinterpret_cast<uintptr_t>(there);
  if (lies % 16 == 0) return Exchange<uint4>(here, there, bytes, swaps);
  if (lies % 8 == 0) return Exchange<uint2>(here, there, bytes, swaps);
  if (lies % 4 == 0) return Exchange<unsigned>(here, there, bytes, swaps);
  Exchange<unsigned char>(here, there, bytes, swaps);
}

__global__ void __launch_bounds__(kThreads) ExchangeExperts(const __grid_constant__ ExchangeArguments a) {
  __shared__ int pieces_before[kMostParts + 1];
  __shared__ int32_t row[kFoundHead + 2 * kMostParts];
  __shared__ bool there;
  Begin();
  if (threadIdx.x == 0) {
    pieces_before[0] = 0;
    for (int part = 0; part < a.part_count; ++part) {
      pieces_before[part + 1] = pieces_before[part] + (a.places[2 * part + 1] + kPieceBytes - 1) / kPieceBytes;
    }
  }
  const int count = a.list[0];
  const auto calls = static_cast<uint32_t>(*a.calls);
  for (int told = 0; told < count; ++told) {
    if (threadIdx.x < 32) there = TakeRow(a, told, calls, row);
    __syncthreads();
    if (!there) return;
    const int which = row[kFoundWhich];
    const bool swaps = row[kFoundSwaps] != 0;
    if (which < 0 || which >= count) {
      if (threadIdx.x == 0) Report(a.fault, kExpertPartOutside, which, 0, count);
      return;
    }
    const int slot = a.list[2 + 2 * which], each = pieces_before[a.part_count];
    for (int piece = static_cast<int>(blockIdx.x); piece < each; piece += static_cast<int>(gridDim.x)) {
      int part = 0;
      while (pieces_before[part + 1] <= piece) ++part;
      const int64_t first = static_cast<int64_t>(piece - pieces_before[part]) * kPieceBytes;
      const int64_t to = a.places[2 * part] + first;
      const int64_t bytes = min(a.places[2 * part + 1] - first, static_cast<int64_t>(kPieceBytes));
      const int32_t* const begins = row + kFoundHead + 2 * part;
      const int64_t from = (static_cast<int64_t>(begins[1]) << 32 | static_cast<uint32_t>(begins[0])) + first;
      if (from < 0 || from + bytes > a.home_bytes || to < 0 || to + bytes > a.slot_bytes) {
        if (threadIdx.x == 0) Report(a.fault, kExpertPartOutside, which, from + bytes, a.home_bytes);
        continue;
      }
      ExchangePiece(a.slots + slot * a.slot_bytes + to, a.home + from, static_cast<int>(bytes), swaps);
    }
    __syncthreads();
  }
}

const int32_t* Words(const View& view) { return reinterpret_cast<const int32_t*>(view.data); }

}  // namespace

void LaunchExchange(const BringExpertsOp& op, Run& run) {
  ExchangeArguments a{};
  a.list = Words(op.list);
  a.calls = Words(op.calls);
  a.places = Words(op.places);
  a.found = Words(op.behind.found);
  a.found_stride = op.behind.found.strides[0];
  a.part_count = static_cast<int>(op.part_count());
  a.slots = op.slots.data;
  a.slot_bytes = op.slots.shape[1];
  a.home = op.behind.slots.data;
  a.home_bytes = op.behind.slots.shape[0] * op.behind.slots.shape[1];
  a.mail = MailArguments(op.behind.mail);
  a.fault = run.fault();
  Overlapped(ExchangeExperts, dim3(kBlocks), kThreads, run, a);
}

void Launch(const FindExpertsOp&, Run&) { throw std::runtime_error("the host finds experts, no device does"); }

}  // namespace zi::cuda
