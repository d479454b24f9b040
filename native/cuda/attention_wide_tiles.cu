// Tiles of wide heads on any GPU's tensor cores: eight warps share a tile of 64 rows, first as rows and keys, whose weights go
// through shared memory, then as rows and values.
#include "cuda/attention_wide.h"

namespace zi::cuda::wide {
namespace {

constexpr int kThreads = 256;
/// 16 bytes more than a row, so that the eight rows of a matrix fall into different banks.
constexpr int kStride = kDepth + 8, kWeightStride = kKeys + 8;
/// Values that a warp sums: every fourth sixteen.
constexpr int kColumns = kValueDepth / 4 / 16;

template <class T>
struct Shared {
  T q[kRows][kStride];
  T weights[kRows][kWeightStride];
  float largest[2][kRows], rescale[kRows], maximum[kRows], total[2][kRows];
  Sight sight;
  /// As many as there is room for: keys of blocks in turn, or keys and values.
  T slots[2][kKeys][kStride];
};

/// Starts copying heads [block, block + so many as fit) of keys or values; those outside [begin, end), and what is beyond a
/// head, become zeros.
template <class T, int kKeyHalves, bool kOfKeys>
__device__ void LoadHeads(const Arguments& a, const Tile& tile, int block, int begin, int end, T (&to)[kKeys][kStride]) {
  using Head = std::conditional_t<kKeyHalves == 1, T, float>;
  constexpr int kGroup = 16 / sizeof(Head);
  const int lane = threadIdx.x % 32, depth = kOfKeys ? a.depth : a.value_depth;
#pragma unroll
  for (int i = 0; i < kKeys / kKeyHalves / (kThreads / 32); ++i) {
    const int key = static_cast<int>(threadIdx.x) / 32 + i * (kThreads / 32), position = block + key;
    int page = 0, offset = 0;
    const bool inside = position >= begin && position < end && a.PlaceFast(tile.sequence, position, page, offset);
    const Head* const head = kOfKeys ? a.Key<Head>(page, tile.kv_head, offset) : a.Value<Head>(page, tile.kv_head, offset);
    for (int d = lane * kGroup; d < (depth + 31) / 32 * 32; d += 32 * kGroup) {
      const bool valid = inside && d < depth;
      CopyGroup(&to[RowOf<kKeyHalves>(key) + d % 8 * 2][d / 8 * 8], valid ? head + d : head, valid);
    }
  }
}

/// The same of heads that are stored as another type, whose values are there when this returns.
template <class T, bool kOfKeys, class Get>
__device__ void ExpandHeads(const Arguments& a, const Tile& tile, int block, int begin, int end, T (&to)[kKeys][kStride], Get get) {
  const int lane = threadIdx.x % 32, depth = kOfKeys ? a.depth : a.value_depth;
#pragma unroll
  for (int i = 0; i < kKeys / (kThreads / 32); ++i) {
    const int key = static_cast<int>(threadIdx.x) / 32 + i * (kThreads / 32), position = block + key;
    int page = 0, offset = 0;
    const bool inside = position >= begin && position < end && a.PlaceFast(tile.sequence, position, page, offset);
    const int64_t head = kOfKeys ? a.KeyAt(page, tile.kv_head, offset) : a.ValueAt(page, tile.kv_head, offset);
    const int64_t scales = kOfKeys ? a.KeyScaleAt(page, tile.kv_head, offset) : a.ValueScaleAt(page, tile.kv_head, offset);
    for (int d = lane * 8; d < (depth + 31) / 32 * 32; d += 256) {
      float values[8] = {};
      if (inside && d < depth) get(head, d, scales + d / (kOfKeys ? a.group : a.value_group), values);
      PutEight(&to[key][d], values);
    }
  }
}
template <class T, bool kOfKeys>
__device__ void ExpandHeads(const Arguments& a, const Tile& tile, int block, int begin, int end, T (&to)[kKeys][kStride]) {
  const uint8_t* const data = kOfKeys ? a.keys : a.values;
  const auto codes = [&](auto* kind) {
    using Codes = std::decay_t<decltype(*kind)>;
    const auto* const all = reinterpret_cast<const uint16_t*>(kOfKeys ? a.key_scales : a.value_scales);
    ExpandHeads<T, kOfKeys>(a, tile, block, begin, end, to, [&](int64_t head, int d, int64_t scale, float (&values)[8]) {
      GetEightCodes<T, Codes>(data + head + a.Elements(d), all[scale], values);
    });
  };
  switch (a.cache) {
    case DType::kE4M3:
      return codes(static_cast<E4M3Codes*>(nullptr));
    case DType::kI8:
      return codes(static_cast<I8Codes*>(nullptr));
    case DType::kU8:
      return codes(static_cast<NibbleCodes*>(nullptr));
    case DType::kF16:
    case DType::kBF16: {
      using Other = std::conditional_t<std::is_same_v<T, __half>, __nv_bfloat16, __half>;
      return ExpandHeads<T, kOfKeys>(a, tile, block, begin, end, to, [&](int64_t head, int d, int64_t, float (&values)[8]) {
        GetEight(reinterpret_cast<const Other*>(data) + head + d, values);
      });
    }
    case DType::kF32:
    case DType::kI32:
    case DType::kE8M0:
      break;
  }
  __trap();
}

/// Heads of f32 that have been copied become halves.
template <class T>
__device__ void SplitHeads(int depth, T (&heads)[kKeys][kStride]) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kKeys / 2 / (kThreads / 32); ++i) {
    const int row = RowOf<2>(static_cast<int>(threadIdx.x) / 32 + i * (kThreads / 32));
    for (int d = lane * 8; d < (depth + 31) / 32 * 32; d += 256) SplitInPlace(&heads[row][d], &heads[row + 8][d]);
  }
}

