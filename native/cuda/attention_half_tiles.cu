// attention of sequences with many new tokens in 16-bit types: 64 query rows of one head per block, 16 per warp,
// products on tensor cores with f32 sums (Dao 2023). Blocks of keys begin at multiples of their size, so that a row does
// not depend on its neighbours; while one is multiplied the next is on its way into the other half of shared memory.
#include "cuda/attention.h"
#include "cuda/run.h"
#include "cuda/tensor_cores.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 64;
constexpr float kLog2E = 1.44269504f;

template <class T, int kDepth>
struct Shared {
  static constexpr int kKeys = kDepth > 128 ? 32 : 64;
  /// 16 bytes more than a row, so that the eight rows of a matrix fall into different banks.
  static constexpr int kStride = kDepth + 8;
  T keys[2][kKeys][kStride], values[2][kKeys][kStride];
  int first[kQueries], last[kQueries];  // keys that each row sees; last < first when none
};

/// What loading keys needs to know of the cache beside the arguments.
struct CacheLayout {
  /// Heads are whole groups of eight at multiples of 16 bytes, keys and values alike: copied without registers.
  bool groups;
  /// log2 of the tokens of a page, or −1.
  int page_shift;
};

/// Starts copying keys [block, block + kKeys); those outside [begin, end) become zeros: nobody's maximum, and 0 · 0
/// where nobody sees them.
template <class T, int kDepth>
__device__ void LoadKeys(const AttentionArguments& a, const CacheLayout& layout,
                         const AttentionArguments::Sequence& sequence, int kv_head, int block, int begin, int end,
                         int stage, Shared<T, kDepth>& shared) {
  constexpr int kKeys = Shared<T, kDepth>::kKeys, kGroups = kDepth / 8;
  if (!layout.groups) {
    for (int i = threadIdx.x; i < kKeys * kDepth; i += kThreads) {
      const int j = i / kDepth, d = i % kDepth, position = block + j;
      int page = 0, offset = 0;
      const bool inside = d < a.depth && position >= begin && position < end && a.Place(sequence, position, page, offset);
      shared.keys[stage][j][d] = inside ? a.Key<T>(page, kv_head, offset)[d] : Narrow<T>(0.0f);
      shared.values[stage][j][d] = inside ? a.Value<T>(page, kv_head, offset)[d] : Narrow<T>(0.0f);
    }
    return;
  }
  // All places first, so that their loads wait for memory together.
  constexpr int kEach = kKeys * kGroups / kThreads;
  const int column = threadIdx.x % kGroups * 8, row = threadIdx.x / kGroups;
  int64_t places[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int position = block + row + i * (kThreads / kGroups);
    places[i] = -1;
    if (column >= a.depth || position < begin || position >= end) continue;
    if (layout.page_shift >= 0) {
      const int entry = sequence.first_page + (position >> layout.page_shift), page = __ldg(a.pages + entry);
      if (page < 0 || page >= a.page_count) {
        Report(a.fault, kPageOutside, entry, page, a.page_count);
      } else {
        places[i] = page * a.key_page + (position & (a.page_tokens - 1)) * a.key_token;
      }
    } else {
      int page, offset;
      if (a.Place(sequence, position, page, offset)) places[i] = page * a.key_page + offset * a.key_token;
    }
  }
  const T* const keys = reinterpret_cast<const T*>(a.keys) + kv_head * a.key_head + column;
  const T* const values = reinterpret_cast<const T*>(a.values) + kv_head * a.key_head + column;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int j = row + i * (kThreads / kGroups);
    const bool inside = places[i] >= 0;
    CopyGroup(&shared.keys[stage][j][column], keys + (inside ? places[i] : 0), inside);
    CopyGroup(&shared.values[stage][j][column], values + (inside ? places[i] : 0), inside);
  }
}

/// A warp's 16 rows; each lane has parts of rows g and g + 8, as in tensor_cores.h.
template <class T, int kDepth, bool kCapped>
struct WarpRows {
  static constexpr int kKeys = Shared<T, kDepth>::kKeys;
  uint32_t q[kDepth / 16][4];
  float sums[kDepth / 8][4];
  float maximum[2], total[2];  // of scores times log2 e
  int row;                     // g, within the tile
  int some_first, some_last;   // keys that any of the rows sees
  int all_first, all_last;     // keys that all of them see

  __device__ void Start(const AttentionArguments& a, int head, int first_token, int tokens,
                        const Shared<T, kDepth>& shared) {
    const int lane = threadIdx.x % 32, t = lane % 4;
    row = threadIdx.x / 32 * 16 + lane / 4;
    const T* const from = a.Query<T>(first_token, head);
    const bool pairs = reinterpret_cast<uintptr_t>(from) % 4 == 0 && a.q_token % 2 == 0 && a.depth % 2 == 0;
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + i % 2 * 8, d = k * 16 + 2 * t + i / 2 * 8;
        const T* const at = from + r * a.q_token + d;
        q[k][i] = 0;
        if (r >= tokens || d >= a.depth) continue;
        if (pairs) {
          q[k][i] = *reinterpret_cast<const uint32_t*>(at);
        } else {
          q[k][i] = Pair(at[0], d + 1 < a.depth ? at[1] : Narrow<T>(0.0f));
        }
      }
    }
