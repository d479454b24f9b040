// attention of wide heads of 16 bits whose keys several heads read (latent attention, whose values lie in its keys): launches
// of tiles, some at a time where parts of contexts wait in scratch, and the kernel that puts the parts together.
#include "cuda/attention_wide.h"

namespace zi::cuda {
namespace wide {

Arguments::Arguments(const AttentionOp& op, const AttentionWay& way, Fault* faults)
    : AttentionArguments(op, faults),
      row_heads(static_cast<int>(way.wide->heads)),
      head_tiles(static_cast<int>(way.wide->head_tiles)),
      tile_tokens(static_cast<int>(way.wide->tokens)),
      bound_tokens(static_cast<int>(way.most_tokens)),
      whole(false),
      by_sequence(false),
      tiles_each(static_cast<int>((way.most_tokens + tile_tokens - 1) / tile_tokens)),
      first_tile(0),
      values_in_keys(op.values.data == op.keys.data && value_page == key_page && value_head == key_head &&
                     value_token == key_token && value_depth <= depth),
      groups_in_q(RowsAligned(op.q, 16)),
      page_shift(-1),
      sums(nullptr),
      stats(nullptr),
      splits(1),
      part_rows(kRows / static_cast<int>(way.wide->halves)) {
  for (int shift = 0; shift < 31; ++shift) {
    if (page_tokens == 1 << shift) page_shift = shift;
  }
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
  float maximum = -INFINITY;
  for (int split = from; split <= to; ++split) maximum = fmaxf(maximum, a.stats[a.Part(row, split)].x);
  const float base = maximum == -INFINITY ? 0.0f : maximum;
  float total = 0, sums[4] = {};
  for (int split = from; split <= to; ++split) {
    const float2 part = a.stats[a.Part(row, split)];
    const float weight = Exp2(part.x - base);
    total = fmaf(part.y, weight, total);
    const float* const values = a.sums + a.Part(row, split) * a.value_depth + d;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (d + i < a.value_depth) sums[i] = fmaf(values[i], weight, sums[i]);
    }
  }
  const float factor = a.Inverse(head, maximum * kLn2, total, true);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (d + i < a.value_depth) a.Out<Out>(token, head)[d + i] = Narrow<Out>(sums[i] * factor);
  }
}

void Launch(const AttentionOp& op, int halves, const Arguments& a, dim3 grid, Run& run) {
  if (run.generation() == 9 && a.values_in_keys) return LaunchHopperTiles(op.keys.dtype, halves, a, grid, run);
  LaunchTiles(op.keys.dtype, halves, a, grid, run);
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
  const dim3 grid(static_cast<unsigned>(a.tokens / a.tile_tokens + (a.tile_tokens > 1 ? a.sequence_count : 0)),
                  static_cast<unsigned>(a.kv_heads * a.head_tiles));
  wide::Launch(op, way.wide->halves, a, grid, run);
}

void LaunchWideParts(const AttentionOp& op, const AttentionWay& way, Run& run) {
  wide::Arguments a(op, way, run.fault());
  const int64_t tiles = way.blocks, at_once = way.wide->at_once;
  a.by_sequence = way.by_sequence;
  a.splits = static_cast<int>(way.splits);
  if (way.splits > 1) {
    const int64_t parts = WideParts(op, way);
    const size_t size = static_cast<size_t>(parts * (2 + a.value_depth)) * sizeof(float);
    a.stats = reinterpret_cast<float2*>(run.scratch().At(ScratchUse::kPartials, size));
    a.sums = reinterpret_cast<float*>(a.stats + parts);
  }
  for (int64_t first = 0; first < tiles; first += at_once) {
    a.first_tile = static_cast<int>(first);
    const dim3 grid(static_cast<unsigned>(tiles - first < at_once ? tiles - first : at_once),
                    static_cast<unsigned>(a.kv_heads * a.head_tiles), static_cast<unsigned>(way.splits));
    wide::Launch(op, way.wide->halves, a, grid, run);
    if (way.splits == 1) continue;
    op.keys.dtype == DType::kF16 ? wide::Merge<__half>(way.wide->halves, a, grid, run)
                                 : wide::Merge<__nv_bfloat16>(way.wide->halves, a, grid, run);
  }
}

}  // namespace zi::cuda
