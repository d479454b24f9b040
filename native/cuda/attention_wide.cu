// attention of wide heads of 16 bits whose keys several heads read (latent attention, whose values lie in its keys): launches
// of tiles, some at a time where parts of contexts wait in scratch, and the kernel that puts the parts together.
#include "cuda/attention_wide.h"

#include <algorithm>

namespace zi::cuda {
namespace wide {
namespace {

bool ValuesLieInKeys(const StoredArguments& a) {
  const bool codes = a.values == a.keys && a.value_page == a.key_page && a.value_head == a.key_head &&
                     a.value_token == a.key_token && a.value_depth <= a.depth;
  const bool scales = a.value_scales == a.key_scales && a.value_scale_page == a.key_scale_page &&
                      a.value_scale_head == a.key_scale_head && a.value_scale_token == a.key_scale_token;
  return codes && scales && (a.value_group == a.group || (a.group == a.depth && a.value_group == a.value_depth));
}

/// What is multiplied.
DType TypeOf(const AttentionOp& op) {
  if (IsHalf(op.q.dtype)) return op.q.dtype;
  return op.keys.dtype == DType::kF16 ? DType::kF16 : DType::kBF16;
}

}  // namespace

Arguments::Arguments(const AttentionOp& op, const AttentionWay& way, Fault* faults)
    : StoredArguments(op, faults),
      row_heads(static_cast<int>(way.wide->heads)),
      head_tiles(static_cast<int>(way.wide->head_tiles)),
      tile_tokens(static_cast<int>(way.wide->tokens)),
      bound_tokens(static_cast<int>(way.most_tokens)),
      whole(false),
      by_sequence(false),
      tiles_each(static_cast<int>((way.most_tokens + tile_tokens - 1) / tile_tokens)),
      first_tile(0),
      values_in_keys(ValuesLieInKeys(*this)),
      groups_in_q(RowsAligned(op.q, 16)),
      page_shift(-1),
      sums(nullptr),
      stats(nullptr),
      splits(1),
      part_rows(kRows / static_cast<int>(way.wide->halves)),
      parts_each(1),
      merges(false),
      expands(way.wide->halves == 1 && op.keys.dtype != op.q.dtype),
      paired(false),
      sharers(1) {
  for (int shift = 0; shift < 31; ++shift) {
    if (page_tokens == 1 << shift) page_shift = shift;
  }
}

void Arguments::Pair(const AttentionOp& op, const AttentionWay& way, const Run& run) {
  const bool plain = !slopes && soft_cap == 0 && scale > 0;
  // Where one block has all heads of a key, and for short prompts, attention_wide_hopper.cu is faster.
  const bool shares = head_tiles % 2 == 0 && !whole;
  paired = run.generation() == 9 && values_in_keys && plain && way.wide->halves == 1 && (expands || (shares && PairsTake(op)));
  if (paired && !expands) sharers = 2;
}

namespace {

constexpr int kMergeThreads = kValueDepth / 4;

/// A row of a head per block, a group of four values per thread. Parts are added in order, whatever computed them.
template <class T, int kHalves>
__global__ void __launch_bounds__(kMergeThreads) MergeParts(const __grid_constant__ Arguments a) {
  using Out = std::conditional_t<kHalves == 1, T, float>;
  const int row = blockIdx.z, d = static_cast<int>(threadIdx.x) * 4;
  Tile tile;
  int token, head;
  if (!tile.Find(a, a.first_tile + blockIdx.x, blockIdx.y) || !tile.Row(a, row, token, head)) return;
  const int position = a.positions[token], first = a.FirstKey(position), last = a.LastKey(tile.sequence, position);
  const int from = first / kSplit, to = last / kSplit;
  if (last <= first || from == to) return;
  const auto values = [&](int split) { return a.sums + a.Part(row, split) * a.value_depth + d; };
  float maximum = a.stats[a.Part(row, from)].x, total = a.stats[a.Part(row, from)].y, sums[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (d + i < a.value_depth) sums[i] = values(from)[i];
  }
#pragma unroll 4
  for (int split = from + 1; split <= to; ++split) {
    const float2 part = a.stats[a.Part(row, split)];
    const PartWeights weigh(maximum, total, part.x, part.y);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (d + i < a.value_depth) sums[i] = weigh(sums[i], values(split)[i]);
    }
  }
  const float factor = a.Inverse(head, maximum * kLn2, total, true);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (d + i < a.value_depth) a.Out<Out>(token, head)[d + i] = Narrow<Out>(sums[i] * factor);
  }
}

void Launch(const AttentionOp& op, int halves, const Arguments& a, dim3 grid, Run& run) {
  if (a.paired) return a.expands ? LaunchStoredPairs(TypeOf(op), a, grid, run) : LaunchPairs(op, a, grid, run);
  if (run.generation() == 9 && a.values_in_keys && !a.expands) return LaunchHopperTiles(op.keys.dtype, halves, a, grid, run);
  LaunchTiles(TypeOf(op), halves, a, grid, run);
}

/// Parts of a run, so that all of them take least: a run has a beginning and an end, and a multiprocessor does one at a time.
int PartsEach(int64_t tiles, int splits, int multiprocessors) {
  constexpr int kEnds = 4;  // in fractions of what a part takes
  int best = 1;
  int64_t least = INT64_MAX;
  for (int each = 1; each <= splits; ++each) {
    const int64_t rounds = (tiles * ((splits + each - 1) / each) + multiprocessors - 1) / multiprocessors;
    const int64_t time = rounds * (each * kEnds + 1) + (each < splits ? 1 : 0);
    if (time < least) least = time, best = each;
  }
  return best;
}

template <class T>
void Merge(int halves, const Arguments& a, dim3 grid, Run& run) {
  const auto kernel = halves == 1 ? MergeParts<T, 1> : MergeParts<T, 2>;
  kernel<<<dim3(grid.x, grid.y, kRows / halves), kMergeThreads, 0, run.stream()>>>(a);
}

}  // namespace
}  // namespace wide

