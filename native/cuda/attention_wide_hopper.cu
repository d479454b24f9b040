// Tiles of wide heads on compute capability 9.0, by groups of four warps: one brings keys, one multiplies queries by them and makes
// weights of the scores, two multiply the weights by the values, each a half of them (wgmma). Each is ahead of the next: while
// weights are made of a block's scores the tensor cores have the next block's keys and the values of the one before.
#include "cuda/attention_wide_hopper.h"

namespace zi::cuda::wide {
namespace {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// The keys of blocks, copied into one stage after the other. Eight lanes copy what a part has of a key.
template <class T, int kKeyHalves>
__device__ void BringKeys(const Arguments& a, const Tile& tile, int begin, int end, Shared<T>& shared) {
  using Key = std::conditional_t<kKeyHalves == 1, T, float>;
  constexpr int kBlock = kKeys / kKeyHalves, kEach = kBlock / (kGroup / 8), kStep = 4;
  constexpr int kPartBytes = kKeys * kColumns * sizeof(T), kStageBytes = kParts * kPartBytes;
  const int lane = threadIdx.x % 32, eighth = lane % 8, d = eighth * (16 / sizeof(Key));
  const int first_key = static_cast<int>(threadIdx.x) % kGroup / 32 * (kEach * kStep) + lane / 8;
  const Key* const keys = reinterpret_cast<const Key*>(a.keys) + tile.kv_head * a.key_head + d;
  uint32_t to[2];  // where keys, or halves of one, go
  int pages[kEach];
  const auto look = [&](int block) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int position = block + first_key + i * kStep;
      const int page = a.page_shift >= 0 ? position >> a.page_shift : position / a.page_tokens;
      // Whether it is a page is looked at where it is used, by when it has come.
      pages[i] = position >= begin && position < end ? __ldg(a.pages + tile.sequence.first_page + page) : -1;
    }
  };
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    // Fours of f32 are copied that neighbouring lanes will split together.
    const int key = kKeyHalves == 1 ? first_key + i * kStep : RowOf<2>(first_key) + eighth % 2 * 8;
    const int column = kKeyHalves == 1 ? eighth * 8 : eighth / 2 * 8 + i * (kColumns / 2);
    to[i] = SharedAddress(Swizzled(shared.keys[0][0][key], key, column));
  }
  const int first = begin / kBlock * kBlock;
  Place place, there;
  const auto announce = [&] {
    if constexpr (kKeyHalves == 2) {
      __syncwarp();
      const int row = RowOf<2>(first_key);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        auto& rows = shared.keys[there.stage][part];
        SplitInPlace(Swizzled(rows[row], row, eighth * 8), Swizzled(rows[row + 8], row, eighth * 8));
      }
    }
    ShowToProducts();
    ArriveWarp(&shared.keys_there[there.stage]);
    there.Advance();
  };
  look(first);
  for (int block = first; block < end; block += kBlock) {
    if (block >= first + 2 * kBlock) {
      WaitForAllCopiesBut<1>();
      announce();
    }
    const Key* from[kEach];
    int values[kEach];  // from d on
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int position = block + first_key + i * kStep;
      const bool inside = position >= begin && position < end, valid = pages[i] >= 0 && pages[i] < a.page_count;
      if (inside && !valid) a.PlaceFast(tile.sequence, position, values[i], values[i]);
      const int offset = a.page_shift >= 0 ? position & (a.page_tokens - 1) : position % a.page_tokens;
      from[i] = keys + (valid ? pages[i] * a.key_page + offset * a.key_token : 0);
      values[i] = valid ? a.depth - d : 0;
    }
    look(block + kBlock);
    Await(&shared.keys_read[place.stage], place.parity ^ (place.stage < kFirstBusyStage ? 1 : 0));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = kKeyHalves == 1 ? i : 0, skipped = kKeyHalves == 1 ? 0 : i * (kColumns / 2);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int at = part * kColumns + skipped;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to[i] + place.stage * kStageBytes + part * kPartBytes),
                     "l"(from[key] + at), "r"(values[key] > at ? 16 : 0)
                     : "memory");
      }
    }
    CommitCopies();
    place.Advance();
  }
  if (end > first + kBlock) {
    WaitForAllCopiesBut<1>();
    announce();
  }
  if (end > first) {
    WaitForAllCopiesBut<0>();
    announce();
  }
}

