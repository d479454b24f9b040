// state_scan in chunks, in order: a block has 32 columns of one head's state in registers and goes through a sequence's chunks,
// with the keys and queries of the next one on their way to shared memory.
#include "cuda/overlap.h"
#include "cuda/scan_chunks.h"

namespace zi::cuda {
namespace chunks {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kColumns = 32, kColumnGroups = kColumns / 8;

/// A matrix of 32 columns in two parts.
template <int kRows>
struct Parts {
  Multiplied parts[2][kRows * kColumns];

  /// Puts two neighbours of a row: columns 2t and 2t + 1 of group n.
  __device__ void Put(int row, int n, int t, float a, float b) {
    uint32_t upper, lower;
    Split(a, b, upper, lower);
    const int at = Swizzled(row, n, kColumnGroups) + 2 * t;
    *reinterpret_cast<uint32_t*>(&parts[0][at]) = upper;
    *reinterpret_cast<uint32_t*>(&parts[1][at]) = lower;
  }
  /// Rows 16k … 16k + 15, columns 16n … 16n + 15.
  __device__ void Get(int part, int k, int n, uint32_t (&to)[4]) const {
    const int lane = threadIdx.x % 32;
    LoadTransposed(to, &parts[part][Swizzled(k * 16 + lane / 8 % 2 * 8 + lane % 8, n * 2 + lane / 16, kColumnGroups)]);
  }
};

template <int kDepth, int kParts>
struct Shared {
  static constexpr int kRows = kTokens * kDepth;
  Multiplied keys[2][kParts][kRows], queries[kParts][kRows];
  Parts<kDepth> state;
  Parts<kTokens> errors, deltas, writes;  // of V, δ, and δ as it is added to the state
};

/// Brings a chunk's rows to shared memory: by copies that are waited for, or through registers where they become two parts.
template <int kDepth, int kParts>
__device__ void BringRows(const uint8_t* data, DType dtype, int64_t start, int64_t token_stride, int depth, int count,
                          Multiplied (*to)[kTokens * kDepth]) {
  constexpr int kGroups = kDepth / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < kTokens * kGroups; i += kThreads) {
    const int row = i / kGroups, group = i % kGroups, at = Swizzled(row, group, kGroups);
    const bool inside = row < count && group * 8 < depth;
    const int64_t from = start + (inside ? row * token_stride + group * 8 : 0);
    if constexpr (kParts == 1) {
      CopyGroup(&to[0][at], reinterpret_cast<const Multiplied*>(data) + from, inside);
    } else {
      float values[8] = {};
      if (inside) GetEightAs(data, dtype, from, values);
      PutParts(values, &to[0][at], &to[1][at]);
    }
  }
}

__device__ float2 GetPair(const uint8_t* data, DType dtype, int64_t i) {
  if (dtype == DType::kF32) return *reinterpret_cast<const float2*>(reinterpret_cast<const float*>(data) + i);
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(reinterpret_cast<const uint16_t*>(data) + i);
  if (dtype == DType::kBF16) return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  return __half22float2(reinterpret_cast<const __half2&>(bits));
}
__device__ void PutPair(uint8_t* data, DType dtype, int64_t i, float a, float b) {
  if (dtype == DType::kF32) {
    *reinterpret_cast<float2*>(reinterpret_cast<float*>(data) + i) = make_float2(a, b);
  } else {
    *reinterpret_cast<uint32_t*>(reinterpret_cast<uint16_t*>(data) + i) =
        dtype == DType::kBF16 ? Pair(Narrow<__nv_bfloat16>(a), Narrow<__nv_bfloat16>(b)) : Pair(Narrow<__half>(a), Narrow<__half>(b));
  }
}

/// sums of 16 columns += the tiles of a row of a lower matrix · rows of `right`.
__device__ void MultiplyLower(const uint4 (&tiles)[kTiles][2], int tile, const Parts<kTokens>& right, int n,
                              float (&sums)[2][4]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j > tile) break;
    const uint32_t upper[4] = {tiles[j][0].x, tiles[j][0].y, tiles[j][0].z, tiles[j][0].w};
    const uint32_t lower[4] = {tiles[j][1].x, tiles[j][1].y, tiles[j][1].z, tiles[j][1].w};
    uint32_t b[4];
    right.Get(0, j, n, b);
    Multiply(sums[0], upper, b[0], b[1]);
    Multiply(sums[1], upper, b[2], b[3]);
    Multiply(sums[0], lower, b[0], b[1]);
    Multiply(sums[1], lower, b[2], b[3]);
    right.Get(1, j, n, b);
    Multiply(sums[0], upper, b[0], b[1]);
    Multiply(sums[1], upper, b[2], b[3]);
  }
}
__device__ void GetTiles(const Fragments& from, int tile, uint4 (&to)[kTiles][2]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j > tile) break;
#pragma unroll
    for (int p = 0; p < 2; ++p) to[j][p] = from.parts[LowerTile(tile, j)][p][threadIdx.x % 32];
  }
}

