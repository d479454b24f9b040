// reduce: every rank pushes what it has to the others, waits for theirs, and sums in the order of the ranks, so that all have the same
// bits. Nothing of the host stands between, so that it runs in graphs.
//
// Block b meets the blocks b of the other devices and no others, so that neither has to be there whole. What is pushed lies apart
// by the epoch's parity: whoever pushes in epoch e + 2 has ended epoch e + 1, in which every other has told something, which it does only
// when its epoch e has ended.
#include <algorithm>

#include "cuda/rank_exchange.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr unsigned kThreads = 256, kFewThreads = 128;

struct SumArguments {
  RowView x, partial;
  /// In a row, or in all where rows follow each other.
  int64_t columns;
  /// The first value of this round, and how many groups of neighbours there are.
  int64_t first, groups;
  InboxLayout layout;
  uint8_t* inbox[kMostRanks];
  uint32_t* epochs;
  const int32_t* closed;
  int rank;
  bool accumulate;
  /// Groups of x and of the partial begin at multiples of 16 bytes here. Elsewhere they may not, and are the same groups.
  bool aligned;
};

/// W neighbours as they lie.
template <class P, int W>
struct alignas(W == 8 ? 16 : sizeof(P)) Group {
  P values[W];
};

/// What another device has written: no cache is asked.
template <class P, int W>
__device__ Group<P, W> TakePushed(const void* from) {
  Group<P, W> group;
  if constexpr (W == 8) {
#pragma unroll
    for (size_t i = 0; i < sizeof(group) / 16; ++i) reinterpret_cast<uint4*>(&group)[i] = __ldcv(static_cast<const uint4*>(from) + i);
  } else if constexpr (sizeof(P) == 4) {
    *reinterpret_cast<uint32_t*>(&group) = __ldcv(static_cast<const uint32_t*>(from));
  } else {
    *reinterpret_cast<uint16_t*>(&group) = __ldcv(static_cast<const uint16_t*>(from));
  }
  return group;
}
template <class P, int W>
__device__ void Put(void* to, const Group<P, W>& group) {
  if constexpr (W == 8) {
#pragma unroll
    for (size_t i = 0; i < sizeof(group) / 16; ++i) static_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(&group)[i];
  } else {
    *static_cast<Group<P, W>*>(to) = group;
  }
}

/// Where a group of neighbours lies.
struct Spot {
  int64_t row, column;
};
template <int W>
__device__ Spot SpotOf(const SumArguments& a, int64_t group) {
  const int64_t value = a.first + group * W;
  if (value < a.columns) return {0, value};
  return {value / a.columns, value % a.columns};
}
template <class P, int W>
__device__ Group<P, W> TakeOwn(const SumArguments& a, int64_t group) {
  const Spot spot = SpotOf<W>(a, group);
  const P* from = a.partial.Row<P>(spot.row) + spot.column;
  if (a.aligned) return *reinterpret_cast<const Group<P, W>*>(from);
  Group<P, W> own;
#pragma unroll
  for (int i = 0; i < W; ++i) own.values[i] = from[i];
  return own;
}

template <class P, int W>
__device__ void AddTo(float (&sum)[W], const Group<P, W>& group, bool first) {
#pragma unroll
  for (int i = 0; i < W; ++i) sum[i] = first ? Widen(group.values[i]) : sum[i] + Widen(group.values[i]);
}

/// x (+)= sum
template <int W>
__device__ void Apply(const SumArguments& a, int64_t group, float (&sum)[W]) {
  const Spot spot = SpotOf<W>(a, group);
  const bool together = W == 8 && a.aligned;
  if (a.accumulate) {
    float x[W];
    if constexpr (W == 8) {
      if (together) a.x.GetEight(spot.row, spot.column, x);
    }
#pragma unroll
    for (int i = 0; i < W; ++i) sum[i] = (together ? x[i] : a.x.Get(spot.row, spot.column + i)) + sum[i];
  }
  if constexpr (W == 8) {
    if (together) return a.x.PutEight(spot.row, spot.column, sum);
  }
#pragma unroll
  for (int i = 0; i < W; ++i) a.x.Put(spot.row, spot.column + i, sum[i]);
}

