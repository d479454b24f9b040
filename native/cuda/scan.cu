// state_scan: a block has 32 columns of one head's state in registers and goes through a sequence token by token, with the tokens
// ahead on their way to shared memory. So a result depends neither on where a prompt is cut nor on what else is in a batch.
//
// Four lanes share a column, each with a quarter of its rows. The state after a token is γ·S + k·δᵀ, so both products that a token
// asks for are taken of the state before it, and the output is γ·(Sᵀq) + (k·q)·δ: one wait for other lanes per token.
#include "cuda/overlap.h"
#include "cuda/scan.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kLanes = 4;                 // that share a column
constexpr int kWarpColumns = 32 / kLanes;
constexpr int kColumns = kWarps * kWarpColumns;
constexpr int kMostRows = 64;             // of a lane

__device__ uint32_t BitsAt(const uint8_t* data, DType dtype, int64_t i) {
  if (dtype == DType::kF32) return reinterpret_cast<const uint32_t*>(data)[i];
  return reinterpret_cast<const uint16_t*>(data)[i];
}
__device__ float FromBits(DType dtype, uint32_t bits) {
  if (dtype == DType::kF32) return __uint_as_float(bits);
  if (dtype == DType::kBF16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
}
template <int kRows>
struct Tile {
  static constexpr int kDepth = kLanes * kRows;
  static constexpr int kTokens = kRows > 32 ? 8 : 16;
  float k[kTokens][kDepth], q[kTokens][kDepth];
  float v[kTokens][kColumns];
  TokenNumbers numbers[kTokens];
};

/// A warp's tokens of a tile on their way: as they lie, so that nothing waits for them before they are stored.
template <int kRows>
struct Ahead {
  static constexpr int kTokens = Tile<kRows>::kTokens, kOwn = kTokens / kWarps, kEach = Tile<kRows>::kDepth / 32;
  uint32_t k[kOwn][kEach], q[kOwn][kEach], v[kOwn];
  uint32_t step[kOwn], beta[kOwn];

  /// Tokens [first, end) of a sequence; zeros for those beyond.
  __device__ void Load(const ScanArguments& a, int64_t head, int64_t first_column, int64_t first, int64_t end) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t group = head / a.each, within = head % a.each, column = first_column + lane;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t token = first + j * kWarps + warp;
      const bool valid = token < end;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int64_t row = lane + 32 * i;
        const bool inside = valid && row < a.depth;
        k[j][i] = inside ? BitsAt(a.k, a.k_type, token * a.k_token + group * a.k_group + row) : 0;
        q[j][i] = inside ? BitsAt(a.q, a.q_type, token * a.q_token + group * a.q_group + row) : 0;
      }
      v[j] = valid && column < a.length ? BitsAt(a.v, a.v_type, token * a.v_token + head * a.v_head + column) : 0;
      step[j] = valid ? BitsAt(a.step, a.step_type, token * a.step_token + group * a.step_group + within) : 0;
      beta[j] = valid && a.delta ? BitsAt(a.beta, a.beta_type, token * a.beta_token + group * a.beta_group + within) : 0;
    }
  }

  __device__ void Store(const ScanArguments& a, const HeadNumbers& head, Tile<kRows>& tile) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int token = j * kWarps + warp;
      float of_k[kEach], of_q[kEach], squares_k = 0, squares_q = 0, product = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        of_k[i] = FromBits(a.k_type, k[j][i]);
        of_q[i] = FromBits(a.q_type, q[j][i]);
        squares_k = fmaf(of_k[i], of_k[i], squares_k);
        squares_q = fmaf(of_q[i], of_q[i], squares_q);
        product = fmaf(of_k[i], of_q[i], product);
      }
      const float scale_k = ScaleOf(a, WarpSum(squares_k), 1.0f), scale_q = ScaleOf(a, WarpSum(squares_q), a.query_scale);
      product = WarpSum(product) * (scale_k * scale_q);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        tile.k[token][lane + 32 * i] = of_k[i] * scale_k;
        tile.q[token][lane + 32 * i] = of_q[i] * scale_q;
      }
      tile.v[token][lane] = FromBits(a.v_type, v[j]);
      if (lane == 0) {
        tile.numbers[token] = NumbersOf(a, head, FromBits(a.step_type, step[j]), FromBits(a.beta_type, beta[j]), product);
      }
    }
  }
};

/// A lane's part of a column of the state: rows 16·u + 4·(its place) + i.
template <int kRows>
struct Column {
  float state[kRows];

  static __device__ int Row(int place, int r) { return r / 4 * (4 * kLanes) + place * 4 + r % 4; }