template <class T, int kHalves, int kKeyHalves, bool kPlain>
__device__ void MakeWeights(const Arguments& a, const Tile& tile, int begin, int end, Shared<T>& shared,
                            const uint32_t (&held)[kHeldParts * kColumns / 16][4]) {
  constexpr int kHeadRows = 3 - kHalves, kBlock = kKeys / kKeyHalves, kTiles = kBlock / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x % kGroup / 32, g = lane / 4, t = lane % 4;
  float maximum[kHeadRows], total[kHeadRows] = {};
  const auto scoring_of = [&](int h) {
    const int row = kHalves == 1 ? warp * 16 + h * 8 + g : warp * 8 + g;
    int token, head;
    const float slope = tile.Row(a, row, token, head) && a.slopes ? a.slopes[head] : 0;
    return Scoring<kPlain>(a, slope, shared.sight.first[row], shared.sight.last[row]);
  };
  const Scoring<kPlain> scoring[2] = {scoring_of(0), scoring_of(kHeadRows - 1)};
#pragma unroll
  for (int h = 0; h < kHeadRows; ++h) maximum[h] = -INFINITY;
  const uint64_t x = MatrixAt(shared.q, 1);
  float products[kKeys / 8][4];
  Place place;
  const auto multiply = [&] {
    Await(&shared.keys_there[place.stage], place.parity);
    const uint64_t y = MatrixAt(shared.keys[place.stage], 1);
    BeginProducts();
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        const uint64_t keys = y + part * (kKeys * 128 / 16) + k * 2;
        if (part == 0 && k == 0) {
          StartProduct<T, false>(products, held[0], keys);
        } else if (part < kHeldParts) {
          StartProduct<T, true>(products, held[part * (kColumns / 16) + k], keys);
        } else {
          StartProduct<T>(products, x + (part - kHeldParts) * (kRows * 128 / 16) + k * 2, keys);
        }
      }
    }
    EndProducts();
    place.Advance();
  };
  const auto step = [&](int block, int buffer, bool used, auto more) {
    WaitForProducts();
    Settle(products);
    float scores[kTiles][4];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float product = products[n * kKeyHalves][i];
        if (kKeyHalves == 2) product += products[n * kKeyHalves + 1][i];
        if (kHalves == 2 && i < 2) {
          product += products[n * kKeyHalves][i + 2];
          if (kKeyHalves == 2) product += products[n * kKeyHalves + 1][i + 2];
        }
        // A copy before the next products begin, whatever the compiler thinks of it.
        asm volatile("mov.f32 %0, %1;" : "=f"(scores[n][i]) : "f"(product));
      }
    }
    if constexpr (decltype(more)::value) multiply();
    float rescale[kHeadRows];
#pragma unroll
    for (int h = 0; h < kHeadRows; ++h) {
      float largest = maximum[h];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * h + i];
          score = scoring[h](score, block + n * 8 + 2 * t + i);
          largest = fmaxf(largest, score);
        }
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      const float base = largest == -INFINITY ? 0.0f : largest;
      rescale[h] = Exp2(maximum[h] - base);
      maximum[h] = largest;
      total[h] *= rescale[h];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          scores[n][i] = Exp2(scores[n][i] - base);
          total[h] += scores[n][i];
        }
      }
    }
    if (used) Meet(kWeightsRead + buffer);
    const int row = warp * 16 + g;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (t == 0) shared.rescale[buffer][row + h * 8] = rescale[kHalves == 1 ? h : 0];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        T low = Narrow<T>(scores[n][kHalves == 1 ? 2 * h : 0]), high = Narrow<T>(scores[n][kHalves == 1 ? 2 * h + 1 : 1]);
        if (kHalves == 2 && h == 1) {
          low = Narrow<T>(scores[n][0] - Widen(low)), high = Narrow<T>(scores[n][1] - Widen(high));
        }
#pragma unroll
        for (int half = 0; half < kKeyHalves; ++half) {
          T* const eight = Swizzled(shared.weights[row + h * 8], g, buffer * kKeys + (n * kKeyHalves + half) * 8);
          *reinterpret_cast<uint32_t*>(eight + 2 * t) = Pair(low, high);
        }
      }
    }
    ShowToProducts();
    Signal(kWeightsThere + buffer);
  };
  const int first = begin / kBlock * kBlock;
  if (begin < end) {
    multiply();
    int buffer = 0, block = first;
    for (; block + kBlock < end; block += kBlock, buffer ^= 1) step(block, buffer, block >= first + 2 * kBlock, std::true_type());
    step(block, buffer, block >= first + 2 * kBlock, std::false_type());
  }