#pragma unroll
    for (auto& sum : sums) {
      for (float& value : sum) value = 0;
    }
    maximum[0] = maximum[1] = -INFINITY;
    total[0] = total[1] = 0;
    const int other = lane % 16 + threadIdx.x / 32 * 16;
    some_first = all_first = shared.first[other];
    some_last = all_last = shared.last[other];
    for (int offset = 8; offset > 0; offset /= 2) {
      some_first = min(some_first, __shfl_xor_sync(0xffffffffu, some_first, offset));
      all_first = max(all_first, __shfl_xor_sync(0xffffffffu, all_first, offset));
      some_last = max(some_last, __shfl_xor_sync(0xffffffffu, some_last, offset));
      all_last = min(all_last, __shfl_xor_sync(0xffffffffu, all_last, offset));
    }
  }

  /// scores[n] becomes q · k for keys 8n … 8n + 7 of the block.
  __device__ void Multiply(int stage, const Shared<T, kDepth>& shared, float (&scores)[kKeys / 8][4]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (auto& score : scores) {
      for (float& value : score) value = 0;
    }
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        LoadMatrices(b, &shared.keys[stage][n * 16 + lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
        MultiplyAdd<T>(scores[2 * n], q[k], b[0], b[1]);
        MultiplyAdd<T>(scores[2 * n + 1], q[k], b[2], b[3]);
      }
    }
  }

  __device__ void FoldBlock(const AttentionArguments& a, float slope, int block, int stage,
                            const Shared<T, kDepth>& shared) {
    if (block > some_last || block + kKeys <= some_first) return;
    const int lane = threadIdx.x % 32, t = lane % 4;
    float scores[kKeys / 8][4];
    Multiply(stage, shared, scores);
    const float scale = a.scale * kLog2E, slope2 = slope * kLog2E;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = block + n * 8 + 2 * t + i % 2;
        scores[n][i] = kCapped ? a.Score(scores[n][i], slope, key) * kLog2E
                               : fmaf(slope2, static_cast<float>(key), scores[n][i] * scale);
      }
    }
    if (block < all_first || block + kKeys - 1 > all_last) {
      const int first[2] = {shared.first[row] - block, shared.first[row + 8] - block};
      const int last[2] = {shared.last[row] - block, shared.last[row + 8] - block};
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = n * 8 + 2 * t + i % 2;
          if (key < first[i / 2] || key > last[i / 2]) scores[n][i] = -INFINITY;
        }
      }
    }
    float largest[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) largest[i / 2] = fmaxf(largest[i / 2], scores[n][i]);
    }
    float rescale[2], base[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 1));
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 2));
      base[h] = largest[h] == -INFINITY ? 0.0f : largest[h];
      rescale[h] = Exp2(maximum[h] - base[h]);
      maximum[h] = largest[h];
      total[h] *= rescale[h];
    }
#pragma unroll
    for (auto& sum : sums) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] *= rescale[i / 2];
    }
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint32_t p[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float e[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          e[i] = Exp2(scores[2 * n + half][i] - base[i / 2]);
          total[i / 2] += e[i];
        }
        p[2 * half] = Pair(Narrow<T>(e[0]), Narrow<T>(e[1]));
        p[2 * half + 1] = Pair(Narrow<T>(e[2]), Narrow<T>(e[3]));
      }
#pragma unroll
      for (int d = 0; d < kDepth / 16; ++d) {
        uint32_t b[4];
        LoadTransposed(b, &shared.values[stage][n * 16 + lane / 8 % 2 * 8 + lane % 8][d * 16 + lane / 16 * 8]);
        MultiplyAdd<T>(sums[2 * d], p, b[0], b[1]);
        MultiplyAdd<T>(sums[2 * d + 1], p, b[2], b[3]);
      }
    }
  }

  __device__ void WriteOut(const AttentionArguments& a, int head, int first_token, int tokens) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
      const int r = row + h * 8;
      if (r >= tokens) continue;
      // A token that sees nothing gets zeros.
      const float inverse = total[h] != 0 ? 1.0f / total[h] : 0.0f;
      T* out = a.Out<T>(first_token + r, head);
      const bool pairs = reinterpret_cast<uintptr_t>(out) % 4 == 0 && a.depth % 2 == 0;
#pragma unroll
      for (int k = 0; k < kDepth / 8; ++k) {
        const int d = k * 8 + 2 * t;
        const T low = Narrow<T>(sums[k][2 * h] * inverse), high = Narrow<T>(sums[k][2 * h + 1] * inverse);
        if (pairs && d < a.depth) {
          *reinterpret_cast<uint32_t*>(out + d) = Pair(low, high);
        } else {
          if (d < a.depth) out[d] = low;
          if (d + 1 < a.depth) out[d + 1] = high;
        }
      }
    }
  }
};