template <int kDepth, int kParts>
__global__ void __launch_bounds__(kThreads, kDepth * kParts <= 128 ? 2 : 1) Follow(const ChunkArguments chunk) {
  Begin();
  extern __shared__ __align__(128) uint8_t bytes[];
  auto& shared = *reinterpret_cast<Shared<kDepth, kParts>*>(bytes);
  const ScanArguments& a = chunk.scan;
  const int64_t head = blockIdx.y, heads = gridDim.y, group = head / a.each, first_column = blockIdx.x * kColumns;
  StateRow row;
  if (!a.table.Read(blockIdx.z, row) || !a.Takes(row)) return;
  const int64_t base = chunk.Number(row, blockIdx.z), chunks = (row.tokens + kTokens - 1) / kTokens;
  const int64_t from = max(chunk.first - base, int64_t{0}), to = min(chunk.first + chunk.count - base, chunks);
  if (from >= to) return;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // Neighbouring warps run on different quarters of a multiprocessor: each gets a tile with many products and one with few.
  const int tile = warp < kTiles ? warp : 2 * kTiles - 1 - warp, columns = warp / kTiles;
  constexpr int kStateTiles = kDepth / 16 / kWarps;
  constexpr int kGroups = kDepth / 8;
  const int depth = static_cast<int>(a.depth);
  const float skip = a.skip.data ? a.skip.At(head) : 0.0f;

  float* const stored = a.state + row.slot * a.state_slot + head * a.state_head + first_column;
  float state[kStateTiles][kColumnGroups][4];
  const bool zeros = row.begins && from == 0;
#pragma unroll
  for (int m = 0; m < kStateTiles; ++m) {
#pragma unroll
    for (int i = 0; i < 4 * kColumnGroups; ++i) {
      const int r = (m * kWarps + warp) * 16 + g + i % 4 / 2 * 8, c = i / 4 * 8 + 2 * t + i % 2;
      state[m][i / 4][i % 4] = !zeros && r < depth && first_column + c < a.length ? stored[r * a.state_row + c] : 0.0f;
    }
  }

  const auto tokens_of = [&](int64_t j) { return static_cast<int>(min(static_cast<int64_t>(kTokens), row.tokens - j * kTokens)); };
  const auto bring_keys = [&](int64_t j) {
    const int64_t start = (row.first + j * kTokens) * a.k_token + group * a.k_group;
    BringRows<kDepth, kParts>(a.k, a.k_type, start, a.k_token, depth, tokens_of(j), shared.keys[j % 2]);
    CommitCopies();
  };
  const auto bring_queries = [&](int64_t j) {
    const int64_t start = (row.first + j * kTokens) * a.q_token + group * a.q_group;
    BringRows<kDepth, kParts>(a.q, a.q_type, start, a.q_token, depth, tokens_of(j), shared.queries);
    CommitCopies();
  };
  bring_keys(from);
  bring_queries(from);
  for (int64_t j = from; j < to; ++j) {
    const Chunk& known = chunk.At(base + j, head, heads);
    const int count = tokens_of(j);
    const int64_t token = row.first + j * kTokens + tile * 16 + g;  // and 8 behind it
#pragma unroll
    for (int m = 0; m < kStateTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumnGroups; ++n) {
        const int r = (m * kWarps + warp) * 16 + g;
        shared.state.Put(r, n, t, state[m][n][0], state[m][n][1]);
        shared.state.Put(r + 8, n, t, state[m][n][2], state[m][n][3]);
      }
    }
    uint4 tiles[kTiles][2];
    if (a.delta) GetTiles(known.corrects, tile, tiles);
    float delta[2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = tile * 16 + g + i % 2 * 8, c = columns * 16 + i / 2 * 8 + 2 * t;
      float2 pair = make_float2(0, 0);
      if (r < count && first_column + c < a.length) {
        pair = GetPair(a.v, a.v_type, (token + i % 2 * 8) * a.v_token + head * a.v_head + first_column + c);
      }
      delta[i / 2][i % 2 * 2] = pair.x;
      delta[i / 2][i % 2 * 2 + 1] = pair.y;
    }
    const Scales& scales = known.scales;
    float of_keys[2], of_queries[2], of_writes[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      of_keys[h] = scales.keys[tile * 16 + g + h * 8];
      of_queries[h] = scales.queries[tile * 16 + g + h * 8];
      of_writes[h] = scales.writes[tile * 16 + g + h * 8];
    }
    const float kept = scales.kept;
    float out[2][4];
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i / 4][i % 4] = 0;
    float along[2][4] = {};
    WaitForAllCopiesBut<0>();
    __syncthreads();

    if (kParts == 1 && j + 1 < to) bring_keys(j + 1);