#pragma unroll
  for (int h = 0; h < kHeadRows; ++h) {
    total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
    total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
    if (t != 0) continue;
    shared.total[warp * 16 + h * 8 + g] = total[h];
    shared.maximum[warp * 16 + h * 8 + g] = maximum[h];
  }
}

/// Values [half · 256, half · 256 + 256).
template <class T, int kHalves, int kKeyHalves>
__device__ void SumValues(const Arguments& a, const Tile& tile, int half, int begin, int end, Shared<T>& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x % kGroup / 32, g = lane / 4, t = lane % 4;
  constexpr int kBlock = kKeys / kKeyHalves;
  const int row = warp * 16 + g, first_value = half * (kValueDepth / 2);
  const bool wanted = first_value < a.value_depth;
  float sums[kSumHalves][kSumTiles][4] = {};
  Place place;
  int buffer = 0;
  for (int block = begin / kBlock * kBlock; block < end; block += kBlock) {
    Meet(kWeightsThere + buffer);
    if (wanted) {
      const float rescale[2] = {shared.rescale[buffer][row], shared.rescale[buffer][row + 8]};
      if (!__all_sync(0xffffffffu, rescale[0] == 1.0f && rescale[1] == 1.0f)) {
#pragma unroll
        for (int n = 0; n < kSumHalves * kSumTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[n / kSumTiles][n % kSumTiles][i] *= rescale[i / 2];
        }
      }
      uint32_t x[kKeys / 16][4];
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) {
        LoadMatrices(x[k], Swizzled(shared.weights[warp * 16 + lane % 16], lane, buffer * kKeys + k * 16 + lane / 16 * 8));
      }
      const uint64_t y = MatrixAt(shared.keys[place.stage][half * (kValueDepth / 2 / kColumns)], kKeys * 128 / 16);
      BeginProducts();
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
        for (int i = 0; i < kSumHalves; ++i) {
          StartProduct<T>(sums[i], x[k], y + k * (16 * 128 / 16) + i * (kSumTiles * 8 / kColumns) * (kKeys * 128 / 16));
        }
      }
      EndProducts();
      WaitForProducts();
      for (auto& half_sums : sums) Settle(half_sums);
    }
    ArriveWarp(&shared.keys_read[place.stage]);
    if (block + 2 * kBlock < end) Signal(kWeightsRead + buffer);
    place.Advance();
    buffer ^= 1;
  }
  // The group that makes weights has left what they sum to.
  Meet(kResultsThere);
#pragma unroll
  for (int h = 0; h < 3 - kHalves; ++h) {
    const int head_row = kHalves == 1 ? row + h * 8 : warp * 8 + g;
    const float maximum = shared.maximum[row + h * 8], total = shared.total[row + h * 8];
    const RowResult<T, kHalves> result(a, tile, shared.sight, head_row, blockIdx.z, maximum, total);
    if (result.part && half == 0 && t == 0) a.stats[a.Part(head_row, blockIdx.z)] = make_float2(maximum, total);
#pragma unroll
    for (int n = 0; n < kSumHalves * kSumTiles; ++n) {
      const int d = first_value + n * 8 + 2 * t;
      if (d >= a.value_depth) continue;
      const float (&eight)[4] = sums[n / kSumTiles][n % kSumTiles];
      if constexpr (kHalves == 1) {
        result.Put(d, eight[2 * h], eight[2 * h + 1]);
      } else {
        result.Put(d, eight[0] + eight[2], eight[1] + eight[3]);
      }
    }
  }
}