/// Tile i of sequence s is block ⌊first / 64⌋ + s + i: different for all, and known without adding up. The last tiles
/// of a prompt, which see most, come first.
template <class T, int kDepth, bool kCapped>
__global__ void __launch_bounds__(kThreads, kDepth > 128 ? 2 : 3)
    AttendTiles(const AttentionArguments a, const CacheLayout layout, int fewer_tokens) {
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& shared = *reinterpret_cast<Shared<T, kDepth>*>(bytes);
  constexpr int kKeys = Shared<T, kDepth>::kKeys;
  const int index = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const auto first_block = [&](int s) { return a.sequences[s * a.sequences_stride] / kQueries + s; };
  const int s = a.LastSequence(index, first_block);
  AttentionArguments::Sequence sequence;
  if (s < 0 || !a.ReadSequence(s, sequence) || sequence.tokens <= fewer_tokens) return;
  const int tile = (index - first_block(s)) * kQueries;
  if (tile >= sequence.tokens) return;
  const int first_token = sequence.first + tile, tokens = min(kQueries, sequence.tokens - tile);
  const int head = blockIdx.y, kv_head = static_cast<int>(static_cast<int64_t>(head) * a.kv_heads / a.heads);
  if (threadIdx.x < kQueries) {
    const bool valid = static_cast<int>(threadIdx.x) < tokens;
    const int position = valid ? a.positions[first_token + threadIdx.x] : 0;
    shared.first[threadIdx.x] = valid ? a.FirstKey(position) : 0;
    shared.last[threadIdx.x] = valid ? a.LastKey(sequence, position) : -1;
  }
  __syncthreads();
  // Of all rows; a row beyond the tokens sees nothing and counts for nothing.
  int begin = sequence.context, end = 0;
#pragma unroll
  for (int r = threadIdx.x % 32; r < kQueries; r += 32) {
    if (r < tokens) begin = min(begin, shared.first[r]);
    end = max(end, shared.last[r] + 1);
  }
  begin = __reduce_min_sync(0xffffffffu, begin);
  end = __reduce_max_sync(0xffffffffu, end);
  int block = begin / kKeys * kKeys, stage = 0;
  if (block < end) LoadKeys<T, kDepth>(a, layout, sequence, kv_head, block, begin, end, 0, shared);
  CommitCopies();
  WarpRows<T, kDepth, kCapped> rows;
  rows.Start(a, head, first_token, tokens, shared);
  const float slope = a.slopes ? a.slopes[head] : 0.0f;
  for (; block < end; block += kKeys, stage ^= 1) {
    const int next = block + kKeys;
    if (next < end) LoadKeys<T, kDepth>(a, layout, sequence, kv_head, next, begin, end, stage ^ 1, shared);
    CommitCopies();
    WaitForAllCopiesBut<1>();
    __syncthreads();
    rows.FoldBlock(a, slope, block, stage, shared);
    __syncthreads();
  }
  rows.WriteOut(a, head, first_token, tokens);
}

int ShiftOf(int64_t page_tokens) {
  for (int shift = 0; shift < 31; ++shift) {
    if (page_tokens == int64_t{1} << shift) return shift;
  }
  return -1;
}

template <class T, int kDepth, bool kCapped>
void LaunchTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  const AttentionArguments a(op, run.fault);
  const bool alike = a.key_page == a.value_page && a.key_head == a.value_head && a.key_token == a.value_token;
  const bool groups = alike && a.depth % 8 == 0 && RowsAligned(op.keys, 16) && RowsAligned(op.values, 16);
  const CacheLayout layout{groups, ShiftOf(op.keys.shape[2])};
  const dim3 grid(static_cast<unsigned>(a.tokens / kQueries + a.sequence_count), static_cast<unsigned>(a.heads));
  const auto kernel = AttendTiles<T, kDepth, kCapped>;
  constexpr int kSize = sizeof(Shared<T, kDepth>);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSize), "cudaFuncSetAttribute");
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        "cudaFuncSetAttribute");
  kernel<<<grid, kThreads, kSize, run.stream>>>(a, layout, static_cast<int>(fewer_tokens));
}

template <class T, int kDepth>
void LaunchDepth(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  if (op.soft_cap == 0) return LaunchTiles<T, kDepth, false>(op, fewer_tokens, run);
  LaunchTiles<T, kDepth, true>(op, fewer_tokens, run);
}

template <class T>
void LaunchTyped(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  const int64_t depth = op.q.shape[2];
  if (depth <= 64) return LaunchDepth<T, 64>(op, fewer_tokens, run);
  if (depth <= 128) return LaunchDepth<T, 128>(op, fewer_tokens, run);
  LaunchDepth<T, kHalfTileDepth>(op, fewer_tokens, run);
}

}  // namespace

void LaunchHalfTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  if (op.q.dtype == DType::kF16) return LaunchTyped<__half>(op, fewer_tokens, run);
  LaunchTyped<__nv_bfloat16>(op, fewer_tokens, run);
}

}  // namespace zi::cuda