/// What the block has pushed may be read, and what the others' blocks of its number have is there.
__device__ void Meet(const SumArguments& a, int phase, uint32_t epoch) {
  constexpr int kLookTurns = 1024;
  __syncthreads();
  const int other = static_cast<int>(threadIdx.x);
  if (other < a.layout.count && other != a.rank) {
    auto* theirs = reinterpret_cast<uint32_t*>(a.inbox[other] + a.layout.FlagOf(phase, a.rank, blockIdx.x));
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(theirs), "r"(epoch) : "memory");
    const auto* flag = reinterpret_cast<const uint32_t*>(a.inbox[a.rank] + a.layout.FlagOf(phase, other, blockIdx.x));
    for (int turn = 1;; ++turn) {
      uint32_t seen;
      asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
      if (static_cast<int32_t>(seen - epoch) >= 0) break;
      if (turn % kLookTurns != 0) continue;
      // Whoever closes the group, or learns of a failure, fails what is made of this.
      int32_t closed;
      asm volatile("ld.acquire.sys.global.b32 %0, [%1];" : "=r"(closed) : "l"(a.closed) : "memory");
      if (closed != 0) break;
    }
  }
  __syncthreads();
}

__device__ uint32_t BeginEpoch(const SumArguments& a) { return a.epochs[blockIdx.x] + 1; }

/// Those of blocks that this kernel has not are counted on as well. When the block has ended its part.
__device__ void EndEpoch(const SumArguments& a, uint32_t epoch) {
  for (unsigned block = blockIdx.x + gridDim.x * threadIdx.x; block < kMostMeetingBlocks; block += gridDim.x * blockDim.x) {
    a.epochs[block] = epoch;
  }
}

/// Everybody pushes everything to everybody.
template <class P, int W>
__global__ void __launch_bounds__(kThreads) SumAtOnce(const __grid_constant__ SumArguments a) {
  Begin();
  const uint32_t epoch = BeginEpoch(a), parity = epoch & 1;
  const int count = a.layout.count;
  const int64_t begin = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, step = int64_t{gridDim.x} * blockDim.x;
#pragma unroll 2
  for (int64_t g = begin; g < a.groups; g += step) {
    const Group<P, W> own = TakeOwn<P, W>(a, g);
    for (int to = 0; to < count; ++to) {
      if (to != a.rank) Put(a.inbox[to] + a.layout.SlotOf(parity, a.rank, to) + g * sizeof(own), own);
    }
  }
  Meet(a, 0, epoch);
#pragma unroll 2
  for (int64_t g = begin; g < a.groups; g += step) {
    float sum[W];
    for (int from = 0; from < count; ++from) {
      const uint8_t* slot = a.inbox[a.rank] + a.layout.SlotOf(parity, from, a.rank) + g * sizeof(Group<P, W>);
      AddTo(sum, from == a.rank ? TakeOwn<P, W>(a, g) : TakePushed<P, W>(slot), from == 0);
    }
    Apply(a, g, sum);
  }
  EndEpoch(a, epoch);
}

/// Each rank sums a share and pushes the sums to all, in f32, so that they are the same bits as above.
template <class P, int W>
__global__ void __launch_bounds__(kThreads) SumInShares(const __grid_constant__ SumArguments a) {
  Begin();
  const uint32_t epoch = BeginEpoch(a), parity = epoch & 1;
  const int count = a.layout.count;
  const int64_t share = (a.groups + count - 1) / count;
  const int64_t begin = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, step = int64_t{gridDim.x} * blockDim.x;
  // The g-th group of a rank's share, and whether there is one.
  const auto of_share = [&](int rank, int64_t g) { return rank * share + g; };
  const auto sums_at = [&](int rank, int64_t group) {
    return a.inbox[rank] + a.layout.SumsOf(parity) + group * sizeof(Group<float, W>);
  };
  for (int64_t g = begin; g < share; g += step) {
    for (int turn = 1; turn < count; ++turn) {
      // Nobody is written to by all at once.
      const int to = a.rank + turn < count ? a.rank + turn : a.rank + turn - count;
      if (of_share(to, g) >= a.groups) continue;
      Put(a.inbox[to] + a.layout.SlotOf(parity, a.rank, to) + g * sizeof(Group<P, W>), TakeOwn<P, W>(a, of_share(to, g)));
    }
  }
  Meet(a, 0, epoch);
  for (int64_t g = begin; g < share && of_share(a.rank, g) < a.groups; g += step) {
    const int64_t group = of_share(a.rank, g);
    float sum[W];
    for (int from = 0; from < count; ++from) {
      const uint8_t* slot = a.inbox[a.rank] + a.layout.SlotOf(parity, from, a.rank) + g * sizeof(Group<P, W>);
      AddTo(sum, from == a.rank ? TakeOwn<P, W>(a, group) : TakePushed<P, W>(slot), from == 0);
    }
    Group<float, W> summed;
#pragma unroll
    for (int i = 0; i < W; ++i) summed.values[i] = sum[i];
    for (int turn = 1; turn < count; ++turn) {
      const int to = a.rank + turn < count ? a.rank + turn : a.rank + turn - count;
      Put(sums_at(to, group), summed);
    }
    Apply(a, group, sum);
  }
  Meet(a, 1, epoch);
  for (int64_t g = begin; g < share; g += step) {
    for (int from = 0; from < count; ++from) {
      const int64_t group = of_share(from, g);
      if (from == a.rank || group >= a.groups) continue;
      Group<float, W> summed = TakePushed<float, W>(sums_at(a.rank, group));
      Apply(a, group, summed.values);
    }
  }
  EndEpoch(a, epoch);
}

