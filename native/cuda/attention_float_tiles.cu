// attention of sequences with many new tokens in f32: 64 query rows of one head per block, products on tensor cores (TF32),
// online softmax over blocks of keys that begin at multiples of kKeys, so that a row does not depend on its neighbours.
#include "cuda/run.h"
#include "cuda/stored_cache.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 64;  // 16 per warp
constexpr int kKeys = 32;
/// Rows of shared memory are this much longer, so that the reads of a warp fall into 32 different banks.
constexpr int kPad = 4;

/// Ten bits of mantissa, the range of a float.
__device__ uint32_t ToTf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

/// c[16 × 8] += a[16 × 8] · b[8 × 8]. With g = lane / 4 and t = lane % 4 a lane holds
/// a: (g, t), (g+8, t), (g, t+4), (g+8, t+4); b: (t, g), (t+4, g); c: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
__device__ void MultiplyAdd(float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int kDepth>
struct Shared {
  uint32_t keys[kKeys][kDepth + kPad], values[kKeys][kDepth + kPad];
  int first[kQueries], last[kQueries];  // keys that each row sees; last < first when none
};

/// A key and its value of a cache of f32.
struct FloatRow {
  const float *key, *value;
  __device__ FloatRow(const AttentionArguments& a, int page, int kv_head, int offset)
      : key(a.Key<float>(page, kv_head, offset)), value(a.Value<float>(page, kv_head, offset)) {}
  __device__ float Key(const AttentionArguments&, int d) const { return key[d]; }
  __device__ float Value(const AttentionArguments&, int d) const { return value[d]; }
};

/// The same in a cache of codes or of 16 bits.
struct StoredRow {
  int page, kv_head, offset;
  __device__ StoredRow(const StoredArguments&, int page, int kv_head, int offset)
      : page(page), kv_head(kv_head), offset(offset) {}
  __device__ float Key(const StoredArguments& a, int d) const { return a.KeyValue(page, kv_head, offset, d); }
  __device__ float Value(const StoredArguments& a, int d) const { return a.ValueValue(page, kv_head, offset, d); }
};

/// Keys outside [begin, end) are zeros: nobody's maximum, and 0 · 0 where nobody sees them.
template <class Row, int kDepth, class Arguments>
__device__ void LoadKeys(const Arguments& a, const AttentionArguments::Sequence& sequence, int kv_head, int block,
                         int begin, int end, Shared<kDepth>& shared) {
  const int lane = threadIdx.x % 32;
  for (int j = threadIdx.x / 32; j < kKeys; j += kThreads / 32) {
    const int position = block + j;
    int page = 0, offset = 0;
    const bool inside = position >= begin && position < end && a.Place(sequence, position, page, offset);
    const Row row(a, page, kv_head, offset);
#pragma unroll
    for (int d = lane; d < kDepth; d += 32) {
      shared.keys[j][d] = inside && d < a.depth ? ToTf32(row.Key(a, d)) : 0;
      shared.values[j][d] = inside && d < a.value_depth ? ToTf32(row.Value(a, d)) : 0;
    }
  }
}

/// A warp's 16 rows; each lane has parts of rows g and g + 8.
template <int kDepth>
struct WarpRows {
  uint32_t q[kDepth / 8][4];
  float sums[kDepth / 8][4];
  float maximum[2], total[2];

  __device__ void LoadQueries(const AttentionArguments& a, int head, int first_token, int tokens) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row = threadIdx.x / 32 * 16 + g;
#pragma unroll
    for (int k = 0; k < kDepth / 8; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + i % 2 * 8, d = k * 8 + t + i / 2 * 4;
        const bool valid = r < tokens && d < a.depth;
        q[k][i] = valid ? ToTf32(a.Query<float>(first_token + r, head)[d]) : 0;
        sums[k][i] = 0;
      }
    }
    maximum[0] = maximum[1] = -INFINITY;
    total[0] = total[1] = 0;
  }

  __device__ void FoldBlock(const AttentionArguments& a, float slope, int block, const Shared<kDepth>& shared) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row = threadIdx.x / 32 * 16 + g;
    float scores[kKeys / 8][4];
    float largest[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      for (int i = 0; i < 4; ++i) scores[n][i] = 0;
#pragma unroll
      for (int k = 0; k < kDepth / 8; ++k) {
        const uint32_t* key = &shared.keys[n * 8 + g][k * 8 + t];
        MultiplyAdd(scores[n], q[k], key[0], key[4]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = block + n * 8 + 2 * t + i % 2, r = row + i / 2 * 8;
        const bool seen = key >= shared.first[r] && key <= shared.last[r];
        scores[n][i] = seen ? a.Score(scores[n][i], slope, key) : -INFINITY;
        largest[i / 2] = fmaxf(largest[i / 2], scores[n][i]);
      }
    }
    float rescale[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 1));
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 2));
      rescale[h] = maximum[h] == largest[h] ? 1.0f : expf(maximum[h] - largest[h]);
      maximum[h] = largest[h];
      total[h] *= rescale[h];
    }
