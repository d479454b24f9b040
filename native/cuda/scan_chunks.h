// state_scan in chunks of 64 tokens: what a first kernel makes of all chunks at once, and a second one goes through in order.
//
// With G the sums of log γ within a chunk, S₀ the state before it, and δ as in the operation, all rows of a chunk are
//   δ = T · (V − diag(e^G) · K · S₀),  T = (1 + A)⁻¹ · diag(β),  A[t, s] = β[t] · e^(G[t] − G[s]) · k[t] · k[s]  for s < t
//   out = diag(e^G) · Q · S₀ + P · δ,  P[t, s] = e^(G[t] − G[s]) · q[t] · k[s]  for s ≤ t
//   S = e^G[last] · S₀ + (diag(e^(G[last] − G)) · K)ᵀ · δ
// (Yang et al. 2024). Without `beta` δ is V, and steps are in P and in what is added to S. Exponents never are above zero.
//
// Products are of bf16 with f32 sums. What is not bf16 is two of them, which hold 16 bits: a product leaves out the two lower
// ones' own. Inputs of bf16 need no second part.
#pragma once
#include "cuda/scan.h"
#include "cuda/tensor_cores.h"

namespace zi::cuda::chunks {

constexpr int kTokens = kScanChunkTokens;
constexpr int kTiles = kTokens / 16;
/// Tiles [16 × 16] of a matrix [64 × 64] that are not all zeros above its diagonal, row by row.
constexpr int kLowerTiles = kTiles * (kTiles + 1) / 2;
__host__ __device__ constexpr int LowerTile(int row, int column) { return row * (row + 1) / 2 + column; }

/// A matrix [64 × 64] without what lies above its diagonal, as a lane multiplies with it: upper and lower parts.
struct Fragments {
  uint4 parts[kLowerTiles][2][32];
};
struct Scales {
  float keys[kTokens];     // of K · S₀
  float queries[kTokens];  // of Q · S₀
  float writes[kTokens];   // of δ, for what is added to the state
  float kept;              // of the state
  float unused[3];
};
/// What is known of a chunk of one head before its state is.
struct Chunk {
  Scales scales;
  Fragments reads;     // P
  Fragments corrects;  // T; absent without `beta`
};
static_assert(sizeof(Chunk) == kScanChunkBytes && offsetof(Chunk, corrects) == kPlainScanChunkBytes);

struct ChunkArguments {
  ScanArguments scan;
  uint8_t* scratch;
  int64_t first, count;  // chunks of this round
  int64_t heads, groups, sequences;
  size_t bytes;          // of a chunk of a head

  /// Chunks have numbers with gaps, so that none depends on how long the sequences before its own are.
  __device__ int64_t Number(const StateRow& row, int s) const { return row.first / kTokens + s; }
  __device__ Chunk& At(int64_t number, int64_t head, int64_t heads) const {
    return *reinterpret_cast<Chunk*>(scratch + ((number - first) * heads + head) * bytes);
  }
};

/// Where a group of eight values lies in rows of `groups`, so that the eight rows of a matrix fall into different banks.
__device__ inline int Swizzled(int row, int group, int groups) {
  const int turn = groups >= 8 ? row & 7 : groups == 4 ? row >> 1 & 3 : 0;
  return (row * groups + (group ^ turn)) * 8;
}

/// Two values as upper and lower parts.
__device__ inline void Split(float a, float b, uint32_t& upper, uint32_t& lower) {
  const __nv_bfloat16 of_a = Narrow<__nv_bfloat16>(a), of_b = Narrow<__nv_bfloat16>(b);
  upper = Pair(of_a, of_b);
  lower = Pair(Narrow<__nv_bfloat16>(a - Widen(of_a)), Narrow<__nv_bfloat16>(b - Widen(of_b)));
}

/// Values of eight neighbours in both parts; the lower one only where there is a place for it.
__device__ inline void PutParts(const float (&values)[8], __nv_bfloat16* upper, __nv_bfloat16* lower) {
  uint4 of_upper, of_lower;
  Split(values[0], values[1], of_upper.x, of_lower.x);
  Split(values[2], values[3], of_upper.y, of_lower.y);
  Split(values[4], values[5], of_upper.z, of_lower.z);
  Split(values[6], values[7], of_upper.w, of_lower.w);
  *reinterpret_cast<uint4*>(upper) = of_upper;
  if (lower) *reinterpret_cast<uint4*>(lower) = of_lower;
}

using Multiplied = __nv_bfloat16;
__device__ inline void Multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MultiplyAdd<Multiplied>(c, a, b0, b1);
}

void LaunchPrepare(const ChunkArguments& a, bool halves, Run& run);

}  // namespace zi::cuda::chunks