  /// The column's result for a token.
  template <bool kDelta>
  __device__ float Step(const Tile<kRows>& tile, int token, int place, float value, float skip) {
    float4 k[kRows / 4];
    float along_k[4] = {}, along_q[4] = {};
#pragma unroll
    for (int u = 0; u < kRows / 4; ++u) {
      k[u] = *reinterpret_cast<const float4*>(&tile.k[token][u * 4 * kLanes + place * 4]);
      const float4 q = *reinterpret_cast<const float4*>(&tile.q[token][u * 4 * kLanes + place * 4]);
      const float* s = state + 4 * u;
      if constexpr (kDelta) {
        along_k[0] = fmaf(k[u].x, s[0], along_k[0]);
        along_k[1] = fmaf(k[u].y, s[1], along_k[1]);
        along_k[2] = fmaf(k[u].z, s[2], along_k[2]);
        along_k[3] = fmaf(k[u].w, s[3], along_k[3]);
      }
      along_q[0] = fmaf(q.x, s[0], along_q[0]);
      along_q[1] = fmaf(q.y, s[1], along_q[1]);
      along_q[2] = fmaf(q.z, s[2], along_q[2]);
      along_q[3] = fmaf(q.w, s[3], along_q[3]);
    }
    const TokenNumbers numbers = tile.numbers[token];
    const float of_q = OverLanes((along_q[0] + along_q[1]) + (along_q[2] + along_q[3]));
    float delta = value;
    if constexpr (kDelta) {
      delta = fmaf(-numbers.kept, OverLanes((along_k[0] + along_k[1]) + (along_k[2] + along_k[3])), value);
    }
    delta *= numbers.weight;
#pragma unroll
    for (int u = 0; u < kRows / 4; ++u) {
      float* s = state + 4 * u;
      s[0] = fmaf(k[u].x, delta, numbers.kept * s[0]);
      s[1] = fmaf(k[u].y, delta, numbers.kept * s[1]);
      s[2] = fmaf(k[u].z, delta, numbers.kept * s[2]);
      s[3] = fmaf(k[u].w, delta, numbers.kept * s[3]);
    }
    return fmaf(skip, value, fmaf(numbers.product, delta, numbers.kept * of_q));
  }

  static __device__ float OverLanes(float part) {
#pragma unroll
    for (int offset = kWarpColumns; offset < 32; offset *= 2) part += __shfl_xor_sync(0xffffffffu, part, offset);
    return part;
  }
};

template <int kRows, bool kDelta>
__global__ void __launch_bounds__(kThreads) Scan(const ScanArguments a) {
  Begin();
  __shared__ __align__(16) Tile<kRows> tiles[2];
  StateRow row;
  const int64_t head = blockIdx.y, first_column = static_cast<int64_t>(blockIdx.x) * kColumns;
  if (!a.table.Read(blockIdx.z, row) || !a.Takes(row)) return;
  const int lane = threadIdx.x % 32, place = lane / kWarpColumns;
  const int own = threadIdx.x / 32 * kWarpColumns + lane % kWarpColumns;  // column of the block
  const int64_t column = first_column + own;
  const bool inside = column < a.length;
  float* stored = a.state + row.slot * a.state_slot + head * a.state_head + column;
  const HeadNumbers numbers(a, head);
  Column<kRows> part;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int at = Column<kRows>::Row(place, r);
    part.state[r] = !row.begins && inside && at < a.depth ? stored[at * a.state_row] : 0.0f;
  }
  constexpr int kTokens = Tile<kRows>::kTokens;
  const int64_t end = row.first + row.tokens;
  Ahead<kRows> ahead;
  ahead.Load(a, head, first_column, row.first, end);
  ahead.Store(a, numbers, tiles[0]);
  __syncthreads();
  int turn = 0;
  for (int64_t first = row.first; first < end; first += kTokens) {
    const bool more = first + kTokens < end;
    if (more) ahead.Load(a, head, first_column, first + kTokens, end);
    const Tile<kRows>& tile = tiles[turn];
    const int count = static_cast<int>(min(static_cast<int64_t>(kTokens), end - first));
    for (int t = 0; t < count; ++t) {
      const float result = part.template Step<kDelta>(tile, t, place, tile.v[t][own], numbers.skip);
      if (place == 0 && inside) PutAs(a.out, a.out_type, (first + t) * a.out_token + head * a.out_head + column, result);
    }
    turn ^= 1;
    if (more) ahead.Store(a, numbers, tiles[turn]);
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int at = Column<kRows>::Row(place, r);
    if (inside && at < a.depth) stored[at * a.state_row] = part.state[r];
  }
}

