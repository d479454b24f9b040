// attention by rows where heads and cache are of one 16-bit type: a block for the heads of a token that read the same keys, up to eight
// of them, on tensor cores.
//
// Parts of contexts are folded and merged as attention_rows.h says. Keys are the rows of the first product and dimensions of values those
// of the second, so that the columns of both are heads. A product's places stand for dimensions in such an order that each lane reads 16
// bytes of a key or value, straight from the cache. Weights of values are multiplied as two parts of 16 bits, next to exactly.
#include "cuda/attention_groups.h"

#include "cuda/attention_rows.h"
#include "cuda/tensor_cores.h"

namespace zi::cuda {
namespace {

using rows::kChunk;
using rows::kSplit;
using rows::kThreads;
using rows::Reach;
using rows::Task;

/// Heads of a block: the columns of a product.
constexpr int kHeads = 8;
/// Keys that a warp multiplies at once.
constexpr int kTileKeys = 16;

/// Rows of sums in shared memory: apart by so many floats that few banks are met twice.
template <int kDepth>
constexpr int kPitch = kDepth + 2;
/// What is known of a chunk of keys: sums of so many heads, and for each head a maximum and a total.
template <int kDepth>
__host__ __device__ constexpr int ChunkFloats(int heads) {
  return heads * kPitch<kDepth> + 2 * kHeads;
}
constexpr int kChunks = kSplit / kChunk;
/// Behind those of a split the same of all splits before.
constexpr int kPlaces = kChunks + 1;
/// So many fill a multiprocessor, whose registers they share; with fewer blocks more warps of each share its chunks.
constexpr int kWarpsTogether = 12;

/// Columns become rows: a lane has (g, 2t) with (g, 2t+1) of a matrix [8 × 8] and gets (2t, g) with (2t+1, g).
__device__ inline uint32_t Transposed(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

__device__ inline uint32_t WordOf(const uint4& four, int i) { return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w; }

/// What a block works on beside its token.
struct Group {
  int first, count;  // heads
};

/// A warp's part of a chunk of keys, for heads of up to kDepth values.
template <class T, int kDepth>
class Fold {
 public:
  /// Groups of 16 bytes that a lane has of a key, and of a value.
  static constexpr int kKeyGroups = kDepth / 32, kValueGroups = kDepth / 64;

  __device__ Fold(const AttentionArguments& a, const Task& task, const Group& group)
      : a_(a), task_(task), group_(group), g_(threadIdx.x % 32 / 4), t_(threadIdx.x % 4) {
#pragma unroll
    for (int j = 0; j < kKeyGroups; ++j) {
      const int dimension = 32 * j + 8 * t_;
      q_[j] = uint4{};
      if (g_ < group.count && dimension < a.depth) {
        q_[j] = *reinterpret_cast<const uint4*>(a.Query<T>(task.token, group.first + g_) + dimension);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) slopes_[i] = a.slopes && 2 * t_ + i < group.count ? a.slopes[group.first + 2 * t_ + i] : 0.0f;
  }

  /// Folds keys [chunk, chunk + 32) ∩ [begin, end) into the chunk's place.
  __device__ void Chunk(int chunk, float* sums, float* maxima, float* totals) const {
    const int lane = threadIdx.x % 32, mine = chunk + lane;
    int page = 0, offset = 0;
    const bool usable = mine >= task_.begin && mine < task_.end && a_.Place(task_.sequence, mine, page, offset);
    const unsigned valid = __ballot_sync(0xffffffffu, usable);
    if (valid == 0) {
      if (lane < kHeads) maxima[lane] = -INFINITY, totals[lane] = 0;
      return;
    }
    const int64_t key_at = page * a_.key_page + task_.kv_head * a_.key_head + offset * a_.key_token;
    const int64_t value_at = page * a_.value_page + task_.kv_head * a_.value_head + offset * a_.value_token;
    float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {}, weighted[kDepth / 16][4] = {};
    // One after the other: most of what a short context takes is fetching instructions.
#pragma unroll 1
    for (int tile = 0; tile < kChunk / kTileKeys; ++tile) {
      const unsigned seen = valid >> tile * kTileKeys & 0xffffu;
      if (seen == 0) continue;
      uint4 keys[2][kKeyGroups], values[4][kValueGroups];
#pragma unroll
      for (int i = 0; i < 2; ++i) LoadKey(key_at, valid, tile * kTileKeys + g_ + 8 * i, keys[i]);
      LoadValues(value_at, valid, tile, values);
      float scores[4] = {}, most[2] = {-INFINITY, -INFINITY};
      MultiplyKeys(keys, scores);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = g_ + 8 * (i / 2);
        const float score = a_.Score(scores[i], slopes_[i % 2], chunk + tile * kTileKeys + key);
        scores[i] = seen >> key & 1 ? score : -INFINITY;
        most[i % 2] = fmaxf(most[i % 2], scores[i]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int apart = 4; apart < 32; apart *= 2) most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], apart));
        most[i] = fmaxf(most[i], maximum[i]);
        // Zeros stay zeros, and NaN stays.
        const float less = maximum[i] == -INFINITY ? 0.0f : expf(maximum[i] - most[i]);
        maximum[i] = most[i];
        total[i] *= less;
#pragma unroll
        for (int j = 0; j < kDepth / 16; ++j) weighted[j][i] *= less, weighted[j][2 + i] *= less;
      }
      float p[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[i] = scores[i] == -INFINITY ? 0.0f : expf(scores[i] - maximum[i % 2]);
        total[i % 2] += p[i];
      }
      MultiplyValues(values, p, weighted);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int apart = 4; apart < 32; apart *= 2) total[i] += __shfl_xor_sync(0xffffffffu, total[i], apart);
    }
    if (g_ == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) maxima[2 * t_ + i] = maximum[i], totals[2 * t_ + i] = total[i];
    }
