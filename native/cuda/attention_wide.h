// What the kernels of wide heads share: tiles whose rows are the heads of a key's, of one token or of several, so that a block
// of keys in shared memory serves them all; which keys each row sees, and where what a part of a context gave goes.
//
// Rows of f32 are multiplied as two halves of 16 bits, of which the second lies eight rows below the first: a lane of a tensor
// core has both, and adds what came of them. Weights of values are two halves as well then. Keys of f32 lie the same way, and
// weigh the same in both of their rows.
#pragma once
#include <type_traits>

#include "cuda/run.h"
#include "cuda/stored_cache.h"
#include "cuda/tensor_cores.h"

namespace zi::cuda::wide {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f;
constexpr int kRows = kWideRows, kDepth = kWideDepth, kValueDepth = kWideValueDepth;
/// Keys of a block, whose first one is a multiple of it, so that a row does not depend on its neighbours.
constexpr int kKeys = 32;
constexpr int kSplit = kWideSplitTokens;
static_assert(kSplit % kKeys == 0);

struct Arguments : StoredArguments {
  int row_heads, head_tiles, tile_tokens;
  /// Sequences with more than so many new tokens are computed by this launch, or those with up to so many.
  int bound_tokens;
  bool whole;
  bool by_sequence;
  int tiles_each;  // of a sequence, where tiles are counted by sequence
  int first_tile;  // of this launch
  bool values_in_keys, groups_in_q;
  int page_shift;  // log2 of the tokens of a page, or −1
  /// What parts of contexts gave, [tile, head tile, row, split]: Σ p · v, and maximum (times log2 e) and Σ p.
  float* sums;
  float2* stats;
  int splits;
  int part_rows;
  /// Parts that a block folds one after the other, and whether it puts them together itself: then a row has one place in scratch.
  int parts_each;
  bool merges;
  /// Whether keys and values become what is multiplied as they are brought: codes, or the other type of 16 bits.
  bool expands;
  /// Whether it is a kernel of pairs of blocks, and how many of its blocks share the keys they read.
  bool paired;
  int sharers;

  Arguments(const AttentionOp& op, const AttentionWay& way, Fault* faults);
  /// Chooses pairs of blocks where there are such kernels.
  void Pair(const AttentionOp& op, const AttentionWay& way, const Run& run);

  __device__ int64_t Part(int row, int split) const {
    return ((static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y) * part_rows + row) * splits + split;
  }
  /// Where the part of a context that begins at `first` ends.
  __device__ int PartEnd(int first, int end) const { return whole ? end : min(end, (first / kSplit + 1) * kSplit); }
  /// Page and offset of a key, or false (and reported).
  __device__ bool PlaceFast(const Sequence& sequence, int position, int& page, int& offset) const {
    if (page_shift < 0) return Place(sequence, position, page, offset);
    const int entry = sequence.first_page + (position >> page_shift);
    page = __ldg(pages + entry);
    offset = position & (page_tokens - 1);
    if (page >= 0 && page < page_count) return true;
    Report(fault, kPageOutside, entry, page, page_count);
    return false;
  }
};

/// Rows of a tile that are a token's head each: all, or half where each takes two.
template <int kHalves>
constexpr int kHeads = kRows / kHalves;
/// Where a head's row or a key, or the first half of it, lies among the rows that are multiplied.
template <int kHalves>
__host__ __device__ constexpr int RowOf(int whole) {
  return kHalves == 1 ? whole : whole / 8 * 16 + whole % 8;
}

/// Two values as a register of their first halves of 16 bits, and one of what is left of them.
template <class T>
__device__ inline void SplitPair(float low, float high, uint32_t& firsts, uint32_t& rests) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 rounded = __floats2half2_rn(low, high);
    const float2 back = __half22float2(rounded);
    firsts = reinterpret_cast<const uint32_t&>(rounded);
    const __half2 rest = __floats2half2_rn(low - back.x, high - back.y);
    rests = reinterpret_cast<const uint32_t&>(rest);
  } else {
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(low, high);
    firsts = reinterpret_cast<const uint32_t&>(rounded);
    const float low_back = __uint_as_float(firsts << 16), high_back = __uint_as_float(firsts & 0xffff0000u);
    const __nv_bfloat162 rest = __floats2bfloat162_rn(low - low_back, high - high_back);
    rests = reinterpret_cast<const uint32_t&>(rest);
  }
}
template <class T>
__device__ inline void SplitEight(const float (&values)[8], uint4& firsts, uint4& rests) {
  SplitPair<T>(values[0], values[1], firsts.x, rests.x);
  SplitPair<T>(values[2], values[3], firsts.y, rests.y);
  SplitPair<T>(values[4], values[5], firsts.z, rests.z);
  SplitPair<T>(values[6], values[7], firsts.w, rests.w);
}

