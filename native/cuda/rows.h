// What rotary, kv_store and both together (turned.cu) share: the turns of a token, and copies into the cache.
#pragma once
#include "cuda/fault.h"
#include "cuda/views.h"

namespace zi::cuda {

struct TurnArguments {
  const int32_t* positions;
  const float* frequencies;
  int pairs;
  bool interleaved;
  float scale;

  explicit TurnArguments(const RotaryOp& op)
      : positions(reinterpret_cast<const int32_t*>(op.positions.data)),
        frequencies(reinterpret_cast<const float*>(op.inverse_frequencies.data)),
        pairs(static_cast<int>(op.inverse_frequencies.shape[0])),
        interleaved(op.interleaved),
        scale(op.scale) {}
  size_t shared_bytes() const { return 2 * sizeof(float) * pairs; }
  /// Where eight of the values of eight pairs from the i-th on begin, and where the others do.
  __device__ int First(int i) const { return interleaved ? 2 * i : i; }
  __device__ int Second(int i) const { return interleaved ? 2 * i + 8 : i + pairs; }
};

/// Cosines, then sines, of each pair of a token; of all threads of a block.
__device__ inline void FindTurns(const TurnArguments& a, int64_t token, float* turns) {
  for (int i = threadIdx.x; i < a.pairs; i += blockDim.x) {
    // In double: positions of 10⁵ leave a float no digits of the angle.
    double sine, cosine;
    sincos(static_cast<double>(a.positions[token]) * static_cast<double>(a.frequencies[i]), &sine, &cosine);
    turns[i] = static_cast<float>(cosine * a.scale);
    turns[a.pairs + i] = static_cast<float>(sine * a.scale);
  }
  __syncthreads();
}

/// Turns eight pairs from the i-th on, as they lie at First(i) and Second(i).
__device__ inline void TurnEight(const TurnArguments& a, const float* turns, int i, float (&low)[8], float (&high)[8]) {
  const float* const cosines = turns + i;
  const float* const sines = turns + a.pairs + i;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float& x = a.interleaved ? (j < 4 ? low : high)[2 * j % 8] : low[j];
    float& y = a.interleaved ? (j < 4 ? low : high)[2 * j % 8 + 1] : high[j];
    const float before = x;
    x = before * cosines[j] - y * sines[j];
    y = y * cosines[j] + before * sines[j];
  }
}

/// Keys, or values, in bytes: what a block of the same type copies in pieces of 16.
struct CopySide {
  const uint8_t* from;
  uint8_t* to;
  int64_t from_token, from_head, to_page, to_head, to_token;
  int pieces;  // of a head

  CopySide() = default;
  CopySide(const View& source, const View& cache)
      : from(source.data), to(cache.data), pieces(static_cast<int>(source.shape[2] * ElementBytes(source.dtype) / 16)) {
    const int64_t bytes = ElementBytes(source.dtype);
    from_token = source.strides[0] * bytes, from_head = source.strides[1] * bytes;
    to_page = cache.strides[0] * bytes, to_head = cache.strides[1] * bytes, to_token = cache.strides[2] * bytes;
  }
};
struct CopyArguments {
  CopySide sides[2];
  const int32_t* slots;
  int slot_count, page_tokens, heads;
  Fault* fault;

  CopyArguments(const KvStoreOp& op, Fault* fault)
      : slots(reinterpret_cast<const int32_t*>(op.slots.data)),
        page_tokens(static_cast<int>(op.keys.shape[2])),
        heads(static_cast<int>(op.k.shape[1])),
        fault(fault) {
    slot_count = static_cast<int>(op.keys.shape[0]) * page_tokens;
    sides[0] = CopySide(op.k, op.keys);
    if (op.v.data) sides[1] = CopySide(op.v, op.values);
  }
  /// Where the token goes to; -1 where there is no such place, which one thread of a token reports.
  __device__ int SlotOf(int token, bool reports) const {
    const int slot = slots[token];
    if (slot >= 0 && slot < slot_count) return slot;
    if (reports) Report(fault, kSlotOutside, token, slot, slot_count);
    return -1;
  }
  /// Where the head of a token in that slot begins.
  __device__ uint8_t* PlaceOf(const CopySide& side, int slot, int head) const {
    return side.to + slot / page_tokens * side.to_page + head * side.to_head + slot % page_tokens * side.to_token;
  }
  __device__ void CopyPiece(const CopySide& side, int token, int slot, int head, int piece) const {
    const auto* const from = reinterpret_cast<const uint4*>(side.from + token * side.from_token + head * side.from_head);
    reinterpret_cast<uint4*>(PlaceOf(side, slot, head))[piece] = from[piece];
  }
};

/// Whether the cache holds the very bits of k and v, in pieces of 16 bytes.
bool StoresPieces(const KvStoreOp& op);

}  // namespace zi::cuda