template <class T, int kHalves, int kKeyHalves>
__global__ void __launch_bounds__(kThreads, 1) AttendTiles(const __grid_constant__ Arguments a) {
  constexpr int kBlock = kKeys / kKeyHalves, kTiles = 2 / kKeyHalves;
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& shared = *reinterpret_cast<Shared<T>*>(bytes);
  Tile tile;
  // The last tiles of a prompt, which see most, come first.
  const int index = a.first_tile + static_cast<int>(a.whole ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  if (!tile.Find(a, index, blockIdx.y)) return;
  shared.sight.template Look<kHalves>(a, tile);
  LoadQueries<T, kHalves>(a, tile, kThreads,
                          [&](int row, int d, uint4 eight) { *reinterpret_cast<uint4*>(&shared.q[row][d]) = eight; });
  __syncthreads();
  int begin, end;
  shared.sight.template Range<kHalves>(tile, begin, end);
  if (!CutToParts(a, begin, end)) return;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const auto load = [&](int block, int slot) {
    if (kHalves == 1 && a.expands && block < end) {
      ExpandHeads<T, true>(a, tile, block, begin, end, shared.slots[slot]);
      if (!a.values_in_keys) ExpandHeads<T, false>(a, tile, block, begin, end, shared.slots[1]);
    } else if (block < end) {
      LoadHeads<T, kKeyHalves, true>(a, tile, block, begin, end, shared.slots[slot]);
      if (!a.values_in_keys) LoadHeads<T, kKeyHalves, false>(a, tile, block, begin, end, shared.slots[1]);
    }
    CommitCopies();
  };
  // As it multiplies keys a warp has 16 rows and 16 keys, later 32 rows and a fourth of the values.
  const int rows = warp % 4 * 16, keys = warp / 4 * 16, sum_rows = warp % 2 * 32, quarter = warp / 2;
  int seen_first[2], seen_last[2];
  float slope[2] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};
#pragma unroll
  for (int h = 0; h < 3 - kHalves; ++h) {
    const int row = kHalves == 1 ? rows + h * 8 + g : rows / 2 + g;
    int token, head;
    if (tile.Row(a, row, token, head) && a.slopes) slope[h] = a.slopes[head];
    seen_first[h] = shared.sight.first[row], seen_last[h] = shared.sight.last[row];
  }
  float sums[2][2 * kColumns][4] = {};
  const int first = begin / kBlock * kBlock, steps = (a.depth + 31) / 32 * 2;
  if (begin < end) load(first, 0);
  int slot = 0;
  for (int block = first; block < end; block += kBlock) {
    WaitForAllCopiesBut<0>();
    if constexpr (kKeyHalves == 2) {
      SplitHeads(a.depth, shared.slots[slot]);
      if (!a.values_in_keys) SplitHeads(a.value_depth, shared.slots[1]);
    }
    __syncthreads();  // and nobody reads the other slot, or the weights, any more
    if (a.values_in_keys) load(block + kBlock, slot ^ 1);
    float parts[2][2][4] = {};
    // Sums of even and odd steps, so that products wait less for each other; what is beyond a head is zeros.
#pragma unroll 2
    for (int k = 0; k < steps; k += 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t x[4], b[4];
        const int d = (k + i) * 16;
        LoadMatrices(x, &shared.q[rows + lane % 16][d + lane / 16 * 8]);
        LoadMatrices(b, &shared.slots[slot][keys + lane / 16 * 8 + lane % 8][d + lane / 8 % 2 * 8]);
        MultiplyAdd<T>(parts[i][0], x, b[0], b[1]);
        MultiplyAdd<T>(parts[i][1], x, b[2], b[3]);
      }
    }
    float scores[kTiles][4];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = parts[0][n][i] + parts[1][n][i];
        if (kKeyHalves == 2) scores[n][i] += parts[0][1][i] + parts[1][1][i];
      }
      if (kHalves == 2) scores[n][0] += scores[n][2], scores[n][1] += scores[n][3];
    }
