// state_scan in chunks, what needs no state: a block makes it of one chunk for all heads that share its keys.
#include "cuda/overlap.h"
#include "cuda/scan_chunks.h"

namespace zi::cuda::chunks {
namespace {

constexpr int kThreads = 128;
constexpr int kPair = 2;     // heads at a time, each by half of the threads
constexpr int kStride = 72;  // floats of a row of A: lanes that read fragments of it find all banks
constexpr float kLog2E = 1.44269504f;

struct Shared {
  float keys[kTokens], queries[kTokens];  // what their rows are multiplied by
  float2 sums[kPair][kTokens];            // of log₂ γ, as a float and what it left
  float weights[kPair][kTokens];          // β, or steps
  double carried[kPair];
};

/// Rows of a chunk into shared memory, and their sums of squares.
__device__ void LoadRows(const uint8_t* data, DType dtype, int64_t token_stride, int depth, int count, int groups,
                         int parts, __nv_bfloat16* to, float* squares) {
  const int lane = threadIdx.x % 16;
#pragma unroll 2
  for (int row = threadIdx.x / 16; row < kTokens; row += kThreads / 16) {
    float sum = 0;
    for (int group = lane; group < groups; group += 16) {
      float values[8] = {};
      if (row < count && group * 8 < depth) GetEightAs(data, dtype, row * token_stride + group * 8, values);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(values[i], values[i], sum);
      const int at = Swizzled(row, group, groups);
      PutParts(values, to + at, parts == 2 ? to + kTokens * groups * 8 + at : nullptr);
    }
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0) squares[row] = sum;
  }
}

/// products[j] of a tile of rows of `left` with tiles of rows 0 … `tile` of `right`.
__device__ void MultiplyRows(const __nv_bfloat16* left, const __nv_bfloat16* right, int tile, int groups, int parts,
                             float (&products)[kTiles][2][4]) {
  const int lane = threadIdx.x % 32, part = kTokens * groups * 8;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 8; ++i) products[j][i / 4][i % 4] = 0;
  }
  for (int k = 0; k < groups / 2; ++k) {
    uint32_t a[2][4];
    const int at = Swizzled(tile * 16 + lane % 16, 2 * k + lane / 16, groups);
    LoadMatrices(a[0], left + at);
    if (parts == 2) LoadMatrices(a[1], left + part + at);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j > tile) break;
      uint32_t b[4];
      const int from = Swizzled(j * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2, groups);
      LoadMatrices(b, right + from);
      Multiply(products[j][0], a[0], b[0], b[1]);
      Multiply(products[j][1], a[0], b[2], b[3]);
      if (parts == 1) continue;
      // The lower parts of both leave nothing that counts.
      Multiply(products[j][0], a[1], b[0], b[1]);
      Multiply(products[j][1], a[1], b[2], b[3]);
      LoadMatrices(b, right + part + from);
      Multiply(products[j][0], a[0], b[0], b[1]);
      Multiply(products[j][1], a[0], b[2], b[3]);
    }
  }
}

/// Sums of log₂ γ over a chunk, its weights and scales, for one head by 64 threads. All threads of the block come here.
__device__ void SumSteps(const ChunkArguments& chunk, const StateRow& row, int64_t first, int count, int64_t head,
                         bool valid, Shared& shared, Chunk* to) {
  const ScanArguments& a = chunk.scan;
  const int pair = threadIdx.x / kTokens, t = threadIdx.x % kTokens;
  double sum = 0;
  float weight = 0;
  if (valid && t < count) {
    const HeadNumbers numbers(a, head);
    const int64_t group = head / a.each, within = head % a.each, token = first + t;
    const float size = StepOf(a, numbers, GetAs(a.step, a.step_type, token * a.step_token + group * a.step_group + within));
    const float log = -expf(numbers.decay) * size * kLog2E;
    // What it leaves of a state is nothing anyway, and differences of sums stay numbers.
    sum = log < -200.0f ? -200.0 : static_cast<double>(log);
    weight = a.delta ? Sigmoid(GetAs(a.beta, a.beta_type, token * a.beta_token + group * a.beta_group + within)) : size;
  }
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double before = __shfl_up_sync(0xffffffffu, sum, offset);
    if (static_cast<int>(threadIdx.x % 32) >= offset) sum += before;
  }
  if (t == 31) shared.carried[pair] = sum;
  __syncthreads();
  if (t >= 32) sum += shared.carried[pair];
  const float upper = static_cast<float>(sum);
  shared.sums[pair][t] = make_float2(upper, static_cast<float>(sum - upper));
  shared.weights[pair][t] = weight;
  __syncthreads();
  if (!valid) return;
  const float2 last = shared.sums[pair][kTokens - 1];
  const float left = Exp2(upper);
  const float until = Exp2((last.x - upper) + (last.y - shared.sums[pair][t].y));
  to->scales.keys[t] = left * shared.keys[t];
  to->scales.queries[t] = left * shared.queries[t];
  to->scales.writes[t] = until * shared.keys[t] * (a.delta ? 1.0f : weight);
  if (t == kTokens - 1) to->scales.kept = left;
}

