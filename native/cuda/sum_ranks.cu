// reduce: every rank pushes what it has to the others, waits for theirs, and sums in the order of the ranks, so that all have the same
// bits. Nothing of the host stands between, so that it runs in graphs.
#include "cuda/sum_ranks.h"

#include <algorithm>

#include "cuda/sum_few.h"
#include "cuda/sum_rows.h"

namespace zi::cuda {
namespace {

constexpr unsigned kThreads = 256, kFewThreads = 128;

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

template <class P>
SumKernel KernelFor(bool eights, bool shares) {
  if (eights) return shares ? SumInShares<P, 8> : SumAtOnce<P, 8>;
  return shares ? SumInShares<P, 1> : SumAtOnce<P, 1>;
}
SumKernel KernelFor(DType type, bool eights, bool shares) {
  return ForPartials(type, [=](auto* partial) { return KernelFor<std::decay_t<decltype(*partial)>>(eights, shares); });
}

}  // namespace

void PrepareSums(const Context& context) {
  context.Use();
  cudaFuncAttributes attributes;
  for (const DType type : kPartialTypes) {
    for (const bool eights : {false, true}) {
      for (const bool shares : {false, true}) {
        Check(cudaFuncGetAttributes(&attributes, KernelFor(type, eights, shares)), "cudaFuncGetAttributes");
      }
    }
  }
  PrepareFewSums();
  PrepareRowSums();
}

namespace {
bool Flat(const View& view) { return view.shape[0] <= 1 || view.strides[0] == view.shape[1]; }
}  // namespace

SumArguments ArgumentsOf(const ReduceOp& op) {
  const auto& exchange = static_cast<const DeviceExchange&>(*op.exchange);
  SumArguments a{};
  a.x = RowView(op.x);
  a.partial = RowView(op.partial);
  a.columns = Flat(op.x) && Flat(op.partial) ? op.x.shape[0] * op.x.shape[1] : op.x.shape[1];
  a.layout = exchange.layout();
  for (int rank = 0; rank < exchange.count(); ++rank) a.inbox[rank] = exchange.inbox(rank);
  a.epochs = exchange.epochs();
  a.closed = exchange.closed();
  a.rank = exchange.rank();
  a.accumulate = op.accumulate;
  a.aligned = RowsAligned(op.x, 16) && RowsAligned(op.partial, 16);
  return a;
}

void Launch(const ReduceOp& op, Run& run) {
  const auto& exchange = static_cast<const DeviceExchange&>(*op.exchange);
  const int64_t values = op.x.shape[0] * op.x.shape[1], element = ElementBytes(op.partial.dtype);
  if (values == 0) return;
  if (LaunchFewSums(op, run) || LaunchRowSums(op, nullptr, run)) return;
  SumArguments a = ArgumentsOf(op);
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
    Overlapped(KernelFor(op.partial.dtype, eights, shares), dim3(Blocks(together, threads, exchange.most_blocks())), threads, run, a);
  }
}

}  // namespace zi::cuda
