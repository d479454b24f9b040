// Bringing experts from page-locked host memory to the slots that they got: kernels read it over the link at nearly its rate.
#include "cuda/exchange.h"
#include "cuda/fault.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

constexpr int kCopyThreads = 256;
constexpr int kPieceBytes = 32 << 10;
/// What a link has on its way is a tenth of what so many threads ask for.
constexpr unsigned kCopyBlocks = 64;
/// What crosses the link at once. A line of which two requests take a part crosses it twice.
constexpr int kLineBytes = 128;

/// So many words of 16 bytes from a whole line on, each stored as several V where the target lies otherwise. Several loads are on their
/// way at once: each takes microseconds beyond the link.
template <class V>
__device__ inline void CopyLines(uint8_t* to, const uint8_t* from, int count) {
  constexpr int kAhead = 4, kEach = sizeof(uint4) / sizeof(V);
  const uint4* const source = reinterpret_cast<const uint4*>(from);
  V* const target = reinterpret_cast<V*>(to);
  for (int first = static_cast<int>(threadIdx.x); first < count; first += kAhead * kCopyThreads) {
    union {
      uint4 word;
      V parts[kEach];
    } values[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (first + u * kCopyThreads < count) values[u].word = source[first + u * kCopyThreads];
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (first + u * kCopyThreads >= count) continue;
#pragma unroll
      for (int part = 0; part < kEach; ++part) target[(first + u * kCopyThreads) * kEach + part] = values[u].parts[part];
    }
  }
}

/// Bytes at any address: what lies before the first whole line and behind the last word goes byte by byte.
__device__ inline void CopyPiece(uint8_t* to, const uint8_t* from, int bytes) {
  const int head = min(bytes, static_cast<int>(-reinterpret_cast<uintptr_t>(from) % kLineBytes));
  const int words = (bytes - head) / static_cast<int>(sizeof(uint4)), tail = head + words * static_cast<int>(sizeof(uint4));
  const int me = static_cast<int>(threadIdx.x);
  if (me < head) to[me] = from[me];
  if (tail + me < bytes) to[tail + me] = from[tail + me];
  const auto lies = reinterpret_cast<uintptr_t>(to + head);
  if (lies % 16 == 0) return CopyLines<uint4>(to + head, from + head, words);
  if (lies % 8 == 0) return CopyLines<uint2>(to + head, from + head, words);
  if (lies % 4 == 0) return CopyLines<uint32_t>(to + head, from + head, words);
  CopyLines<uint8_t>(to + head, from + head, words);
}

struct CopyArguments {
  const int32_t *list, *places;
  int part_count;
  const uint8_t* home;
  int64_t home_bytes;
  uint8_t* slots;
  int64_t slot_bytes;
  Fault* fault;
};

/// A part's pieces, where they may begin with any byte of a line.
__device__ inline int PiecesOf(int bytes) { return (bytes + kLineBytes - 1 + kPieceBytes - 1) / kPieceBytes; }

__global__ void __launch_bounds__(kCopyThreads) CopyExperts(const __grid_constant__ CopyArguments a) {
  __shared__ int pieces_before[kMostParts + 1];
  Begin();
  if (threadIdx.x == 0) {
    pieces_before[0] = 0;
    for (int part = 0; part < a.part_count; ++part) {
      pieces_before[part + 1] = pieces_before[part] + PiecesOf(a.places[2 * part + 1]);
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
    const int32_t* const words = a.places + (1 + static_cast<int64_t>(expert)) * 2 * a.part_count + 2 * part;
    const int64_t from = static_cast<int64_t>(static_cast<uint32_t>(words[1])) << 32 | static_cast<uint32_t>(words[0]);
    const int64_t to = a.places[2 * part], bytes = a.places[2 * part + 1];
    if (from < 0 || from + bytes > a.home_bytes || to < 0 || to + bytes > a.slot_bytes) {
      if (threadIdx.x == 0) Report(a.fault, kExpertPartOutside, expert, from + bytes, a.home_bytes);
      continue;
    }
    // Pieces are cut where lines of the host's memory begin.
    const auto in_line = static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.home + from) % kLineBytes);
    const int64_t begin = static_cast<int64_t>(in_expert - pieces_before[part]) * kPieceBytes - in_line;
    const int64_t first = max(begin, int64_t{0}), end = min(begin + kPieceBytes, bytes);
    if (first < end) CopyPiece(a.slots + slot * a.slot_bytes + to + first, a.home + from + first, static_cast<int>(end - first));
  }
}

const int32_t* Words(const View& view) { return reinterpret_cast<const int32_t*>(view.data); }

}  // namespace

void LaunchBringing(const BringExpertsOp& op, Run& run) {
  const CopyArguments arguments{Words(op.list),   Words(op.places), static_cast<int>(op.part_count()), op.home.data,
                                op.home.shape[0], op.slots.data,    op.slots.shape[1],                 run.fault()};
  Overlapped(CopyExperts, dim3(kCopyBlocks), kCopyThreads, run, arguments);
}

}  // namespace zi::cuda