#pragma unroll
    for (int head = 0; head < 2; ++head) {
      if (2 * t_ + head >= group_.count) continue;
      float* const to = sums + (2 * t_ + head) * kPitch<kDepth> + 8 * g_;
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i) {
        *reinterpret_cast<float2*>(to + i / 4 * 64 + i % 4 * 2) = {weighted[i][head], weighted[i][2 + head]};
      }
    }
  }

 private:
  __device__ void LoadKey(int64_t key_at, unsigned valid, int key, uint4 (&to)[kKeyGroups]) const {
    const T* const head = reinterpret_cast<const T*>(a_.keys) + __shfl_sync(0xffffffffu, key_at, key);
#pragma unroll
    for (int j = 0; j < kKeyGroups; ++j) {
      const int dimension = 32 * j + 8 * t_;
      to[j] = uint4{};
      if ((valid >> key & 1) && dimension < a_.depth) to[j] = *reinterpret_cast<const uint4*>(head + dimension);
    }
  }
  /// The tile's keys 2t, 2t + 1, 2t + 8 and 2t + 9 are a lane's.
  __device__ void LoadValues(int64_t value_at, unsigned valid, int tile, uint4 (&to)[4][kValueGroups]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = tile * kTileKeys + 2 * t_ + i % 2 + i / 2 * 8;
      const T* const head = reinterpret_cast<const T*>(a_.values) + __shfl_sync(0xffffffffu, value_at, key);
#pragma unroll
      for (int j = 0; j < kValueGroups; ++j) {
        const int dimension = 64 * j + 8 * g_;
        to[i][j] = uint4{};
        if ((valid >> key & 1) && dimension < a_.value_depth) to[i][j] = *reinterpret_cast<const uint4*>(head + dimension);
      }
    }
  }
  __device__ void MultiplyKeys(const uint4 (&keys)[2][kKeyGroups], float (&scores)[4]) const {
#pragma unroll
    for (int j = 0; j < kKeyGroups; ++j) {
      const uint4 &low = keys[0][j], &high = keys[1][j];
      MultiplyAdd<T>(scores, {low.x, high.x, low.y, high.y}, q_[j].x, q_[j].y);
      MultiplyAdd<T>(scores, {low.z, high.z, low.w, high.w}, q_[j].z, q_[j].w);
    }
  }
  __device__ void MultiplyValues(const uint4 (&values)[4][kValueGroups], const float (&p)[4], float (&weighted)[kDepth / 16][4]) const {
    T rounded[4], rest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      rounded[i] = Narrow<T>(p[i]);
      rest[i] = Narrow<T>(p[i] - Widen(rounded[i]));
    }
    uint32_t weights[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      weights[0][i] = Transposed(Pair(rounded[2 * i], rounded[2 * i + 1]));
      weights[1][i] = Transposed(Pair(rest[2 * i], rest[2 * i + 1]));
    }
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i) {
      uint32_t words[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) words[k] = WordOf(values[k][i / 4], i % 4);
      // Two dimensions of two keys in turn: of each dimension its keys.
      const uint32_t dimensions[4] = {__byte_perm(words[0], words[1], 0x5410), __byte_perm(words[0], words[1], 0x7632),
                                      __byte_perm(words[2], words[3], 0x5410), __byte_perm(words[2], words[3], 0x7632)};
#pragma unroll
      for (int part = 0; part < 2; ++part) MultiplyAdd<T>(weighted[i], dimensions, weights[part][0], weights[part][1]);
    }
  }

  const AttentionArguments& a_;
  const Task& task_;
  const Group& group_;
  const int g_, t_;
  uint4 q_[kKeyGroups];
  float slopes_[2];
};