#pragma unroll
    for (int d = 0; d < kDepth / 8; ++d) {
      for (int i = 0; i < 4; ++i) sums[d][i] *= rescale[i / 2];
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      uint32_t p[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float value = scores[n][i] == -INFINITY ? 0.0f : expf(scores[n][i] - maximum[i / 2]);
        total[i / 2] += value;
        // The sum over keys may take them in any order: the first factor's column t stands for key 2t, t + 4 for
        // 2t + 1, which is how the scores lie already.
        p[i % 2 * 2 + i / 2] = ToTf32(value);
      }
#pragma unroll
      for (int d = 0; d < kDepth / 8; ++d) {
        MultiplyAdd(sums[d], p, shared.values[n * 8 + 2 * t][d * 8 + g], shared.values[n * 8 + 2 * t + 1][d * 8 + g]);
      }
    }
  }

  __device__ void WriteOut(const AttentionArguments& a, int head, int first_token, int tokens,
                           const Shared<kDepth>& shared) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row = threadIdx.x / 32 * 16 + g;
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
      inverse[h] = a.Inverse(head, maximum[h], total[h], shared.first[row + 8 * h] <= shared.last[row + 8 * h]);
    }
#pragma unroll
    for (int k = 0; k < kDepth / 8; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + i / 2 * 8, d = k * 8 + 2 * t + i % 2;
        if (r < tokens && d < a.value_depth) {
          a.Out<float>(first_token + r, head)[d] = sums[k][i] * inverse[i / 2];
        }
      }
    }
  }
};

/// Tile i of sequence s is block ⌊first / 64⌋ + s + i: different for all, and known without adding up.
template <class Row, int kDepth, class Arguments>
__global__ void __launch_bounds__(kThreads) AttendTiles(const Arguments a, int fewer_tokens) {
  __shared__ Shared<kDepth> shared;
  const auto first_block = [&](int s) { return a.sequences[s * a.sequences_stride] / kQueries + s; };
  const int s = a.LastSequence(blockIdx.x, first_block);
  AttentionArguments::Sequence sequence;
  if (s < 0 || !a.ReadSequence(s, sequence) || sequence.tokens <= fewer_tokens) return;
  const int tile = (blockIdx.x - first_block(s)) * kQueries;
  if (tile >= sequence.tokens) return;
  const int first_token = sequence.first + tile, tokens = min(kQueries, sequence.tokens - tile);
  const int head = blockIdx.y, kv_head = static_cast<int>(static_cast<int64_t>(head) * a.kv_heads / a.heads);
  if (threadIdx.x < kQueries) {
    const bool valid = threadIdx.x < tokens;
    const int position = valid ? a.positions[first_token + threadIdx.x] : 0;
    shared.first[threadIdx.x] = valid ? a.FirstKey(position) : 0;
    shared.last[threadIdx.x] = valid ? a.LastKey(sequence, position) : -1;
  }
  __syncthreads();
  int begin = sequence.context, end = 0;
  for (int r = 0; r < tokens; ++r) {
    begin = min(begin, shared.first[r]);
    end = max(end, shared.last[r] + 1);
  }
  WarpRows<kDepth> rows;
  rows.LoadQueries(a, head, first_token, tokens);
  const float slope = a.slopes ? a.slopes[head] : 0.0f;
  for (int block = begin / kKeys * kKeys; block < end; block += kKeys) {
    __syncthreads();
    LoadKeys<Row>(a, sequence, kv_head, block, begin, end, shared);
    __syncthreads();
    rows.FoldBlock(a, slope, block, shared);
  }
  rows.WriteOut(a, head, first_token, tokens, shared);
}

template <class Row, class Arguments>
void LaunchTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  const Arguments a(op, run.fault());
  const dim3 grid(static_cast<unsigned>(a.tokens / kQueries + a.sequence_count), static_cast<unsigned>(a.heads));
  const int fewer = static_cast<int>(fewer_tokens);
  if (WiderHead(op) <= 64) {
    AttendTiles<Row, 64><<<grid, kThreads, 0, run.stream()>>>(a, fewer);
  } else {
    AttendTiles<Row, kFloatTileDepth><<<grid, kThreads, 0, run.stream()>>>(a, fewer);
  }
}

}  // namespace

void LaunchFloatTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  if (op.keys.dtype == DType::kF32) return LaunchTiles<FloatRow, AttentionArguments>(op, fewer_tokens, run);
  LaunchTiles<StoredRow, StoredArguments>(op, fewer_tokens, run);
}

}  // namespace zi::cuda
