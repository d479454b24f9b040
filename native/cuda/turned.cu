// Implements cuda/turned.h: a thread for eight pairs of a head, which are stored as soon as they are turned, or for a piece of what is
// stored as it is.
#include "cuda/turned.h"

#include "cuda/overlap.h"
#include "cuda/rows.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
/// So many take 5 µs, and 11 by kernels of their own: Llama 3 70B on one of two H200.
constexpr int64_t kMostTokens = 128;

struct TurnedArguments {
  TurnArguments turn;
  RowView q, k;
  int q_heads;
  CopyArguments store;
};

/// Threads of a token.
struct Shares {
  /// Eight pairs of q, and of k; pieces of k that are not turned, and of v.
  int q, k, rest, v;
  __host__ __device__ explicit Shares(const TurnedArguments& a) {
    const int steps = a.turn.pairs / 8;
    q = a.q_heads * steps;
    k = a.store.heads * steps;
    rest = a.store.heads * (a.store.sides[0].pieces - 2 * steps);
    v = a.store.heads * a.store.sides[1].pieces;
  }
  __host__ __device__ int all() const { return q + k + rest + v; }
};

__device__ void TurnQuery(const TurnedArguments& a, const float* turns, int token, int at) {
  const int steps = a.turn.pairs / 8, i = at % steps * 8;
  const int64_t row = static_cast<int64_t>(token) * a.q_heads + at / steps;
  float low[8], high[8];
  a.q.GetEight(row, a.turn.First(i), low);
  a.q.GetEight(row, a.turn.Second(i), high);
  TurnEight(a.turn, turns, i, low, high);
  a.q.PutEight(row, a.turn.First(i), low);
  a.q.PutEight(row, a.turn.Second(i), high);
}

__device__ void TurnKey(const TurnedArguments& a, const float* turns, int token, int slot, int at) {
  const int steps = a.turn.pairs / 8, i = at % steps * 8, head = at / steps;
  const int64_t row = static_cast<int64_t>(token) * a.store.heads + head;
  float low[8], high[8];
  a.k.GetEight(row, a.turn.First(i), low);
  a.k.GetEight(row, a.turn.Second(i), high);
  TurnEight(a.turn, turns, i, low, high);
  a.k.PutEight(row, a.turn.First(i), low);
  a.k.PutEight(row, a.turn.Second(i), high);
  if (slot < 0) return;
  uint8_t* const to = a.store.PlaceOf(a.store.sides[0], slot, head);
  PutEightAs(to, a.k.dtype, a.turn.First(i), low);
  PutEightAs(to, a.k.dtype, a.turn.Second(i), high);
}

__global__ void __launch_bounds__(kThreads) TurnAndStore(const __grid_constant__ TurnedArguments a) {
  extern __shared__ float turns[];
  Begin();
  const int token = blockIdx.x;
  FindTurns(a.turn, token, turns);
  const Shares shares(a);
  int at = blockIdx.y * kThreads + threadIdx.x;
  if (at < shares.q) return TurnQuery(a, turns, token, at);
  at -= shares.q;
  const int slot = a.store.SlotOf(token, at == 0);
  if (at < shares.k) return TurnKey(a, turns, token, slot, at);
  at -= shares.k;
  if (slot < 0) return;
  const CopySide &keys = a.store.sides[0], &values = a.store.sides[1];
  if (at < shares.rest) {
    const int turned = a.turn.pairs / 4, pieces = keys.pieces - turned;
    return a.store.CopyPiece(keys, token, slot, at / pieces, turned + at % pieces);
  }
  at -= shares.rest;
  if (at < shares.v) a.store.CopyPiece(values, token, slot, at / values.pieces, at % values.pieces);
}

bool Turnable(const RotaryOp& op) {
  const int64_t pairs = op.inverse_frequencies.shape[0];
  return op.x.rank == 3 && op.x.shape[0] > 0 && op.x.shape[0] <= kMostTokens && op.x.shape[1] > 0 && ElementBytes(op.x.dtype) == 2 &&
         pairs > 0 && pairs % 8 == 0 && RowsAligned(op.x, 16);
}

/// Bytes from a view's first element to behind its last one, of all tokens or of one.
int64_t Extent(const View& view, bool of_one_token) {
  int64_t last = 0;
  for (int d = of_one_token ? 1 : 0; d < view.rank; ++d) last += (view.shape[d] - 1) * view.strides[d];
  return (last + 1) * ElementBytes(view.dtype);
}

/// Whether no byte is of both: they lie apart, or each token's parts do.
bool Apart(const View& a, const View& b) {
  const int64_t from = b.data - a.data;
  if (from >= Extent(a, false) || -from >= Extent(b, false)) return true;
  const int64_t step = a.strides[0] * ElementBytes(a.dtype);
  if (step <= 0 || b.strides[0] * ElementBytes(b.dtype) != step) return false;
  const int64_t behind = (from % step + step) % step;
  return behind >= Extent(a, true) && behind + Extent(b, true) <= step;
}

bool SameView(const View& a, const View& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.rank != b.rank) return false;
  for (int d = 0; d < a.rank; ++d) {
    if (a.shape[d] != b.shape[d] || a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

bool SameTurns(const RotaryOp& a, const RotaryOp& b) {
  return SameView(a.positions, b.positions) && SameView(a.inverse_frequencies, b.inverse_frequencies) &&
         a.interleaved == b.interleaved && a.scale == b.scale && a.x.dtype == b.x.dtype;
}

}  // namespace

std::optional<TurnedStore> TurnedStoreAt(const std::vector<Decoded>& operations, size_t first) {
  if (operations.size() - first < kTurnedStoreOperations) return std::nullopt;
  const auto* q = std::get_if<RotaryOp>(&operations[first].op);
  const auto* k = std::get_if<RotaryOp>(&operations[first + 1].op);
  const auto* store = std::get_if<KvStoreOp>(&operations[first + 2].op);
  if (!q || !k || !store || !Turnable(*q) || !Turnable(*k) || !SameTurns(*q, *k)) return std::nullopt;
  const View &keys = store->keys, &values = store->values;
  if (!SameView(k->x, store->k) || !store->v.data || !StoresPieces(*store)) return std::nullopt;
  // What is written is read by nobody else of the kernel.
  for (const View* written : {&q->x, &k->x, &keys, &values}) {
    for (const View* other : {&q->x, &k->x, &store->v, &keys, &values}) {
      if (other != written && !Apart(*written, *other)) return std::nullopt;
    }
  }
  return TurnedStore{*q, *k, *store};
}

void Launch(const TurnedStore& turned, Run& run) {
  const auto& [q, k, store] = turned;
  run.Flush();
  run.inputs().Forget();
  const TurnedArguments a{TurnArguments(q), RowView(q.x), RowView(k.x), static_cast<int>(q.x.shape[1]),
                          CopyArguments(store, run.fault())};
  const dim3 grid(Blocks(store.k.shape[0], 1), Blocks(Shares(a).all(), kThreads));
  OverlappedWith(a.turn.shared_bytes(), TurnAndStore, grid, kThreads, run, a);
}

}  // namespace zi::cuda