#pragma unroll
    for (int h = 0; h < 3 - kHalves; ++h) {
      Score(a, slope[h], block + keys / kKeyHalves, seen_first[h], seen_last[h], h, scores);
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) largest = fmaxf(largest, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      if (t == 0) shared.largest[warp / 4][rows + h * 8 + g] = largest;
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 3 - kHalves; ++h) {
      const int row = rows + h * 8 + g;
      const float largest = fmaxf(maximum[h], fmaxf(shared.largest[0][row], shared.largest[1][row]));
      const float base = largest == -INFINITY ? 0.0f : largest, rescale = Exp2(maximum[h] - base);
      maximum[h] = largest;
      total[h] *= rescale;
      if (t == 0 && warp < 4) {
        shared.rescale[row] = rescale;
        if (kHalves == 2) shared.rescale[row + 8] = rescale;
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        float p[2];
        T rounded[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          p[i] = Exp2(scores[n][2 * h + i] - base);
          total[h] += p[i];
          rounded[i] = Narrow<T>(p[i]);
        }
#pragma unroll
        for (int half = 0; half < kKeyHalves; ++half) {
          T* const to = &shared.weights[row][keys + (n + half) * 8 + 2 * t];
          *reinterpret_cast<uint32_t*>(to) = Pair(rounded[0], rounded[1]);
          if (kHalves == 1) continue;
          *reinterpret_cast<uint32_t*>(to + 8 * kWeightStride) =
              Pair(Narrow<T>(p[0] - Widen(rounded[0])), Narrow<T>(p[1] - Widen(rounded[1])));
        }
      }
    }
    __syncthreads();
    float rescale[2][2];
    bool same = true;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      for (int h = 0; h < 2; ++h) {
        rescale[m][h] = shared.rescale[sum_rows + m * 16 + h * 8 + g];
        same = same && rescale[m][h] == 1.0f;
      }
    }
    if (!__all_sync(0xffffffffu, same)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 2 * kColumns; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[m][n][i] *= rescale[m][i / 2];
        }
      }
    }
    const auto& values = shared.slots[a.values_in_keys ? slot : 1];
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t p[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        LoadMatrices(p[m], &shared.weights[sum_rows + m * 16 + lane % 16][k * 16 + lane / 16 * 8]);
      }
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const int d = (n * 4 + quarter) * 16;
        if (d >= a.value_depth) break;
        uint32_t b[4];
        LoadTransposed(b, &values[k * 16 + lane / 8 % 2 * 8 + lane % 8][d + lane / 16 * 8]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          MultiplyAdd<T>(sums[m][2 * n], p[m], b[0], b[1]);
          MultiplyAdd<T>(sums[m][2 * n + 1], p[m], b[2], b[3]);
        }
      }
    }
    if (a.values_in_keys) {
      slot ^= 1;
    } else {
      __syncthreads();
      load(block + kBlock, 0);
    }
  }

#pragma unroll
  for (int h = 0; h < 3 - kHalves; ++h) {
    total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
    total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
    if (t != 0) continue;
    const int row = rows + h * 8 + g;
    shared.total[warp / 4][row] = total[h];
    if (warp < 4) shared.maximum[row] = maximum[h];
  }
  __syncthreads();
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int h = 0; h < 3 - kHalves; ++h) {
      const int row = sum_rows + m * 16 + h * 8 + g, head_row = kHalves == 1 ? row : sum_rows / 2 + m * 8 + g;
      const float all = shared.total[0][row] + shared.total[1][row];
      const RowResult<T, kHalves> result(a, tile, shared.sight, head_row, blockIdx.z, shared.maximum[row], all);
      if (result.part && quarter == 0 && t == 0) a.stats[a.Part(head_row, blockIdx.z)] = make_float2(shared.maximum[row], all);
#pragma unroll
      for (int n = 0; n < 2 * kColumns; ++n) {
        const int d = (n / 2 * 4 + quarter) * 16 + n % 2 * 8 + 2 * t;
        if (d >= a.value_depth) continue;
        const float* const from = sums[m][n];
        if constexpr (kHalves == 1) {
          result.Put(d, from[2 * h], from[2 * h + 1]);
        } else {
          result.Put(d, from[0] + from[2], from[1] + from[3]);
        }
      }
    }
  }
}

template <class T, int kHalves, int kKeyHalves>
void LaunchTyped(const Arguments& a, dim3 grid, Run& run) {
  const auto kernel = AttendTiles<T, kHalves, kKeyHalves>;
  constexpr int kSize = sizeof(Shared<T>);
  static_assert(kSize <= kWideSharedBytes);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSize), "cudaFuncSetAttribute");
  kernel<<<grid, kThreads, kSize, run.stream()>>>(a);
}

}  // namespace

void LaunchTiles(DType type, int halves, const Arguments& a, dim3 grid, Run& run) {
  if (a.cache == DType::kF32) return LaunchTyped<__nv_bfloat16, 2, 2>(a, grid, run);
  if (type == DType::kF16) return halves == 1 ? LaunchTyped<__half, 1, 1>(a, grid, run) : LaunchTyped<__half, 2, 1>(a, grid, run);
  halves == 1 ? LaunchTyped<__nv_bfloat16, 1, 1>(a, grid, run) : LaunchTyped<__nv_bfloat16, 2, 1>(a, grid, run);
}

}  // namespace zi::cuda::wide