/// States of more rows than registers hold: a thread per column, which reads and writes them where they lie.
__global__ void __launch_bounds__(kThreads) ScanInPlace(const ScanArguments a) {
  Begin();
  __shared__ float shared[32];
  StateRow row;
  const int64_t head = blockIdx.y, group = head / a.each, within = head % a.each;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (!a.table.Read(blockIdx.z, row) || !a.Takes(row)) return;
  const bool inside = column < a.length;
  float* stored = a.state + row.slot * a.state_slot + head * a.state_head + column;
  const HeadNumbers numbers(a, head);
  for (int64_t token = row.first; token < row.first + row.tokens; ++token) {
    const int64_t q = token * a.q_token + group * a.q_group, k = token * a.k_token + group * a.k_group;
    float squares_k = 0, squares_q = 0, product = 0;
    for (int64_t i = threadIdx.x; i < a.depth; i += kThreads) {
      const float of_k = GetAs(a.k, a.k_type, k + i), of_q = GetAs(a.q, a.q_type, q + i);
      squares_k = fmaf(of_k, of_k, squares_k);
      squares_q = fmaf(of_q, of_q, squares_q);
      product = fmaf(of_k, of_q, product);
    }
    const float scale_k = ScaleOf(a, BlockSum(squares_k, shared), 1.0f);
    const float scale_q = ScaleOf(a, BlockSum(squares_q, shared), a.query_scale);
    product = BlockSum(product, shared) * (scale_k * scale_q);
    const float step = GetAs(a.step, a.step_type, token * a.step_token + group * a.step_group + within);
    const float beta = a.delta ? GetAs(a.beta, a.beta_type, token * a.beta_token + group * a.beta_group + within) : 0.0f;
    const TokenNumbers here = NumbersOf(a, numbers, step, beta, product);
    if (!inside) continue;
    const bool zeros = row.begins && token == row.first;
    float along_k = 0, along_q = 0;
    for (int64_t i = 0; i < a.depth && !zeros; ++i) {
      const float s = stored[i * a.state_row];
      along_k = fmaf(GetAs(a.k, a.k_type, k + i) * scale_k, s, along_k);
      along_q = fmaf(GetAs(a.q, a.q_type, q + i) * scale_q, s, along_q);
    }
    const float value = GetAs(a.v, a.v_type, token * a.v_token + head * a.v_head + column);
    const float delta = here.weight * (a.delta ? fmaf(-here.kept, along_k, value) : value);
    for (int64_t i = 0; i < a.depth; ++i) {
      const float before = zeros ? 0.0f : stored[i * a.state_row];
      stored[i * a.state_row] = fmaf(GetAs(a.k, a.k_type, k + i) * scale_k, delta, here.kept * before);
    }
    const float result = fmaf(numbers.skip, value, fmaf(here.product, delta, here.kept * along_q));
    PutAs(a.out, a.out_type, token * a.out_token + head * a.out_head + column, result);
  }
}

template <int kRows>
void LaunchScan(const ScanArguments& a, dim3 grid, Run& run) {
  if (a.delta) {
    Overlapped(Scan<kRows, true>, grid, kThreads, run, a);
  } else {
    Overlapped(Scan<kRows, false>, grid, kThreads, run, a);
  }
}

/// Token by token, states of any shape.
void LaunchEach(const ScanArguments& a, const ScanShape& shape, Run& run) {
  const bool in_place = a.depth > kLanes * kMostRows;
  const dim3 grid(Blocks(a.length, in_place ? kThreads : kColumns), static_cast<unsigned>(shape.heads),
                  static_cast<unsigned>(shape.sequences));
  if (in_place) return Overlapped(ScanInPlace, grid, kThreads, run, a);
  if (a.depth <= kLanes * 8) return LaunchScan<8>(a, grid, run);
  if (a.depth <= kLanes * 32) return LaunchScan<32>(a, grid, run);
  LaunchScan<kMostRows>(a, grid, run);
}

}  // namespace

void Launch(const StateScanOp& op, Run& run) {
  const int64_t tokens = op.v.shape[0], heads = op.v.shape[1], length = op.v.shape[2], depth = op.k.shape[2];
  const int64_t sequences = op.sequences.shape[0];
  if (tokens == 0 || heads == 0 || length == 0 || sequences == 0) return;
  ScanArguments a{op.q.data,
                        op.k.data,
                        op.v.data,
                        op.out.data,
                        op.q.dtype,
                        op.k.dtype,
                        op.v.dtype,
                        op.out.dtype,
                        op.q.strides[0],
                        op.q.strides[1],
                        op.k.strides[0],
                        op.k.strides[1],
                        op.v.strides[0],
                        op.v.strides[1],
                        op.out.strides[0],
                        op.out.strides[1],
                        op.step.data,
                        op.beta.data,
                        op.step.dtype,
                        op.beta.data ? op.beta.dtype : DType::kF32,
                        op.step.strides[0],
                        op.step.strides[1],
                        op.beta.strides[0],
                        op.beta.strides[1],
                        op.beta.data != nullptr,
                        WeightVector(op.step_bias),
                        WeightVector(op.decay),
                        WeightVector(op.skip),
                        reinterpret_cast<float*>(op.state.data),
                        op.state.strides[0],
                        op.state.strides[1],
                        op.state.strides[2],
                        depth,
                        length,
                        heads / op.k.shape[1],
                        op.min_step,
                        op.max_step,
                        op.norm_eps,
                        op.query_scale,
                        StateTable(op.sequences, op.slots, tokens, op.state.shape[0], run.fault()),
                  1,
                  tokens};
  const ScanWay way = WayOf(op);
  const ScanShape shape{heads, sequences};
  if (way.few_tokens > 0) {
    a.most_tokens = way.few_tokens;
    LaunchFew(a, shape, run);
    if (way.few_tokens == tokens) return;
    a.least_tokens = way.few_tokens + 1, a.most_tokens = tokens;
  }
  if (way.chunks && LaunchChunks(a, way, shape, run)) return;
  LaunchEach(a, shape, run);
}

}  // namespace zi::cuda