/// Keys of f32, which have been copied as they are to where their halves go, the even fours of values to the first ones', become
/// halves there.
template <class T>
__device__ inline void SplitInPlace(T* first, T* rest) {
  const float4 low = *reinterpret_cast<const float4*>(first), high = *reinterpret_cast<const float4*>(rest);
  const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  uint4 firsts, rests;
  SplitEight<T>(values, firsts, rests);
  *reinterpret_cast<uint4*>(first) = firsts, *reinterpret_cast<uint4*>(rest) = rests;
}

struct Tile {
  AttentionArguments::Sequence sequence;
  int first_token, tokens, kv_head, first_head, heads;

  /// False when the block has nothing to do.
  __device__ bool Find(const Arguments& a, int index, int head_tile) {
    int s, first;
    if (a.by_sequence) {
      s = index / a.tiles_each, first = index % a.tiles_each * a.tile_tokens;
      if (s >= a.sequence_count || !a.ReadSequence(s, sequence)) return false;
    } else {
      // Different for all tiles, and known without adding up; with a token each, the token.
      const int each = a.tile_tokens;
      const auto first_tile = [&](int i) { return a.sequences[i * a.sequences_stride] / each + (each > 1 ? i : 0); };
      s = a.LastSequence(index, first_tile);
      if (s < 0 || !a.ReadSequence(s, sequence)) return false;
      first = (index - first_tile(s)) * each;
    }
    if (first >= sequence.tokens || sequence.tokens > a.bound_tokens != a.whole) return false;
    first_token = sequence.first + first;
    tokens = min(a.tile_tokens, sequence.tokens - first);
    const int group = a.heads / a.kv_heads, within = head_tile % a.head_tiles * a.row_heads;
    kv_head = head_tile / a.head_tiles;
    first_head = kv_head * group + within;
    heads = min(a.row_heads, group - within);
    return true;
  }
  /// Whether that row of heads is a token's, and whose.
  __device__ bool Row(const Arguments& a, int row, int& token, int& head) const {
    const int t = row / a.row_heads, h = row % a.row_heads;
    token = first_token + t, head = first_head + h;
    return t < tokens && h < heads;
  }
};

/// Which keys the rows of a tile see, a head's row each; last < first when none.
struct Sight {
  int first[kRows], last[kRows];

  template <int kHalves>
  __device__ void Look(const Arguments& a, const Tile& tile) {
    const int row = threadIdx.x;
    if (row >= kHeads<kHalves>) return;
    int token, head;
    const bool valid = tile.Row(a, row, token, head);
    const int position = valid ? a.positions[token] : 0;
    first[row] = valid ? a.FirstKey(position) : 0;
    last[row] = valid ? a.LastKey(tile.sequence, position) : -1;
  }
  /// The keys that any row sees; for all lanes of a warp.
  template <int kHalves>
  __device__ void Range(const Tile& tile, int& begin, int& end) const {
    begin = tile.sequence.context, end = 0;
    for (int row = threadIdx.x % 32; row < kHeads<kHalves>; row += 32) {
      if (last[row] >= first[row]) begin = min(begin, first[row]), end = max(end, last[row] + 1);
    }
    begin = __reduce_min_sync(0xffffffffu, begin);
    end = __reduce_max_sync(0xffffffffu, end);
  }
  /// Whether that row's result is of more parts than one.
  __device__ bool Parted(const Arguments& a, int row) const {
    return !a.whole && last[row] > first[row] && first[row] / kSplit != last[row] / kSplit;
  }
};

/// Keys [begin, end) of the tile that this block folds; false when there are none for it.
__device__ inline bool CutToParts(const Arguments& a, int& begin, int& end) {
  const int run = blockIdx.z;
  // Who sees nothing gets zeros from the first block.
  if (begin >= end) return run == 0;
  if (a.whole) return run == 0;
  begin = max(begin, run * a.parts_each * kSplit);
  end = min(end, (run + 1) * a.parts_each * kSplit);
  return begin < end;
}

/// What a row's parts weigh as the next one joins those before it: they are put together in order, whoever does it.
struct PartWeights {
  float before, now;