/// A part of one head's softmax, of which a lane has each 32nd dimension: merged as rows::Partial is, to the bit.
template <int kDepth>
struct HeadPart {
  static constexpr int kEach = kDepth / 32;
  float maximum = -INFINITY, total = 0, sums[kEach] = {};

  __device__ void Merge(const HeadPart& other) {
    const float larger = fmaxf(maximum, other.maximum);
    const bool nothing = larger == -INFINITY;
    const float mine = nothing ? 1.0f : expf(maximum - larger), theirs = nothing ? 1.0f : expf(other.maximum - larger);
    maximum = larger;
    total = total * mine + other.total * theirs;
#pragma unroll
    for (int i = 0; i < kEach; ++i) sums[i] = sums[i] * mine + other.sums[i] * theirs;
  }
};

/// A head's places in what is known of a chunk.
template <int kDepth>
struct HeadPlace {
  float *sums, *maximum, *total;
  __device__ HeadPlace(float* chunk, int stored, int head)
      : sums(chunk + head * kPitch<kDepth> + threadIdx.x % 32), maximum(chunk + stored * kPitch<kDepth> + head), total(maximum + kHeads) {}
  __device__ HeadPart<kDepth> Get() const {
    HeadPart<kDepth> part;
    part.maximum = *maximum, part.total = *total;
#pragma unroll
    for (int i = 0; i < HeadPart<kDepth>::kEach; ++i) part.sums[i] = sums[32 * i];
    return part;
  }
  /// By all lanes of the warp that gets it.
  __device__ void Put(const HeadPart<kDepth>& part) const {
    if (threadIdx.x % 32 == 0) *maximum = part.maximum, *total = part.total;
#pragma unroll
    for (int i = 0; i < HeadPart<kDepth>::kEach; ++i) sums[32 * i] = part.sums[i];
    __syncwarp();
  }
};

/// What a split's chunks make of a head, in their order.
template <int kDepth>
__device__ HeadPart<kDepth> MergeChunks(float* shared, int stored, int head) {
  HeadPart<kDepth> part;
#pragma unroll 1
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const HeadPlace<kDepth> place(shared + chunk * ChunkFloats<kDepth>(stored), stored, head);
    if (*place.maximum == -INFINITY && *place.total == 0) continue;
    part.Merge(place.Get());
  }
  return part;
}

template <class T, int kDepth>
__device__ void WriteHead(const AttentionArguments& a, const Task& task, int head, const HeadPart<kDepth>& result) {
  const float inverse = a.Inverse(head, result.maximum, result.total, task.begin < task.end);
#pragma unroll
  for (int i = 0; i < kDepth / 32; ++i) {
    const int d = threadIdx.x % 32 + 32 * i;
    if (d < a.value_depth) a.Out<T>(task.token, head)[d] = Narrow<T>(result.sums[i] * inverse);
  }
}