/// Shares halve what more than two devices send, and take a second meeting.
constexpr int64_t kFewBytes = int64_t{256} << 10;
bool InShares(int count, int64_t bytes) { return count > 2 && bytes > kFewBytes; }

bool Flat(const View& view) { return view.shape[0] <= 1 || view.strides[0] == view.shape[1]; }

using Kernel = void (*)(SumArguments);
template <class P>
Kernel KernelFor(bool eights, bool shares) {
  if (eights) return shares ? SumInShares<P, 8> : SumAtOnce<P, 8>;
  return shares ? SumInShares<P, 1> : SumAtOnce<P, 1>;
}
Kernel KernelFor(DType type, bool eights, bool shares) {
  switch (type) {
    case DType::kF32:
      return KernelFor<float>(eights, shares);
    case DType::kF16:
      return KernelFor<__half>(eights, shares);
    case DType::kBF16:
      return KernelFor<__nv_bfloat16>(eights, shares);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  throw std::invalid_argument("reduce: partials are floats");
}

}  // namespace

void PrepareSums(const Context& context) {
  context.Use();
  cudaFuncAttributes attributes;
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const bool eights : {false, true}) {
      for (const bool shares : {false, true}) {
        Check(cudaFuncGetAttributes(&attributes, KernelFor(type, eights, shares)), "cudaFuncGetAttributes");
      }
    }
  }
}

void Launch(const ReduceOp& op, Run& run) {
  const auto& exchange = static_cast<const DeviceExchange&>(*op.exchange);
  const int64_t values = op.x.shape[0] * op.x.shape[1], element = ElementBytes(op.partial.dtype);
  if (values == 0) return;
  SumArguments a{};
  a.x = RowView(op.x);
  a.partial = RowView(op.partial);
  a.columns = Flat(op.x) && Flat(op.partial) ? values : op.x.shape[1];
  a.layout = exchange.layout();
  for (int rank = 0; rank < exchange.count(); ++rank) a.inbox[rank] = exchange.inbox(rank);
  a.epochs = exchange.epochs();
  a.closed = exchange.closed();
  a.rank = exchange.rank();
  a.accumulate = op.accumulate;
  a.aligned = RowsAligned(op.x, 16) && RowsAligned(op.partial, 16);
  // From the shape alone: whoever meets takes as many blocks, and the same way.
  const bool eights = op.x.shape[1] % 8 == 0;
  const bool shares = InShares(exchange.count(), values * element);
  const int64_t width = eights ? 8 : 1;
  const auto room = static_cast<int64_t>(exchange.room());
  const int64_t most = (shares ? std::min<int64_t>(room / 4, room / element) : room / element) / width * width;
  for (a.first = 0; a.first < values; a.first += most) {
    a.groups = (std::min(most, values - a.first) + width - 1) / width;
    const int64_t together = shares ? (a.groups + a.layout.count - 1) / a.layout.count : a.groups;
    const unsigned threads = together > int64_t{kFewThreads} * kMostMeetingBlocks ? kThreads : kFewThreads;
    Overlapped(KernelFor(op.partial.dtype, eights, shares), dim3(Blocks(together, threads, kMostMeetingBlocks)), threads, run, a);
  }
}

}  // namespace zi::cuda