  /// Maxima are times log2 e. `maximum` and `total` become those of all.
  __device__ PartWeights(float& maximum, float& total, float next_maximum, float next_total) {
    const float largest = fmaxf(maximum, next_maximum), base = largest == -INFINITY ? 0.0f : largest;
    before = Exp2(maximum - base), now = Exp2(next_maximum - base);
    total = fmaf(next_total, now, total * before);
    maximum = largest;
  }
  __device__ float operator()(float sum, float next) const { return fmaf(next, now, sum * before); }
};

/// The queries as rows to be multiplied, by the first `threads`: put(row, d, eight values as pairs).
template <class T, int kHalves, class Put>
__device__ void LoadQueries(const Arguments& a, const Tile& tile, int threads, Put put) {
  using Q = std::conditional_t<kHalves == 1, T, float>;
  constexpr int kGroups = kDepth / 8;
  for (int i = threadIdx.x; i < kHeads<kHalves> * kGroups; i += threads) {
    const int row = i / kGroups, d = i % kGroups * 8;
    int token, head;
    float values[8] = {};
    if (tile.Row(a, row, token, head) && d < a.depth) {
      const Q* const from = a.Query<Q>(token, head) + d;
      if (a.groups_in_q) {
        GetEight(from, values);
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] = Widen(from[j]);
      }
    }
    uint4 firsts, rests;
    SplitEight<T>(values, firsts, rests);
    put(RowOf<kHalves>(row), d, firsts);
    if (kHalves == 2) put(RowOf<kHalves>(row) + 8, d, rests);
  }
}

/// Products of a lane's rows become scores times log2 e; −∞ where a row does not see the key. `key`: of the block's first.
template <int kTiles>
__device__ inline void Score(const Arguments& a, float slope, int key, int first, int last, int half, float (&scores)[kTiles][4]) {
  const int t = threadIdx.x % 4;
  const bool plain = !a.slopes && a.soft_cap == 0;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      const int at = key + n * 8 + 2 * t + i % 2;
      const float score = (plain ? scores[n][i] * a.scale : a.Score(scores[n][i], slope, at)) * kLog2E;
      scores[n][i] = at < first || at > last ? -INFINITY : score;
    }
  }
}

/// Where a lane's pairs of sums of a row go, and what they are multiplied by.
template <class T, int kHalves>
struct RowResult {
  using Out = std::conditional_t<kHalves == 1, T, float>;
  Out* out = nullptr;    // of the result
  float* part = nullptr;  // or of this part of it
  float factor = 0;
  bool pairs;

  /// What the part `split` of the context gave. `maximum` is times log2 e.
  __device__ RowResult(const Arguments& a, const Tile& tile, const Sight& sight, int row, int split, float maximum, float total) {
    int token, head;
    pairs = false;
    if (!tile.Row(a, row, token, head)) return;
    const bool sees = sight.first[row] <= sight.last[row];
    if (sight.Parted(a, row)) {
      if (split < sight.first[row] / kSplit || split > sight.last[row] / kSplit) return;
      part = a.sums + a.Part(row, split) * a.value_depth;
      factor = 1;
      return;
    }
    // Whoever comes writes the zeros of a row that sees nothing.
    if (sees && !a.whole && sight.first[row] / kSplit != split) return;
    out = a.Out<Out>(token, head);
    factor = a.Inverse(head, maximum * kLn2, total, sees);
    pairs = reinterpret_cast<uintptr_t>(out) % (2 * sizeof(Out)) == 0;
  }
  __device__ void Put(int d, float low, float high) const {
    if (part) *reinterpret_cast<float2*>(part + d) = make_float2(low, high);
    if (!out) return;
    const Out first = Narrow<Out>(low * factor), second = Narrow<Out>(high * factor);
    if (!pairs) {
      out[d] = first, out[d + 1] = second;
    } else if constexpr (kHalves == 1) {
      *reinterpret_cast<uint32_t*>(out + d) = Pair(first, second);
    } else {
      *reinterpret_cast<float2*>(out + d) = make_float2(first, second);
    }
  }
};

/// A launch of a kernel for (tiles, head tiles, splits), on any GPU's tensor cores and on an H100's. `type` is of what is multiplied.
void LaunchTiles(DType type, int halves, const Arguments& a, dim3 grid, Run& run);
void LaunchHopperTiles(DType cache, int halves, const Arguments& a, dim3 grid, Run& run);
/// For rows of 16 bits on an H100: of keys that lie so that the copy engine takes them, and of those that are expanded.
bool PairsTake(const AttentionOp& op);
void LaunchPairs(const AttentionOp& op, const Arguments& a, dim3 grid, Run& run);
void LaunchStoredPairs(DType type, const Arguments& a, dim3 grid, Run& run);

}  // namespace zi::cuda::wide
