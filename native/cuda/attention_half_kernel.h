// The kernel of tiles of 16-bit attention, for any way of bringing keys and values into shared memory: a tile of query rows of
// one head per block, products on tensor cores with f32 sums (Dao 2023). Blocks of keys begin at multiples of their size, so
// that a row does not depend on its neighbours; while one is multiplied the next two are on their way.
#pragma once
#include "cuda/attention_half_tiles.h"
#include "cuda/run.h"

namespace zi::cuda::half_tiles {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f;

/// A warp's rows; of each matrix a lane has parts of rows g and g + 8, as in tensor_cores.h.
template <class T, int kDepth, bool kCapped>
struct WarpRows {
  static constexpr int kTiles = Sizes<kDepth>::kTiles, kKeys = Sizes<kDepth>::kKeys;
  float sums[kTiles][kDepth / 8][4];
  float maximum[kTiles][2], total[kTiles][2];  // of scores times log2 e
  int first_row;                               // of the warp, within the tile
  int some_first, some_last;                   // keys that any of the rows sees
  int all_first, all_last;                     // keys that all of them see

  __device__ void Start(const Shared<T, kDepth>& shared) {
    const int lane = threadIdx.x % 32;
    first_row = static_cast<int>(threadIdx.x) / 32 * Sizes<kDepth>::kWarpRows;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int d = 0; d < kDepth / 8; ++d) {
        for (int i = 0; i < 4; ++i) sums[m][d][i] = 0;
      }
      maximum[m][0] = maximum[m][1] = -INFINITY;
      total[m][0] = total[m][1] = 0;
    }
    const int row = first_row + lane % Sizes<kDepth>::kWarpRows;
    some_first = __reduce_min_sync(0xffffffffu, shared.first[row]);
    all_first = __reduce_max_sync(0xffffffffu, shared.first[row]);
    some_last = __reduce_max_sync(0xffffffffu, shared.last[row]);
    all_last = __reduce_min_sync(0xffffffffu, shared.last[row]);
  }

  using Scores = float[kTiles][kKeys / 8][4];

  /// scores[m][n] becomes q · k of matrix m and keys 8n … 8n + 7 of the block.
  __device__ void Multiply(int stage, const Shared<T, kDepth>& shared, Scores& scores) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        for (int i = 0; i < 4; ++i) scores[m][n][i] = 0;
      }
    }
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t a[kTiles][4], b[kKeys / 16][4];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        LoadMatrices(a[m], &shared.q[first_row + m * 16 + lane % 16][k * 16 + lane / 16 * 8]);
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        LoadMatrices(b[n], &shared.keys[stage][n * 16 + lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          MultiplyAdd<T>(scores[m][2 * n], a[m], b[n][0], b[n][1]);
          MultiplyAdd<T>(scores[m][2 * n + 1], a[m], b[n][2], b[n][3]);
        }
      }
    }
  }

  /// Products become scores times log2 e; −∞ where a row does not see the key.
  __device__ void Score(const AttentionArguments& a, float slope, int block, const Shared<T, kDepth>& shared,
                        Scores& scores) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const float scale = a.scale * kLog2E, slope2 = slope * kLog2E;
    const bool whole = block >= all_first && block + kKeys - 1 <= all_last;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = block + n * 8 + 2 * t + i % 2;
          scores[m][n][i] = kCapped ? a.Score(scores[m][n][i], slope, key) * kLog2E
                                    : fmaf(slope2, static_cast<float>(key), scores[m][n][i] * scale);
        }
      }
      if (whole) continue;
      const int row = first_row + m * 16 + g;
      const int first[2] = {shared.first[row] - block, shared.first[row + 8] - block};
      const int last[2] = {shared.last[row] - block, shared.last[row + 8] - block};
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = n * 8 + 2 * t + i % 2;
          if (key < first[i / 2] || key > last[i / 2]) scores[m][n][i] = -INFINITY;
        }
      }
    }
  }

  /// Brings sums to the maximum that these scores lead to, and makes the scores weights.
  __device__ void Weigh(Scores& scores) {
    float rescale[kTiles][2];
    bool same = true;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = maximum[m][h];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          largest = fmaxf(largest, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        const float base = largest == -INFINITY ? 0.0f : largest;
        same = same && largest == maximum[m][h];
        rescale[m][h] = Exp2(maximum[m][h] - base);
        maximum[m][h] = largest;
        float sum = total[m][h] * rescale[m][h];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; ++i) {
            scores[m][n][i] = Exp2(scores[m][n][i] - base);
            sum += scores[m][n][i];
          }
        }
        total[m][h] = sum;
      }
    }
    // Multiplying by one would change nothing.
    if (__all_sync(0xffffffffu, same)) return;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int d = 0; d < kDepth / 8; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[m][d][i] *= rescale[m][i / 2];
      }
    }
  }

  __device__ void FoldBlock(const AttentionArguments& a, float slope, int block, int stage,
                            const Shared<T, kDepth>& shared) {
    if (block > some_last || block + kKeys <= some_first) return;
    const int lane = threadIdx.x % 32;
    Scores scores;
    Multiply(stage, shared, scores);
    Score(a, slope, block, shared, scores);
    Weigh(scores);
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint32_t p[kTiles][4];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* const pair = &scores[m][2 * n + i / 2][i % 2 * 2];
          p[m][i] = Pair(Narrow<T>(pair[0]), Narrow<T>(pair[1]));
        }
      }