void LaunchWideTiles(const AttentionOp& op, const AttentionWay& way, Run& run) {
  wide::Arguments a(op, way, run.fault());
  a.whole = true;
  a.Pair(op, way, run);
  const dim3 grid(static_cast<unsigned>(a.tokens / a.tile_tokens + (a.tile_tokens > 1 ? a.sequence_count : 0)),
                  static_cast<unsigned>(a.kv_heads * a.head_tiles));
  wide::Launch(op, way.wide->halves, a, grid, run);
}

void LaunchWideParts(const AttentionOp& op, const AttentionWay& way, Run& run) {
  wide::Arguments a(op, way, run.fault());
  a.Pair(op, way, run);
  const int64_t tiles = way.blocks, columns = a.kv_heads * a.head_tiles;
  int64_t at_once = way.wide->at_once, runs = way.splits;
  a.by_sequence = way.by_sequence;
  a.splits = static_cast<int>(way.splits);
  if (way.splits > 1) {
    const int64_t parts = WideParts(op, way);
    const size_t size = static_cast<size_t>(parts * (2 + a.value_depth)) * sizeof(float);
    a.stats = reinterpret_cast<float2*>(run.scratch().At(ScratchUse::kPartials, size));
    a.sums = reinterpret_cast<float*>(a.stats + parts);
    if (a.paired) a.parts_each = wide::PartsEach(std::min<int64_t>(tiles, a.tokens) * columns, a.splits, run.multiprocessors());
    runs = (way.splits + a.parts_each - 1) / a.parts_each;
    if (runs == 1) a.merges = true, a.splits = 1, at_once = std::min(tiles, at_once * way.splits);
  }
  for (int64_t first = 0; first < tiles; first += at_once) {
    a.first_tile = static_cast<int>(first);
    const dim3 grid(static_cast<unsigned>(std::min(tiles - first, at_once)), static_cast<unsigned>(columns),
                    static_cast<unsigned>(runs));
    wide::Launch(op, way.wide->halves, a, grid, run);
    if (runs == 1) continue;
    wide::TypeOf(op) == DType::kF16 ? wide::Merge<__half>(way.wide->halves, a, grid, run)
                                    : wide::Merge<__nv_bfloat16>(way.wide->halves, a, grid, run);
  }
}

}  // namespace zi::cuda