/// partials as those of rows::AttendRows, by token and head: what MergeSplits takes. However many warps a block has, each takes chunks
/// in turn; `stored` heads have room.
template <class T, int kDepth>
__global__ void __launch_bounds__(kThreads) AttendGroups(const __grid_constant__ AttentionArguments a, const Reach reach, float* partials,
                                                         int stored) {
  extern __shared__ float shared[];
  Begin();
  const int each = a.heads / a.kv_heads, tiles = (each + kHeads - 1) / kHeads, of_token = a.kv_heads * tiles;
  const int row = static_cast<int>(blockIdx.x) / of_token, index = static_cast<int>(blockIdx.x) % of_token;
  Task task;
  task.kv_head = index / tiles;
  const Group group{task.kv_head * each + index % tiles * kHeads, min(kHeads, each - index % tiles * kHeads)};
  if (!rows::FindToken(a, reach, row, task)) return;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, floats = ChunkFloats<kDepth>(stored);
  const Fold<T, kDepth> fold(a, task, group);
  const int first = task.begin / kSplit, last = max(first, (task.end - 1) / kSplit);
  for (int split = partials ? blockIdx.y : first; split <= last; ++split) {
    if (split < first) return;
#pragma unroll 1
    for (int chunk = warp; chunk < kChunks; chunk += warps) {
      float* const sums = shared + chunk * floats;
      float* const maxima = sums + stored * kPitch<kDepth>;
      fold.Chunk(split * kSplit + chunk * kChunk, sums, maxima, maxima + kHeads);
    }
    __syncthreads();
#pragma unroll 1
    for (int head = warp; head < group.count; head += warps) {
      const HeadPart<kDepth> part = MergeChunks<kDepth>(shared, stored, head);
      if (partials) {
        float* const to = partials + ((static_cast<int64_t>(row) * a.heads + group.first + head) * gridDim.y + split) * (2 + a.value_depth);
        if (threadIdx.x % 32 == 0) to[0] = part.maximum, to[1] = part.total;
#pragma unroll
        for (int i = 0; i < kDepth / 32; ++i) {
          const int d = threadIdx.x % 32 + 32 * i;
          if (d < a.value_depth) to[2 + d] = part.sums[i];
        }
        continue;
      }
      const HeadPlace<kDepth> place(shared + kChunks * floats, stored, head);
      HeadPart<kDepth> result;
      if (split > first) result = place.Get();
      result.Merge(part);
      if (split == last) WriteHead<T, kDepth>(a, task, group.first + head, result);
      else place.Put(result);
    }
    if (partials) return;
    __syncthreads();
  }
}

template <class T, int kDepth>
void LaunchDepth(const AttentionArguments& a, const Reach& reach, const AttentionWay& way, Run& run) {
  const int each = a.heads / a.kv_heads, of_token = a.kv_heads * ((each + kHeads - 1) / kHeads);
  const int64_t tokens = way.blocks / a.heads, blocks = tokens * of_token * way.splits;
  const bool parts = way.splits > 1;
  unsigned warps = kChunks;
  while (warps > 2 && blocks * warps > kWarpsTogether * run.multiprocessors()) warps /= 2;
  const int stored = std::min(kHeads, each);
  const size_t shared = static_cast<size_t>(kPlaces * ChunkFloats<kDepth>(stored)) * sizeof(float);
  constexpr int kMostShared = kPlaces * ChunkFloats<kDepth>(kHeads) * static_cast<int>(sizeof(float));
  const auto kernel = AttendGroups<T, kDepth>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared), "cudaFuncSetAttribute");
  float* partials = nullptr;
  if (parts) {
    const size_t size = static_cast<size_t>(way.blocks * way.splits * (2 + a.value_depth)) * sizeof(float);
    partials = reinterpret_cast<float*>(run.scratch().At(ScratchUse::kPartials, size));
  }
  const dim3 grid(Blocks(tokens * of_token, 1), static_cast<unsigned>(way.splits));
  OverlappedWith(shared, kernel, grid, warps * 32, run, a, reach, partials, stored);
  if (!parts) return;
  Overlapped(rows::MergeSplits<rows::OneType<T>, rows::kUsualDepth>, Blocks(way.blocks, 1), kThreads, run, a, reach, partials,
             static_cast<int>(way.splits));
}

template <class T>
void LaunchTyped(const AttentionOp& op, const AttentionWay& way, Run& run) {
  const AttentionArguments a(op, run.fault());
  const Reach reach{static_cast<int>(way.most_tokens), way.by_sequence, true};
  const int64_t depth = WiderHead(op);
  if (depth <= 64) return LaunchDepth<T, 64>(a, reach, way, run);
  if (depth <= 128) return LaunchDepth<T, 128>(a, reach, way, run);
  LaunchDepth<T, 256>(a, reach, way, run);
}

}  // namespace

bool LaunchAttentionGroups(const AttentionOp& op, const AttentionWay& way, Run& run) {
  if (!IsHalf(op.q.dtype) || op.keys.dtype != op.q.dtype || WiderHead(op) > rows::kUsualDepth) return false;
  if (op.q.shape[2] % 8 != 0 || op.out.shape[2] % 8 != 0 || op.q.shape[1] % op.keys.shape[1] != 0) return false;
  if (!RowsAligned(op.q, 16) || !RowsAligned(op.keys, 16) || !RowsAligned(op.values, 16)) return false;
  op.q.dtype == DType::kF16 ? LaunchTyped<__half>(op, way, run) : LaunchTyped<__nv_bfloat16>(op, way, run);
  return true;
}

}  // namespace zi::cuda
