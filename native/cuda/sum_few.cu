// Implements cuda/sum_few.h: a thread pushes eight neighbours and waits for those of the other ranks' threads of its number. Eight
// bytes are written at once, a word and its epoch, so what has come needs no flag behind it, and no write waits for another.
#include "cuda/sum_few.h"

#include "cuda/sum_ranks.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

constexpr unsigned kThreads = 128;

/// A group in words.
template <class P>
union Words {
  static constexpr int kCount = sizeof(Group<P, 8>) / 4;
  Group<P, 8> group;
  uint32_t words[kCount];
  __device__ Words() {}
};

template <class P>
__device__ void Push(uint8_t* to, const Words<P>& own, uint32_t epoch) {
#pragma unroll
  for (int i = 0; i < Words<P>::kCount; i += 2) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(to + 8 * i), "r"(own.words[i]), "r"(epoch), "r"(own.words[i + 1])
                 : "memory");
  }
}

/// False where the group of ranks was closed first.
template <class P>
__device__ bool Take(const SumArguments& a, const uint8_t* from, Words<P>& pushed, uint32_t epoch) {
  constexpr int kLookTurns = 1024;
  for (int turn = 1;; ++turn) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < Words<P>::kCount; i += 2) {
      uint32_t marks[2];
      asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(pushed.words[i]), "=r"(marks[0]), "=r"(pushed.words[i + 1]), "=r"(marks[1])
                   : "l"(from + 8 * i)
                   : "memory");
      all = all && marks[0] == epoch && marks[1] == epoch;
    }
    if (all) return true;
    if (turn % kLookTurns != 0) continue;
    // Whoever closes the group, or learns of a failure, fails what is made of this.
    int32_t closed;
    asm volatile("ld.acquire.sys.global.b32 %0, [%1];" : "=r"(closed) : "l"(a.closed) : "memory");
    if (closed != 0) return false;
  }
}

template <class P>
__global__ void __launch_bounds__(kThreads) SumFew(const __grid_constant__ SumArguments a) {
  Begin();
  const uint32_t epoch = BeginEpoch(a), parity = epoch & 1;
  const int count = a.layout.count;
  // Whoever has the group of this number elsewhere pushes it before it waits.
  for (int64_t g = int64_t{blockIdx.x} * kThreads + threadIdx.x; g < a.groups; g += int64_t{gridDim.x} * kThreads) {
    Words<P> own;
    own.group = TakeOwn<P, 8>(a, g);
    const int64_t at = 2 * g * static_cast<int64_t>(sizeof own);
    for (int to = 0; to < count; ++to) {
      if (to != a.rank) Push(a.inbox[to] + a.layout.MarkedSlotOf(parity, a.rank, to) + at, own, epoch);
    }
    float before[8], sum[8];
    if (a.accumulate) GetBefore(a, g, before);
    for (int from = 0; from < count; ++from) {
      Words<P> pushed;
      if (from == a.rank) pushed.group = own.group;
      else if (!Take(a, a.inbox[a.rank] + a.layout.MarkedSlotOf(parity, from, a.rank) + at, pushed, epoch)) break;
      AddTo(sum, pushed.group, from == 0);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = a.accumulate ? before[i] + sum[i] : sum[i];
    PutSum(a, g, sum);
  }
  __syncthreads();  // all have seen the epoch
  EndEpoch(a, epoch);
}

SumKernel KernelFor(DType type) {
  return ForPartials(type, [](auto* partial) -> SumKernel { return SumFew<std::decay_t<decltype(*partial)>>; });
}

}  // namespace

void PrepareFewSums() {
  cudaFuncAttributes attributes;
  for (const DType type : kPartialTypes) {
    Check(cudaFuncGetAttributes(&attributes, KernelFor(type)), "cudaFuncGetAttributes");
  }
}

bool LaunchFewSums(const ReduceOp& op, Run& run) {
  const auto& exchange = static_cast<const DeviceExchange&>(*op.exchange);
  const int64_t tokens = op.x.shape[0], width = op.x.shape[1], bytes = tokens * width * ElementBytes(op.partial.dtype);
  if (exchange.count() < 2 || tokens > kFewTokens || width % 8 != 0 || bytes > static_cast<int64_t>(kMostMarkedBytes)) return false;
  SumArguments a = ArgumentsOf(op);
  a.groups = tokens * width / 8;
  Overlapped(KernelFor(op.partial.dtype), Blocks(a.groups, kThreads, exchange.most_blocks()), kThreads, run, a);
  return true;
}

}  // namespace zi::cuda
