// attention over paged keys and values: one task per (sequence, kv head, tile of query tokens), online softmax over
// blocks of keys that begin at multiples of kKeyBlock, so that a token's result does not depend on its neighbours.
#pragma once
#include "cpu/kernel_attention_tiles.h"
#include "cpu/kernel_cache.h"

namespace zi::ZI_ISA {

/// Query rows (tokens × heads of one kv head) that share a transposed block of keys.
constexpr int64_t kQueryRows = 24;
/// Heads of one kv head that a task takes, at most: with as many, transposing keys costs little beside their products.
constexpr int64_t kMostHeads = 32;

struct SequenceRow {
  int64_t first, tokens, context, first_page;
};
inline SequenceRow ReadSequence(const View& sequences, int64_t s) {
  const int32_t* row = reinterpret_cast<const int32_t*>(sequences.data) + s * sequences.strides[0];
  return {row[0], row[1], row[2], row[3]};
}

/// The tables are data: checked before any page is touched.
inline void CheckTables(const AttentionOp& op) {
  const int64_t page_tokens = op.keys.shape[2];
  for (int64_t s = 0; s < op.sequences.shape[0]; ++s) {
    const SequenceRow row = ReadSequence(op.sequences, s);
    if (row.first < 0 || row.tokens < 0 || row.first + row.tokens > op.q.shape[0]) {
      FailOp("sequence %ld: tokens %ld … +%ld are outside the %ld of the batch", s, row.first, row.tokens,
             op.q.shape[0]);
    }
    const int64_t pages = row.context < 0 ? 0 : (row.context + page_tokens - 1) / page_tokens;
    if (row.context < 0 || row.first_page < 0 || row.first_page + pages > op.pages.shape[0]) {
      FailOp("sequence %ld: a context of %ld tokens from page entry %ld is outside the %ld entries", s, row.context,
             row.first_page, op.pages.shape[0]);
    }
    for (int64_t p = row.first_page; p < row.first_page + pages; ++p) {
      if (Int(op.pages, p) < 0 || Int(op.pages, p) >= op.keys.shape[0]) {
        FailOp("page entry %ld is %d, outside the %ld pages", p, Int(op.pages, p), op.keys.shape[0]);
      }
    }
  }
}

/// The work and scratch of one task. Rows are numbered token-major: row = token · heads + head.
struct QueryTile {
  const AttentionOp& op;
  const CacheAccess& cache;
  SequenceRow sequence;
  int64_t kv_head;
  int64_t first_head, heads;    // those that read kv_head
  int64_t first_token, tokens;  // in the micro-batch
  int64_t rows;

  float* keys;    // [D][kKeyBlock], transposed
  float* scores;  // [rows][kKeyBlock]
  float* sums;    // [rows][padded Dv]: Σ p · v
  float* maxima;  // [rows]
  float* totals;  // [rows]: Σ p
  float* zeros;   // [wider]: stands in for keys no row sees
  float* widened;  // [kKeyBlock][wider]: keys, then values, of a cache that does not hold floats; else null
  int64_t padded_values, wider;  // Dv, and the larger of D and Dv, in whole vectors