#pragma unroll
      for (int d = 0; d < kDepth / 16; ++d) {
        uint32_t b[4];
        LoadTransposed(b, &shared.values[stage][n * 16 + lane / 8 % 2 * 8 + lane % 8][d * 16 + lane / 16 * 8]);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          MultiplyAdd<T>(sums[m][2 * d], p[m], b[0], b[1]);
          MultiplyAdd<T>(sums[m][2 * d + 1], p[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ void WriteOut(const AttentionArguments& a, int head, int first_token, int tokens,
                           const Shared<T, kDepth>& shared) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float all = total[m][h];
        all += __shfl_xor_sync(0xffffffffu, all, 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        const int r = first_row + m * 16 + h * 8 + g;
        if (r >= tokens) continue;
        const float inverse = a.Inverse(head, maximum[m][h] * kLn2, all, shared.first[r] <= shared.last[r]);
        T* const out = a.Out<T>(first_token + r, head);
        const bool pairs = reinterpret_cast<uintptr_t>(out) % 4 == 0 && a.value_depth % 2 == 0;
#pragma unroll
        for (int k = 0; k < kDepth / 8; ++k) {
          const int d = k * 8 + 2 * t;
          const T low = Narrow<T>(sums[m][k][2 * h] * inverse), high = Narrow<T>(sums[m][k][2 * h + 1] * inverse);
          if (pairs && d < a.value_depth) {
            *reinterpret_cast<uint32_t*>(out + d) = Pair(low, high);
          } else {
            if (d < a.value_depth) out[d] = low;
            if (d + 1 < a.value_depth) out[d + 1] = high;
          }
        }
      }
    }
  }
};

