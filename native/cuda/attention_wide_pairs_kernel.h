// The kernel of attention_wide_pairs.h, for any way to bring keys into shared memory.
//
// What `Keys` has: Source, a parameter of the kernel; kRegisters of a thread; kWarps that announce a piece; kPlaced, whether rows
// that nobody sees are left as they come; and Bring(), for a group of warps.
#pragma once
#include "cuda/attention_wide_pairs.h"

namespace zi::cuda::wide::pairs {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// A group's rows of a tile, two of them a lane's, and its half of their values.
template <class T, bool kFirst, class Keys>
struct Folding {
  const Arguments& a;
  const Tile& tile;
  Shared<T>& shared;
  const int sharers, begin, end;
  const int lane, warp, row;
  const float factor;
  /// The keys that its two rows see.
  int first_seen[2];
  uint32_t seen[2];
  float sums[kValueTiles][4] = {};
  float scores[kScoreTiles][4];
  float base[2] = {-INFINITY, -INFINITY}, total[2] = {};
  uint32_t weights[kKeys / 16][4];
  uint32_t parity[2] = {0, 0};
  float kept_base[2], kept_total[2];
  int part = 0;

  static constexpr int kOwn = kFirst ? 0 : 1;

  __device__ Folding(const Arguments& arguments, const Tile& its_tile, Shared<T>& memory, int blocks, int first, int last)
      : a(arguments), tile(its_tile), shared(memory), sharers(blocks), begin(first), end(last),
        lane(threadIdx.x % 32), warp(threadIdx.x % kGroup / 32), row(warp * 16 + lane / 4), factor(a.scale * kLog2E) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int from = shared.sight.first[row + h * 8], to = shared.sight.last[row + h * 8];
      first_seen[h] = from, seen[h] = to >= from ? to - from + 1 : 0;
    }
  }

  __device__ void StartScoring() {
    const uint64_t x = MatrixAt(shared.q, 1), y = MatrixAt(shared.keys[kOwn], 1);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      Await(&shared.there[kOwn][piece], parity[kOwn]);
      if (piece == 0) BeginProducts();
#pragma unroll
      for (int p = 0; p < PartsOfPiece(piece); ++p) {
#pragma unroll
        for (int k = 0; k < kColumns / 16; ++k) {
          const uint64_t at = (piece * kHalfParts + p) * (kPartBytes / 16) + k * 2;
          if (piece == 0 && p == 0 && k == 0) {
            StartScores<T, false>(scores, x, y);
          } else {
            StartScores<T, true>(scores, x + at, y + at);
          }
        }
      }
    }
    EndProducts();
    parity[kOwn] ^= 1;
  }
  __device__ uint64_t Values(int stage) const { return MatrixAt(shared.keys[stage][kFirst ? 0 : kHalfParts], kPartBytes / 16); }
  __device__ void StartOwnValues() {
    const uint64_t y = Values(kOwn);
    BeginProducts();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) StartValues<T>(sums, weights[k], y + k * (16 * 128 / 16));
    EndProducts();
  }
  __device__ void StartOtherValues() {
    const uint64_t x = MatrixAt(shared.keys[kOwn ^ 1][kWeightPart], 1), y = Values(kOwn ^ 1);
    BeginProducts();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) StartValues<T>(sums, x + k * 2, y + k * (16 * 128 / 16));
    EndProducts();
  }
  __device__ void Scale(float low, float high) {
    if (__all_sync(0xffffffffu, low == 1.0f && high == 1.0f)) return;
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) sums[n][0] *= low, sums[n][1] *= low, sums[n][2] *= high, sums[n][3] *= high;
    total[0] *= low, total[1] *= high;
  }
  __device__ static float Step(float from, float to) { return from == to ? 1.0f : Exp2(from - to); }
  /// What has been summed counts from the other group's base on.
  __device__ void TakeBase() {
    const float low = shared.base[kOwn ^ 1][row], high = shared.base[kOwn ^ 1][row + 8];
    const float scale[2] = {Step(base[0], low), Step(base[1], high)};
    base[0] = low, base[1] = high;
    Scale(scale[0], scale[1]);
  }
  /// Scores of the block become weights, of both groups; `scale`: what has been summed before is multiplied by.
  __device__ void MakeWeights(int block, float (&scale)[2]) {
    Settle(scores);
    const int t = lane % 4;
    const auto sees = [&](int h, int key) { return static_cast<uint32_t>(key - first_seen[h]) < seen[h]; };
    const bool all = sees(0, block) && sees(0, block + kKeys - 1) && sees(1, block) && sees(1, block + kKeys - 1);
    if (!__all_sync(0xffffffffu, all)) {
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!sees(i / 2, block + n * 8 + 2 * t + i % 2)) scores[n][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) largest = fmaxf(largest, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      largest *= factor;
      const float next = largest > base[h] + kGrowth ? largest : base[h], from = next == -INFINITY ? 0.0f : next;
      scale[h] = Step(base[h], next);
      base[h] = next;
      float more = 0;
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
        const float low = Exp2(fmaf(scores[n][2 * h], factor, -from)), high = Exp2(fmaf(scores[n][2 * h + 1], factor, -from));
        more += low + high;
        weights[n / 2][n % 2 * 2 + h] = Pair(Narrow<T>(low), Narrow<T>(high));
      }
      added[h] = more;
      if (t == 0) shared.base[kOwn][row + h * 8] = next;
    }
    // The other warps' products read keys where weights go.
    MeetGroup(kScored + kOwn);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
        T* const eight = Swizzled(shared.keys[kOwn][kWeightPart][row + h * 8], row, n * 8);
        *reinterpret_cast<uint32_t*>(eight + 2 * t) = weights[n / 2][n % 2 * 2 + h];
      }
    }
    if (Keys::kPlaced && (block < begin || block + kKeys > end)) ClearOthers(block);
    ShowToProducts();
  }
  float added[2];
  /// Sums what the block's weights sum to, once what was summed before is scaled.
  __device__ void AddTotals() { total[0] += added[0], total[1] += added[1]; }

  /// Nothing times what memory happened to hold may not be a number.
  __device__ void ClearOthers(int block) {
    constexpr int kEights = kColumns / 8;
    for (int i = threadIdx.x % kGroup; i < kKeys * kWeightPart * kEights; i += kGroup) {
      const int key = i / (kWeightPart * kEights), eight = i % (kWeightPart * kEights);
      if (block + key >= begin && block + key < end) continue;
      reinterpret_cast<uint4*>(shared.keys[kOwn][eight / kEights][key])[eight % kEights] = uint4{};
    }
    ShowToProducts();
    MeetGroup(kCleared + kOwn);
  }
  __device__ void Leave(int stage, int piece) { ArriveEverywhere(&shared.read[stage][piece], sharers); }

  /// Two blocks of keys, or the last one of a part.
  template <bool kBoth>
  __device__ void Fold(int block) {
    float scale[2];
    if constexpr (kFirst) {
      StartScoring();
      if constexpr (kBoth) SignalOther(kTurn);
      WaitForProductsBut<0>();
      MakeWeights(block, scale);
      SignalOther(kFirstWeights);
      Scale(scale[0], scale[1]);
      AddTotals();
      StartOwnValues();
      if constexpr (kBoth) MeetBoth(kSecondWeights);
      WaitForProductsBut<0>();
      Settle(sums);
      Leave(0, 0);
      if constexpr (kBoth) {
        TakeBase();
        StartOtherValues();
        WaitForProductsBut<0>();
        Settle(sums);
        Leave(1, 0), Leave(1, 2);
      }
    } else {
      if constexpr (kBoth) {
        // The first group's scores come first: it makes weights of them while these products go on.
        MeetBoth(kTurn);
        StartScoring();
      }
      MeetBoth(kFirstWeights);
      TakeBase();
      StartOtherValues();
      if constexpr (kBoth) {
        WaitForProductsBut<1>();
        MakeWeights(block + kKeys, scale);
        SignalOther(kSecondWeights);
      }
      WaitForProductsBut<0>();
      Settle(sums);
      Leave(0, 1), Leave(0, 2);
      if constexpr (kBoth) {
        Scale(scale[0], scale[1]);
        AddTotals();
        StartOwnValues();
        WaitForProductsBut<0>();
        Settle(sums);
        Leave(1, 1);
      }
    }
  }

  __device__ void FoldAll() {
    for (int first = begin; first < end || begin >= end;) {
      const int last = a.PartEnd(first, end);
      int block = first / kKeys * kKeys;
      for (; block + kKeys < last; block += 2 * kKeys) Fold<true>(block);
      if (block < last) Fold<false>(block);
      Finish(first);
      if (begin >= end) return;
      first = last;
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] = 0;
      }
      base[0] = base[1] = -INFINITY, total[0] = total[1] = 0;
    }
  }

  /// What the part of the context with that key gave goes where it belongs.
  __device__ void Finish(int key) {
    const int t = lane % 4, split = key / kSplit;
    float(&totals)[2][kRows] = shared.total[part++ % 2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
      if (t == 0) totals[kOwn][row + h * 8] = total[h];
    }
    MeetBoth(kTotals);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int mine = row + h * 8;
      const float all = totals[0][mine] + totals[1][mine];
      if (!a.merges || !shared.sight.Parted(a, mine)) {
        const RowResult<T, 1> result(a, tile, shared.sight, mine, split, base[h], all);
        if (result.part && kFirst && t == 0) a.stats[a.Part(mine, split)] = make_float2(base[h], all);
        Write(h, [&](int d, float low, float high) { result.Put(d, low, high); });
        continue;
      }
      int token, head;
      const int of_first = shared.sight.first[mine] / kSplit, of_last = shared.sight.last[mine] / kSplit;
      if (split < of_first || split > of_last || !tile.Row(a, mine, token, head)) continue;
      float* const kept = a.sums + a.Part(mine, 0) * a.value_depth;
      if (split == of_first) {
        kept_base[h] = base[h], kept_total[h] = all;
        Write(h, [&](int d, float low, float high) { *reinterpret_cast<float2*>(kept + d) = make_float2(low, high); });
        continue;
      }
      const PartWeights weigh(kept_base[h], kept_total[h], base[h], all);
      const float factor = a.Inverse(head, kept_base[h] * kLn2, kept_total[h], true);
      T* const out = a.template Out<T>(token, head);
      const bool pairs = reinterpret_cast<uintptr_t>(out) % 4 == 0;
      Write(h, [&](int d, float low, float high) {
        float2* const at = reinterpret_cast<float2*>(kept + d);
        const float2 before = *at, now = make_float2(weigh(before.x, low), weigh(before.y, high));
        if (split != of_last) {
          *at = now;
        } else if (pairs) {
          *reinterpret_cast<uint32_t*>(out + d) = Pair(Narrow<T>(now.x * factor), Narrow<T>(now.y * factor));
        } else {
          out[d] = Narrow<T>(now.x * factor), out[d + 1] = Narrow<T>(now.y * factor);
        }
      });
    }
  }
  template <class Put>
  __device__ void Write(int h, Put put) {
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
      const int d = (kFirst ? 0 : kHalfValues) + n * 8 + lane % 4 * 2;
      if (d < a.value_depth) put(d, sums[n][2 * h], sums[n][2 * h + 1]);
    }
  }
};