#pragma unroll 4
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t b[2][4];
      shared.state.Get(0, k, columns, b[0]);
      shared.state.Get(1, k, columns, b[1]);
      const int at = Swizzled(tile * 16 + lane % 16, 2 * k + lane / 16, kGroups);
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        uint32_t q[4], key[4];
        LoadMatrices(q, &shared.queries[p][at]);
        if (a.delta) LoadMatrices(key, &shared.keys[j % 2][p][at]);
#pragma unroll
        for (int of_b = 0; of_b < 2 - p; ++of_b) {
          Multiply(out[0], q, b[of_b][0], b[of_b][1]);
          Multiply(out[1], q, b[of_b][2], b[of_b][3]);
          if (!a.delta) continue;
          Multiply(along[0], key, b[of_b][0], b[of_b][1]);
          Multiply(along[1], key, b[of_b][2], b[of_b][3]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i / 4][i % 4] = fmaf(skip, delta[i / 4][i % 4], out[i / 4][i % 4] * of_queries[i % 4 / 2]);
    if (a.delta) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float error[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            error[i] = fmaf(-of_keys[h], along[n][2 * h + i], delta[n][2 * h + i]);
            delta[n][2 * h + i] = 0;
          }
          shared.errors.Put(tile * 16 + g + h * 8, columns * 2 + n, t, error[0], error[1]);
        }
      }
      __syncthreads();
      MultiplyLower(tiles, tile, shared.errors, columns, delta);
    }
    GetTiles(known.reads, tile, tiles);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int r = tile * 16 + g + h * 8;
        shared.deltas.Put(r, columns * 2 + n, t, delta[n][2 * h], delta[n][2 * h + 1]);
        shared.writes.Put(r, columns * 2 + n, t, delta[n][2 * h] * of_writes[h], delta[n][2 * h + 1] * of_writes[h]);
      }
    }
    __syncthreads();
    if (j + 1 < to) {
      if (kParts == 2) bring_keys(j + 1);
      bring_queries(j + 1);
    }