/// Tile i of sequence s is block ⌊first / kQueries⌋ + s + i: different for all, and known without adding up. The last
/// tiles of a prompt, which see most, come first.
template <class T, int kDepth, bool kCapped, class Loader>
__global__ void __launch_bounds__(kThreads, 2)
    AttendTiles(const typename Loader::Arguments a, const CacheLayout layout, int fewer_tokens) {
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& shared = *reinterpret_cast<Shared<T, kDepth>*>(bytes);
  constexpr int kKeys = Sizes<kDepth>::kKeys, kQueries = Sizes<kDepth>::kQueries;
  const int index = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const auto first_block = [&](int s) { return a.sequences[s * a.sequences_stride] / kQueries + s; };
  const int s = a.LastSequence(index, first_block);
  AttentionArguments::Sequence sequence;
  if (s < 0 || !a.ReadSequence(s, sequence) || sequence.tokens <= fewer_tokens) return;
  const int tile = (index - first_block(s)) * kQueries;
  if (tile >= sequence.tokens) return;
  const int first_token = sequence.first + tile, tokens = min(kQueries, sequence.tokens - tile);
  const int head = blockIdx.y, kv_head = static_cast<int>(static_cast<int64_t>(head) * a.kv_heads / a.heads);
  LoadQueries<T, kDepth>(a, head, first_token, tokens, shared);
  for (int r = threadIdx.x; r < kQueries; r += kThreads) {
    const int position = r < tokens ? a.positions[first_token + r] : 0;
    shared.first[r] = r < tokens ? a.FirstKey(position) : 0;
    shared.last[r] = r < tokens ? a.LastKey(sequence, position) : -1;
  }
  __syncthreads();
  // The keys that any row sees; a row beyond the tokens sees none.
  int begin = sequence.context, end = 0;
  for (int r = threadIdx.x % 32; r < kQueries; r += 32) {
    if (r < tokens) begin = min(begin, shared.first[r]);
    end = max(end, shared.last[r] + 1);
  }
  begin = __reduce_min_sync(0xffffffffu, begin);
  end = __reduce_max_sync(0xffffffffu, end);
  const int first = begin / kKeys * kKeys;
  Loader loader;
  const auto load = [&](int block, int stage) {
    if (block < end) loader.Load(a, layout, sequence, kv_head, block, begin, end, stage, shared);
    CommitCopies();
  };
  load(first, 0);
  loader.Advance();
  load(first + kKeys, 1);
  loader.Advance();
  WarpRows<T, kDepth, kCapped> rows;
  rows.Start(shared);
  const float slope = a.slopes ? a.slopes[head] : 0.0f;
  int stage = 0, ahead = 2;
  for (int block = first; block < end; block += kKeys) {
    WaitForAllCopiesBut<1>();
    loader.Expand(a, layout, stage, shared);
    __syncthreads();  // and nobody reads the stage before any more
    load(block + 2 * kKeys, ahead);
    rows.FoldBlock(a, slope, block, stage, shared);
    loader.Advance();
    stage = stage == kStages - 1 ? 0 : stage + 1;
    ahead = ahead == kStages - 1 ? 0 : ahead + 1;
  }
  rows.WriteOut(a, head, first_token, tokens, shared);
}

inline int ShiftOf(int64_t page_tokens) {
  for (int shift = 0; shift < 31; ++shift) {
    if (page_tokens == int64_t{1} << shift) return shift;
  }
  return -1;
}

template <class T, int kDepth, bool kCapped, class Loader>
void LaunchTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  const typename Loader::Arguments a(op, run.fault());
  const CacheLayout layout{Loader::Groups(op, a), ShiftOf(op.keys.shape[2])};
  const dim3 grid(static_cast<unsigned>(a.tokens / Sizes<kDepth>::kQueries + a.sequence_count),
                  static_cast<unsigned>(a.heads));
  const auto kernel = AttendTiles<T, kDepth, kCapped, Loader>;
  constexpr int kSize = sizeof(Shared<T, kDepth>);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSize), "cudaFuncSetAttribute");
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        "cudaFuncSetAttribute");
  kernel<<<grid, kThreads, kSize, run.stream()>>>(a, layout, static_cast<int>(fewer_tokens));
}

template <class T, int kDepth, class Loader>
void LaunchDepth(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  // What is seldom shares the slower kernel, whose scores may be anything.
  if (op.soft_cap == 0 && !op.alibi_rounded) return LaunchTiles<T, kDepth, false, Loader>(op, fewer_tokens, run);
  LaunchTiles<T, kDepth, true, Loader>(op, fewer_tokens, run);
}

template <class T, template <class, int> class Loader>
void LaunchAnyDepth(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  const int64_t depth = WiderHead(op);
  if (depth <= 64) return LaunchDepth<T, 64, Loader<T, 64>>(op, fewer_tokens, run);
  if (depth <= 128) return LaunchDepth<T, 128, Loader<T, 128>>(op, fewer_tokens, run);
  LaunchDepth<T, kHalfTileDepth, Loader<T, kHalfTileDepth>>(op, fewer_tokens, run);
}

/// Loader: how tiles come, for activations of both types.
template <template <class, int> class Loader>
void LaunchAnyType(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  switch (op.q.dtype) {
    case DType::kF16:
      return LaunchAnyDepth<__half, Loader>(op, fewer_tokens, run);
    case DType::kBF16:
      return LaunchAnyDepth<__nv_bfloat16, Loader>(op, fewer_tokens, run);
    case DType::kF32:
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(op.q.dtype);
}

}  // namespace zi::cuda::half_tiles