/// By the groups that multiply.
template <class T>
__device__ void BringQueries(const Arguments& a, const Tile& tile, Shared<T>& shared) {
  constexpr int kThreadsOfBoth = 2 * kGroup;
  const auto place = [&](int row, int d) { return Swizzled(shared.q[d / kColumns][row], row, d % kColumns); };
  if (!a.groups_in_q) {
    LoadQueries<T, 1>(a, tile, kThreadsOfBoth,
                      [&](int row, int d, uint4 eight) { *reinterpret_cast<uint4*>(place(row, d)) = eight; });
  } else {
    constexpr int kGroups = kDepth / 8;
    for (int i = threadIdx.x; i < kRows * kGroups; i += kThreadsOfBoth) {
      const int row = i / kGroups, d = i % kGroups * 8;
      int token, head;
      const bool valid = tile.Row(a, row, token, head) && d < a.depth;
      CopyGroup(place(row, d), valid ? a.Query<T>(token, head) + d : reinterpret_cast<const T*>(a.q), valid);
    }
    CommitCopies();
    WaitForAllCopiesBut<0>();
  }
  ShowToProducts();
  MeetBoth(kQueries);
}
#endif

template <class T, class Keys>
__global__ void __launch_bounds__(kThreads, 1)
    AttendPairs(const __grid_constant__ Arguments a, const __grid_constant__ typename Keys::Source source) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int kAtFirst = 65536 / kThreads / 8 * 8, kFoldRegisters = (3 * kAtFirst - Keys::kRegisters) / 2 / 8 * 8;
  extern __shared__ __align__(128) uint8_t unaligned[];
  auto& shared = *reinterpret_cast<Shared<T>*>(unaligned + (kAlignment - SharedAddress(unaligned) % kAlignment) % kAlignment);
  Tile tile;
  // The last tiles of a prompt, which see most, come first. Blocks that share keys have the same tokens: all that is decided
  // here and below they decide alike.
  const int index = a.first_tile + static_cast<int>(a.whole ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  if (!tile.Find(a, index, blockIdx.y)) return;
  shared.sight.template Look<1>(a, tile);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages * kPieces; ++i) {
      InitBarrier(&shared.there[0][0] + i, Keys::kWarps), InitBarrier(&shared.read[0][0] + i, kGroup / 32 * a.sharers);
    }
    ShowBarriers();
  }
  __syncthreads();
  if (a.sharers > 1) MeetCluster();
  int begin, end;
  shared.sight.template Range<1>(tile, begin, end);
  if (CutToParts(a, begin, end)) {
    const int group = threadIdx.x / kGroup;
    if (group == 2) {
      LeaveRegisters<Keys::kRegisters>();
      Keys::template Bring<T>(source, a, tile, begin, end, shared);
    } else if (group == 1) {
      TakeRegisters<kFoldRegisters>();
      BringQueries(a, tile, shared);
      Folding<T, false, Keys>(a, tile, shared, a.sharers, begin, end).FoldAll();
    } else {
      TakeRegisters<kFoldRegisters>();
      BringQueries(a, tile, shared);
      Folding<T, true, Keys>(a, tile, shared, a.sharers, begin, end).FoldAll();
    }
  }
  // The other block may still say here that it has read.
  __syncwarp();
  if (a.sharers > 1) MeetCluster();
#endif
}

template <class T, class Keys>
void LaunchTyped(const Arguments& a, const typename Keys::Source& source, dim3 grid, Run& run) {
  const auto kernel = AttendPairs<T, Keys>;
  constexpr int kSize = sizeof(Shared<T>) + kAlignment;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSize), "cudaFuncSetAttribute");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {1, static_cast<unsigned>(a.sharers), 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSize;
  config.stream = run.stream();
  config.attrs = &attribute;
  config.numAttrs = a.sharers > 1 ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, a, source), "cudaLaunchKernel");
}

}  // namespace zi::cuda::wide::pairs