/// By the threads that do not bring keys.
template <class T, int kHalves>
__device__ void BringQueries(const Arguments& a, const Tile& tile, Shared<T>& shared) {
  const auto place = [&](int row, int d) { return Swizzled(shared.Query(d / kColumns, row), row, d % kColumns); };
  if (kHalves == 2 || !a.groups_in_q) {
    LoadQueries<T, kHalves>(a, tile, kConsumers,
                            [&](int row, int d, uint4 eight) { *reinterpret_cast<uint4*>(place(row, d)) = eight; });
  } else {
    constexpr int kGroups = kDepth / 8;
    for (int i = threadIdx.x; i < kRows * kGroups; i += kConsumers) {
      const int row = i / kGroups, d = i % kGroups * 8;
      int token, head;
      const bool valid = tile.Row(a, row, token, head) && d < a.depth;
      CopyGroup(place(row, d), valid ? a.Query<T>(token, head) + d : reinterpret_cast<const T*>(a.q), valid);
    }
    CommitCopies();
    WaitForAllCopiesBut<0>();
  }
  ShowToProducts();
  Meet(kQueriesThere);
}

/// What stays in registers of the queries.
template <class T>
__device__ void HoldQueries(Shared<T>& shared, uint32_t (&held)[kHeldParts * kColumns / 16][4]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x % kGroup / 32 * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < kHeldParts * kColumns / 16; ++k) {
    const int d = k % (kColumns / 16) * 16 + lane / 16 * 8;
    LoadMatrices(held[k], Swizzled(shared.Query(k / (kColumns / 16), row), row, d));
  }
}
#endif

template <class T, int kHalves, int kKeyHalves, bool kPlain>
__global__ void __launch_bounds__(kThreads, 1) AttendTiles(const __grid_constant__ Arguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(128) uint8_t unaligned[];
  auto& shared = *reinterpret_cast<Shared<T>*>(unaligned + (kAlignment - SharedAddress(unaligned) % kAlignment) % kAlignment);
  Tile tile;
  // The last tiles of a prompt, which see most, come first.
  const int index = a.first_tile + static_cast<int>(a.whole ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  if (!tile.Find(a, index, blockIdx.y)) return;
  shared.sight.template Look<kHalves>(a, tile);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) InitBarrier(&shared.keys_there[i], 4), InitBarrier(&shared.keys_read[i], 8);
  }
  __syncthreads();
  int begin, end;
  shared.sight.template Range<kHalves>(tile, begin, end);
  if (!CutToParts(a, begin, end)) return;
  const int group = threadIdx.x / kGroup;
  if (group == 3) {
    LeaveRegisters<kBringRegisters<kKeyHalves>>();
    BringKeys<T, kKeyHalves>(a, tile, begin, end, shared);
  } else if (group == 2) {
    TakeRegisters<kWeightRegisters<kKeyHalves>>();
    BringQueries<T, kHalves>(a, tile, shared);
    uint32_t held[kHeldParts * kColumns / 16][4];
    HoldQueries(shared, held);
    Signal(kQueriesHeld);
    MakeWeights<T, kHalves, kKeyHalves, kPlain>(a, tile, begin, end, shared, held);
    Signal(kResultsThere);
  } else {
    TakeRegisters<kSumRegisters>();
    BringQueries<T, kHalves>(a, tile, shared);
    Meet(kQueriesHeld);
    for (int i = kFirstBusyStage; i < kStages; ++i) ArriveWarp(&shared.keys_read[i]);
    SumValues<T, kHalves, kKeyHalves>(a, tile, group, begin, end, shared);
  }
#endif
}

template <class T, int kHalves, int kKeyHalves>
void LaunchTyped(const Arguments& a, dim3 grid, Run& run) {
  const bool plain = !a.slopes && a.soft_cap == 0;
  const auto kernel = plain ? AttendTiles<T, kHalves, kKeyHalves, true> : AttendTiles<T, kHalves, kKeyHalves, false>;
  constexpr int kSize = sizeof(Shared<T>) + kAlignment;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSize), "cudaFuncSetAttribute");
  kernel<<<grid, kThreads, kSize, run.stream()>>>(a);
}

}  // namespace

void LaunchHopperTiles(DType cache, int halves, const Arguments& a, dim3 grid, Run& run) {
  if (cache == DType::kF32) return LaunchTyped<__nv_bfloat16, 2, 2>(a, grid, run);
  if (cache == DType::kF16) return halves == 1 ? LaunchTyped<__half, 1, 1>(a, grid, run) : LaunchTyped<__half, 2, 1>(a, grid, run);
  halves == 1 ? LaunchTyped<__nv_bfloat16, 1, 1>(a, grid, run) : LaunchTyped<__nv_bfloat16, 2, 1>(a, grid, run);
}

}  // namespace zi::cuda::wide