__device__ float Decay(const Shared& shared, int pair, int row, int column) {
  const float2 of_row = shared.sums[pair][row], of_column = shared.sums[pair][column];
  return Exp2((of_row.x - of_column.x) + (of_row.y - of_column.y));
}

__device__ void PutFragment(Fragments& to, int tile, const float (&values)[2][4]) {
  uint32_t upper[4], lower[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) Split(values[i / 2][i % 2 * 2], values[i / 2][i % 2 * 2 + 1], upper[i], lower[i]);
  const int lane = threadIdx.x % 32;
  to.parts[tile][0][lane] = make_uint4(upper[0], upper[1], upper[2], upper[3]);
  to.parts[tile][1][lane] = make_uint4(lower[0], lower[1], lower[2], lower[3]);
}

/// A becomes T, by a thread per column. All threads of the block come here.
__device__ void Solve(float (*a)[kStride], int column, float weight) {
  constexpr int kHalf = kTokens / 2;
  // What lies above the blocks on the diagonal is nobody's: there a thread has what its second block must equal.
  const int own = column % kHalf;
  float x[kHalf];
  for (int block = column / kHalf;; ++block) {
    const float(*rows)[kStride] = a + block * kHalf;
    const bool given = block > column / kHalf;
#pragma unroll
    for (int t = 0; t < kHalf; ++t) {
      float sums[4] = {given ? a[t][kHalf + own] : t == own ? 1.0f : 0.0f};
#pragma unroll
      for (int s = 0; s < t; s += 4) {
        const float4 factors = *reinterpret_cast<const float4*>(&rows[t][block * kHalf + s]);
        sums[0] = fmaf(-factors.x, x[s], sums[0]);
        if (s + 1 < t) sums[1] = fmaf(-factors.y, x[s + 1], sums[1]);
        if (s + 2 < t) sums[2] = fmaf(-factors.z, x[s + 2], sums[2]);
        if (s + 3 < t) sums[3] = fmaf(-factors.w, x[s + 3], sums[3]);
      }
      x[t] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    if (block == 1) break;
#pragma unroll 2
    for (int t = 0; t < kHalf; ++t) {
      float sums[4] = {};
#pragma unroll
      for (int s = 0; s < kHalf; s += 4) {
        const float4 factors = *reinterpret_cast<const float4*>(&a[kHalf + t][s]);
        sums[0] = fmaf(-factors.x, x[s], sums[0]);
        sums[1] = fmaf(-factors.y, x[s + 1], sums[1]);
        sums[2] = fmaf(-factors.z, x[s + 2], sums[2]);
        sums[3] = fmaf(-factors.w, x[s + 3], sums[3]);
      }
      a[t][kHalf + own] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    __syncwarp();  // no lane reads the first block any more
#pragma unroll
    for (int t = 0; t < kHalf; ++t) a[t][column] = x[t] * weight;
  }
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kHalf; ++t) a[kHalf + t][column] = x[t] * weight;
}

__global__ void __launch_bounds__(kThreads) Prepare(const ChunkArguments chunk, int parts) {
  Begin();
  extern __shared__ __align__(128) uint8_t bytes[];
  __shared__ Shared shared;
  const ScanArguments& a = chunk.scan;
  const int64_t number = chunk.first + blockIdx.x, group = blockIdx.y, heads = gridDim.y * a.each;
  // The last sequence whose chunks begin at this number or before it.
  int s = -1;
  for (int high = a.table.count; high - s > 1;) {
    const int middle = (s + high) / 2;
    (a.table.sequences[middle * a.table.sequence_stride] / kTokens + middle <= number ? s : high) = middle;
  }
  StateRow row;
  if (s < 0 || !a.table.Read(s, row) || !a.Takes(row)) return;
  const int64_t before = (number - chunk.Number(row, s)) * kTokens;
  if (before >= row.tokens) return;
  const int64_t first = row.first + before;
  const int count = static_cast<int>(min(static_cast<int64_t>(kTokens), row.tokens - before));

  const int depth = static_cast<int>(a.depth), groups = (depth + 63) / 64 * 8, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  auto* const keys = reinterpret_cast<__nv_bfloat16*>(bytes);
  auto* const queries = keys + parts * kTokens * groups * 8;
  const auto size = [](DType dtype) { return dtype == DType::kF32 ? 4 : 2; };
  LoadRows(a.k + (first * a.k_token + group * a.k_group) * size(a.k_type), a.k_type, a.k_token, depth, count, groups, parts,
           keys, shared.keys);
  LoadRows(a.q + (first * a.q_token + group * a.q_group) * size(a.q_type), a.q_type, a.q_token, depth, count, groups, parts,
           queries, shared.queries);
  __syncthreads();
  if (threadIdx.x < kTokens) {
    shared.keys[threadIdx.x] = ScaleOf(a, shared.keys[threadIdx.x], 1.0f);
  } else {
    shared.queries[threadIdx.x - kTokens] = ScaleOf(a, shared.queries[threadIdx.x - kTokens], a.query_scale);
  }
  // A warp has a lower tile of one product and an upper one of the other, so that all have as much to do.
  const int key_tile = kTiles - 1 - warp;
  float of_queries[kTiles][2][4], of_keys[kTiles][2][4];
  MultiplyRows(queries, keys, warp, groups, parts, of_queries);
  if (a.delta) MultiplyRows(keys, keys, key_tile, groups, parts, of_keys);
  __syncthreads();

  auto* const matrices = reinterpret_cast<float(*)[kTokens][kStride]>(bytes);
  const int g = lane / 4, t = lane % 4, half = threadIdx.x / kTokens;
  for (int64_t within = 0; within < a.each; within += kPair) {
    const int64_t head = group * a.each + within;
    const bool valid = within + half < a.each;
    SumSteps(chunk, row, first, count, head + half, valid, shared, &chunk.At(number, head + half, heads));
    const int pairs = static_cast<int>(min(static_cast<int64_t>(kPair), a.each - within));
    for (int p = 0; p < pairs; ++p) {
      Chunk& to = chunk.At(number, head + p, heads);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j > warp) break;
        float values[2][4];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          // Halves of columns come one after the other, in each the rows g and g + 8; a fragment has rows first.
          const int r = warp * 16 + g + i % 4 / 2 * 8, c = j * 16 + i / 4 * 8 + 2 * t + i % 2;
          const float scale = shared.queries[r] * shared.keys[c] * (a.delta ? 1.0f : shared.weights[p][c]);
          values[i / 4][i % 4] = c <= r ? of_queries[j][i / 4][i % 4] * scale * Decay(shared, p, r, c) : 0.0f;
        }
        PutFragment(to.reads, LowerTile(warp, j), values);
      }
      if (!a.delta) continue;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j > key_tile) break;
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
          const int r = key_tile * 16 + g + i % 4 / 2 * 8, c = j * 16 + i / 4 * 8 + 2 * t;
          const float scale = shared.keys[r] * shared.weights[p][r];
          float2 pair;
          pair.x = c < r ? of_keys[j][i / 4][i % 4] * scale * shared.keys[c] * Decay(shared, p, r, c) : 0.0f;
          pair.y = c + 1 < r ? of_keys[j][i / 4][i % 4 + 1] * scale * shared.keys[c + 1] * Decay(shared, p, r, c + 1) : 0.0f;
          *reinterpret_cast<float2*>(&matrices[p][r][c]) = pair;
        }
      }
    }
    __syncthreads();
    if (!a.delta) continue;
    const int column = threadIdx.x % kTokens;
    // Where there is no second head, its half solves what lies there, for no one.
    Solve(matrices[half], column, shared.weights[half][column]);
    __syncthreads();
    for (int i = warp; i < pairs * kLowerTiles; i += kThreads / 32) {
      const int p = i / kLowerTiles, tile = i % kLowerTiles, r = tile < 1 ? 0 : tile < 3 ? 1 : tile < 6 ? 2 : 3;
      const float* from = &matrices[p][r * 16 + g][(tile - LowerTile(r, 0)) * 16 + 2 * t];
      const float2 parts[4] = {*reinterpret_cast<const float2*>(from), *reinterpret_cast<const float2*>(from + 8 * kStride),
                               *reinterpret_cast<const float2*>(from + 8), *reinterpret_cast<const float2*>(from + 8 * kStride + 8)};
      const float values[2][4] = {{parts[0].x, parts[0].y, parts[1].x, parts[1].y}, {parts[2].x, parts[2].y, parts[3].x, parts[3].y}};
      PutFragment(chunk.At(number, head + p, heads).corrects, tile, values);
    }
    __syncthreads();
  }
}

}  // namespace

void LaunchPrepare(const ChunkArguments& a, bool halves, Run& run) {
  const size_t rows = static_cast<size_t>((a.scan.depth + 63) / 64 * 64 * kTokens) * 2 * (halves ? 2 : 4);
  const size_t solved = sizeof(float) * kPair * kTokens * kStride, shared = rows > solved ? rows : solved;
  Check(cudaFuncSetAttribute(Prepare, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  OverlappedWith(shared, Prepare, dim3(static_cast<unsigned>(a.count), static_cast<unsigned>(a.groups)), kThreads, run, a, halves ? 1 : 2);
}

}  // namespace zi::cuda::chunks