#pragma unroll
    for (int m = 0; m < kStateTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4 * kColumnGroups; ++i) state[m][i / 4][i % 4] *= kept;
    }
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      uint32_t b[2][2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) shared.writes.Get(i / 2, k, i % 2, b[i / 2][i % 2]);
#pragma unroll
      for (int m = 0; m < kStateTiles; ++m) {
        // Rows of a state are columns of the keys.
        const int at = Swizzled(k * 16 + lane / 16 * 8 + lane % 8, (m * kWarps + warp) * 2 + lane / 8 % 2, kGroups);
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          uint32_t key[4];
          LoadTransposed(key, &shared.keys[j % 2][p][at]);
#pragma unroll
          for (int of_b = 0; of_b < 2 - p; ++of_b) {
#pragma unroll
            for (int n = 0; n < kColumnGroups; ++n) {
              Multiply(state[m][n], key, b[of_b][n / 2][n % 2 * 2], b[of_b][n / 2][n % 2 * 2 + 1]);
            }
          }
        }
      }
    }
    MultiplyLower(tiles, tile, shared.deltas, columns, out);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int h = i % 2, n = i / 2, c = columns * 16 + n * 8 + 2 * t;
      if (tile * 16 + g + h * 8 >= count || first_column + c >= a.length) continue;
      PutPair(a.out, a.out_type, (token + h * 8) * a.out_token + head * a.out_head + first_column + c, out[n][2 * h],
              out[n][2 * h + 1]);
    }
  }
#pragma unroll
  for (int m = 0; m < kStateTiles; ++m) {
#pragma unroll
    for (int i = 0; i < 4 * kColumnGroups; ++i) {
      const int r = (m * kWarps + warp) * 16 + g + i % 4 / 2 * 8, c = i / 4 * 8 + 2 * t + i % 2;
      if (r < depth && first_column + c < a.length) stored[r * a.state_row + c] = state[m][i / 4][i % 4];
    }
  }
}

template <int kDepth, int kParts>
void LaunchFollow(const ChunkArguments& a, Run& run) {
  constexpr size_t kShared = sizeof(Shared<kDepth, kParts>);
  const dim3 grid(Blocks(a.scan.length, kColumns), static_cast<unsigned>(a.heads), static_cast<unsigned>(a.sequences));
  Check(cudaFuncSetAttribute(Follow<kDepth, kParts>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kShared)),
        "cudaFuncSetAttribute");
  OverlappedWith(kShared, Follow<kDepth, kParts>, grid, kThreads, run, a);
}

/// The largest a block of this operation asks for: not all GPUs have it.
size_t SharedBytes(const ScanArguments& a, bool halves) {
  if (!halves) return sizeof(Shared<128, 2>);
  return a.depth > 128 ? sizeof(Shared<256, 1>) : sizeof(Shared<128, 1>);
}

}  // namespace
}  // namespace chunks

bool LaunchChunks(const ScanArguments& scan, const ScanWay& way, const ScanShape& shape, Run& run) {
  using namespace chunks;
  if (SharedBytes(scan, way.halves) > static_cast<size_t>(run.shared_memory().of_block)) return false;
  const size_t size = static_cast<size_t>(way.each * shape.heads * way.chunk_bytes);
  ChunkArguments a{scan,           run.scratch().At(ScratchUse::kPartials, size),
                   0,              way.each,
                   shape.heads,    shape.heads / scan.each,
                   shape.sequences,
                   static_cast<size_t>(way.chunk_bytes)};
  for (; a.first < way.numbers; a.first += way.each) {
    LaunchPrepare(a, way.halves, run);
    if (!way.halves) {
      LaunchFollow<128, 2>(a, run);
    } else if (scan.depth > 128) {
      LaunchFollow<256, 1>(a, run);
    } else {
      LaunchFollow<128, 1>(a, run);
    }
  }
  return true;
}

}  // namespace zi::cuda