  int64_t Token(int64_t row) const { return first_token + row / heads; }
  int64_t Head(int64_t row) const { return first_head + row % heads; }
  /// Last key position that the token sees; −1 when none.
  int64_t Last(int64_t token) const { return Smaller(Int(op.positions, token), sequence.context - 1); }
  int64_t First(int64_t token) const {
    const int64_t position = Int(op.positions, token);
    const int64_t window = op.window_tokens > 0 ? position - op.window_tokens + 1 : 0;
    return Larger(Larger(0, window), op.chunk_tokens > 0 ? position - position % op.chunk_tokens : 0);
  }
};

inline size_t TileFloats(const QueryTile& tile) {
  const int64_t wider = tile.wider, blocks = tile.cache.get ? 2 : 1;
  return static_cast<size_t>(blocks * wider * kKeyBlock + tile.rows * (kKeyBlock + tile.padded_values + 2) + wider);
}

inline void PlaceScratch(QueryTile& tile) {
  const int64_t wider = tile.wider, rows = tile.rows;
  float* at = static_cast<float*>(Scratch(ScratchUse::kTile, TileFloats(tile) * sizeof(float)));
  tile.keys = at;
  tile.widened = tile.cache.get ? tile.keys + wider * kKeyBlock : nullptr;
  tile.scores = tile.keys + wider * kKeyBlock * (tile.cache.get ? 2 : 1);
  tile.sums = tile.scores + rows * kKeyBlock;
  tile.zeros = tile.sums + rows * tile.padded_values;
  tile.maxima = tile.zeros + wider;
  tile.totals = tile.maxima + rows;
  std::memset(tile.sums, 0, static_cast<size_t>(rows * tile.padded_values + wider) * sizeof(float));
  for (int64_t row = 0; row < rows; ++row) {
    tile.maxima[row] = -__builtin_inff();
    tile.totals[row] = 0;
  }
  if (!tile.op.sinks.data) return;
  // As if a position that weighs nothing had been folded in.
  WithType(tile.op.sinks.dtype, [&]<class W>(W) {
    for (int64_t row = 0; row < rows; ++row) {
      float lanes[kWidth];
      Store(lanes, LoadUpTo<W>(tile.op.sinks.data + tile.Head(row) * W::kBytes, 1));
      tile.maxima[row] = lanes[0];
      tile.totals[row] = lanes[0] == -__builtin_inff() ? 0.0f : 1.0f;
    }
  });
}

/// To eight significant bits, ties to even; of numbers far from infinity.
inline float RoundToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

/// Scaled products of one row in one block get ALiBi's bias.
inline void AddAlibi(const AttentionOp& op, int64_t head, int64_t block_start, Vec (&scores)[kKeyVecs]) {
  const float slope = reinterpret_cast<const float*>(op.alibi_slopes.data)[head];
  if (!op.alibi_rounded) {
    for (int v = 0; v < kKeyVecs; ++v) {
      scores[v] = Fma(Set(slope), Add(Set(static_cast<float>(block_start + v * kWidth)), Iota()), scores[v]);
    }
    return;
  }
  float biases[kKeyBlock];
  for (int64_t j = 0; j < kKeyBlock; ++j) {
    biases[j] = RoundToBf16(slope * RoundToBf16(static_cast<float>(block_start + j)));
  }
  for (int v = 0; v < kKeyVecs; ++v) scores[v] = Fma(Set(op.scale), Load(biases + v * kWidth), scores[v]);
}

/// Scores of one row in one block become probabilities; sums so far are rescaled to the new maximum.
inline void SoftmaxRow(QueryTile& tile, int64_t row, int64_t block_start) {
  const AttentionOp& op = tile.op;
  const int64_t token = tile.Token(row);
  float* scores = tile.scores + row * kKeyBlock;
  const float first = static_cast<float>(tile.First(token)), last = static_cast<float>(tile.Last(token));
  const Vec lowest = Set(-__builtin_inff());
  Vec value[kKeyVecs], largest = lowest;
  for (int v = 0; v < kKeyVecs; ++v) value[v] = Mul(Load(scores + v * kWidth), Set(op.scale));
  if (op.alibi_slopes.data) AddAlibi(op, tile.Head(row), block_start, value);
  for (int v = 0; v < kKeyVecs; ++v) {
    const Vec key = Add(Set(static_cast<float>(block_start + v * kWidth)), Iota());
    Vec score = value[v];
    // The cap would make an ordinary number of an infinite one.
    if (op.soft_cap != 0) score = Fma(score, Zero(), Mul(Set(op.soft_cap), Tanh(Div(score, Set(op.soft_cap)))));
    score = SelectLess(key, Set(first), lowest, score);
    value[v] = SelectLess(Set(last), key, lowest, score);
    largest = Max(value[v], largest);  // the second argument where a score is NaN
  }
  const float before = tile.maxima[row], here = MaxLane(largest);
  const float maximum = here > before ? here : before;
  Vec total = Zero();
  if (maximum == -__builtin_inff()) {
    // None is seen, or they are NaN, which must not be lost.
    for (int v = 0; v < kKeyVecs; ++v) {
      const Vec p = Mul(Exp(value[v]), Zero());
      Store(scores + v * kWidth, p);
      total = Add(total, p);
    }
    tile.totals[row] += Sum(total);
    return;
  }
  for (int v = 0; v < kKeyVecs; ++v) {
    const Vec p = Exp(Sub(value[v], Set(maximum)));
    Store(scores + v * kWidth, p);
    total = Add(total, p);
  }
  float rescale = 1;
  if (maximum != before) {
    float lanes[kWidth];
    Store(lanes, Exp(Set(before - maximum)));
    rescale = lanes[0];
    float* sums = tile.sums + row * tile.padded_values;
    for (int64_t d = 0; d < tile.padded_values; d += kWidth) Store(sums + d, Mul(Load(sums + d), Set(rescale)));
  }
  tile.maxima[row] = maximum;
  tile.totals[row] = tile.totals[row] * rescale + Sum(total);
}

/// Where the keys of one block of positions lie; those in [from, to) are seen.
struct BlockPlaces {
  int from, to;
  int64_t pages[kKeyBlock], offsets[kKeyBlock];
};
/// Finds positions [begin, end), all within the block, page by page: a division for each would take as long as its products.
inline void FindBlock(const QueryTile& tile, int64_t block_start, int64_t begin, int64_t end, BlockPlaces& places) {
  const AttentionOp& op = tile.op;
  const int64_t page_tokens = op.keys.shape[2];
  places.from = static_cast<int>(begin - block_start);
  places.to = static_cast<int>(end - block_start);
  int64_t entry = tile.sequence.first_page + begin / page_tokens, offset = begin % page_tokens;
  for (int j = places.from; j < places.to; ++j) {
    places.pages[j] = Int(op.pages, entry);
    places.offsets[j] = offset;
    if (++offset == page_tokens) ++entry, offset = 0;
  }
}

/// The block's keys or values: where they lie, or widened; zeros where none is seen.
inline void BlockRows(const QueryTile& tile, const View& cached, const View& scales, const BlockPlaces& places,
                      int64_t depth, const float* (&rows)[kKeyBlock]) {
  const CacheAccess& cache = tile.cache;
  for (int j = 0; j < kKeyBlock; ++j) {
    rows[j] = tile.zeros;
    if (j < places.from || j >= places.to) continue;
    const int64_t page = places.pages[j], offset = places.offsets[j];
    const uint8_t* row = cache.Row(cached, page, tile.kv_head, offset);
    if (!cache.get) {
      rows[j] = reinterpret_cast<const float*>(row);
      continue;
    }
    float* to = tile.widened + j * tile.wider;
    cache.get(row, CacheAccess::Scales(scales, page, tile.kv_head, offset), depth, to);
    rows[j] = to;
  }
}

/// Folds keys [begin, end), all within one block, into every row.
inline void FoldBlock(QueryTile& tile, int64_t block_start, int64_t begin, int64_t end) {
  const AttentionOp& op = tile.op;
  const int64_t depth = op.q.shape[2], value_depth = op.out.shape[2];
  BlockPlaces places;
  FindBlock(tile, block_start, begin, end, places);
  const float* rows[kKeyBlock];
  BlockRows(tile, op.keys, op.key_scales, places, depth, rows);
  TransposeKeys(rows, depth, tile.keys);
  for (int64_t row = 0; row < tile.rows; row += kTokenTile) {
    const float* q[kTokenTile];
    for (int c = 0; c < kTokenTile; ++c) {
      const int64_t r = Smaller(row + c, tile.rows - 1);
      q[c] = Row(op.q, tile.Token(r), tile.Head(r));
    }
    ScoreRows(tile.rows - row, q, tile.keys, depth, tile.scores + row * kKeyBlock);
  }
  for (int64_t row = 0; row < tile.rows; ++row) SoftmaxRow(tile, row, block_start);
  // Values that lie in keys are there already.
  if (op.values.data != op.keys.data) BlockRows(tile, op.values, op.value_scales, places, value_depth, rows);
  for (int64_t row = 0; row < tile.rows; row += kTokenTile) {
    WeighRows(tile.rows - row, tile.scores + row * kKeyBlock, rows, places.from, places.to, value_depth,
              tile.sums + row * tile.padded_values, tile.padded_values);
  }
}

inline void AttendTile(QueryTile& tile, Run& run) {
  const AttentionOp& op = tile.op;
  const int64_t depth = op.out.shape[2];
  tile.padded_values = RoundUp(depth, kWidth);
  tile.wider = Larger(RoundUp(op.q.shape[2], kWidth), tile.padded_values);
  PlaceScratch(tile);
  int64_t first = tile.sequence.context, end = 0;
  for (int64_t t = tile.first_token; t < tile.first_token + tile.tokens; ++t) {
    first = Smaller(first, tile.First(t));
    end = Larger(end, tile.Last(t) + 1);
  }
  for (int64_t block = first / kKeyBlock * kKeyBlock; block < end; block += kKeyBlock) {
    if (run.cancel.load(std::memory_order_relaxed)) return;
    FoldBlock(tile, block, Larger(block, first), Smaller(block + kKeyBlock, end));
  }
  for (int64_t row = 0; row < tile.rows; ++row) {
    // A token that sees nothing gets zeros; where all that it sees is infinitely far, there is no answer.
    const int64_t token = tile.Token(row);
    const float nothing = tile.Last(token) < tile.First(token) ? 0.0f : __builtin_nanf("");
    const Vec inverse = Set(tile.totals[row] != 0 ? 1.0f / tile.totals[row] : nothing);
    float* out = Row(op.out, token, tile.Head(row));
    const float* sums = tile.sums + row * tile.padded_values;
    for (int64_t d = 0; d < depth; d += kWidth) StoreUpTo(out + d, Mul(Load(sums + d), inverse), depth - d);
  }
}

inline void AttentionKernel(const AttentionOp& op, Run& run) {
  CheckTables(op);
  const int64_t heads = op.q.shape[1], kv_heads = op.keys.shape[1], sequences = op.sequences.shape[0];
  if (heads == 0 || op.out.shape[2] == 0) return;
  const int64_t group = (heads + kv_heads - 1) / kv_heads;
  // Many heads of one kv head are shared among tasks, since a sequence may be alone.
  const int64_t head_tiles = (group + kMostHeads - 1) / kMostHeads;
  const int64_t tile_tokens = Larger(1, kQueryRows / group);
  // first_tile[s]: tiles of the sequences before s.
  int64_t* first_tile = static_cast<int64_t*>(
      Scratch(ScratchUse::kOperation, static_cast<size_t>(sequences + 1) * sizeof(int64_t)));
  int64_t context = 0;
  first_tile[0] = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    const SequenceRow row = ReadSequence(op.sequences, s);
    first_tile[s + 1] = first_tile[s] + (row.tokens + tile_tokens - 1) / tile_tokens;
    context = Larger(context, row.context);
  }
  const CacheAccess cache = CacheAccessOf(op.keys.dtype);
  const int64_t work = group * context * op.q.shape[2] / kWidth;
  ForEach(run, first_tile[sequences] * kv_heads * head_tiles, work / head_tiles, [&](int64_t task) {
    const int64_t index = task / (kv_heads * head_tiles), part = task % head_tiles;
    const int64_t kv_head = task / head_tiles % kv_heads;
    int64_t s = 0, above = sequences;
    while (above - s > 1) {
      const int64_t middle = (s + above) / 2;
      (first_tile[middle] <= index ? s : above) = middle;
    }
    const SequenceRow row = ReadSequence(op.sequences, s);
    const int64_t offset = (index - first_tile[s]) * tile_tokens;
    const int64_t tokens = Smaller(tile_tokens, row.tokens - offset);
    // Head h reads kv head ⌊h · kv_heads / heads⌋.
    const int64_t first_head = (kv_head * heads + kv_heads - 1) / kv_heads;
    const int64_t all = ((kv_head + 1) * heads + kv_heads - 1) / kv_heads - first_head;
    const int64_t begin = all * part / head_tiles, count = all * (part + 1) / head_tiles - begin;
    if (count == 0) return;
    QueryTile tile{op, cache, row, kv_head, first_head + begin, count, row.first + offset, tokens, tokens * count,
                   nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 0};
    AttendTile(tile, run);
  });
}

}  // namespace zi::ZI_ISA
