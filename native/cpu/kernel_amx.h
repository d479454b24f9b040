// Products on tiles of AMX with weights whose values are bf16.
//
// An element of a column takes its inputs 32 at a time, in the order of K, as one instruction adds up 16 pairs; so its bits depend
// on nothing else in the batch.
#pragma once
#include "cpu/kernel_amx_rows.h"

namespace zi::amx {

/// Steps whose rows of tiles stay in the nearest cache.
constexpr int64_t kNearSteps = 8;
/// Columns' tiles that are few.
constexpr int64_t kFewTiles = 3;
/// Tokens and rows per task: a block of their inputs and all their sums stay in the cache of a core.
constexpr int64_t kAmxTokens = 128;
constexpr int64_t kTaskRows = 8 * kAmxRows;
static_assert(kAmxTokens % kTileRows == 0);

/// Adds `steps` steps of 32 inputs to a column of R tiles of sums, each 16 rows of `kWidth` floats. Meanwhile both are asked for.
template <int R>
__attribute__((noinline)) void AddTiles(const RowTiles& rows, const uint32_t* column, int64_t column_bytes, int64_t steps, float* sums,
                                        Ahead& weights, int64_t weight_lines, Ahead& inputs) {
  const int64_t input_lines = (inputs.Lines() + steps - 1) / steps, step_words = kTileRows * (column_bytes / 4);
  constexpr int64_t kSumBytes = kWidth * sizeof(float);
  ZI_TILE_LOAD(0, sums, kSumBytes);
  if constexpr (R > 1) ZI_TILE_LOAD(1, sums + kTileFloats, kSumBytes);
  if constexpr (R > 2) ZI_TILE_LOAD(2, sums + 2 * kTileFloats, kSumBytes);
  if constexpr (R > 3) ZI_TILE_LOAD(3, sums + 3 * kTileFloats, kSumBytes);
  const uint8_t* from = rows.data;
  for (int64_t step = 0; step < steps; ++step, from += rows.step_bytes, column += step_words) {
    weights.Request(weight_lines);
    inputs.Request(input_lines);
    ZI_TILE_LOAD(7, column, column_bytes);
    ZI_TILE_LOAD(4, from, rows.row_bytes);
    ZI_TILE_PRODUCT(0, 4, 7);
    if constexpr (R > 1) {
      ZI_TILE_LOAD(5, from + rows.tile_bytes, rows.row_bytes);
      ZI_TILE_PRODUCT(1, 5, 7);
    }
    if constexpr (R > 2) {
      ZI_TILE_LOAD(6, from + 2 * rows.tile_bytes, rows.row_bytes);
      ZI_TILE_PRODUCT(2, 6, 7);
    }
    if constexpr (R > 3) {
      ZI_TILE_LOAD(4, from + 3 * rows.tile_bytes, rows.row_bytes);
      ZI_TILE_PRODUCT(3, 4, 7);
    }
  }
  ZI_TILE_STORE(0, sums, kSumBytes);
  if constexpr (R > 1) ZI_TILE_STORE(1, sums + kTileFloats, kSumBytes);
  if constexpr (R > 2) ZI_TILE_STORE(2, sums + 2 * kTileFloats, kSumBytes);
  if constexpr (R > 3) ZI_TILE_STORE(3, sums + 3 * kTileFloats, kSumBytes);
}

/// Rows of a weight and tiles of columns whose products one thread makes.
struct TileWork {
  int64_t row, rows, first_tile, tiles;
  int64_t row_tiles() const { return (rows + kTileRows - 1) / kTileRows; }
};

/// All sums of a task. Those of a column's tile and a panel of kAmxRows rows are neighbours.
class TileSums {
 public:
  TileSums(float* data, const TileWork& work) : data_(data), tiles_(work.tiles) {}
  static int64_t Floats(const TileWork& work) { return RoundUp(work.rows, kAmxRows) * work.tiles * kWidth; }
  float* At(int64_t row_tile, int64_t tile) const {
    constexpr int64_t kPanelTiles = kAmxRows / kTileRows;
    return data_ + ((row_tile / kPanelTiles * tiles_ + tile) * kPanelTiles + row_tile % kPanelTiles) * kTileFloats;
  }

 private:
  float* data_;
  int64_t tiles_;
};

/// One tile of rows times C tiles of columns; their sums stay in tiles from the first step to the last.
template <int C>
struct FewTiles {
  static void Clear() {
    ZI_TILE_ZERO(0);
    if constexpr (C > 1) ZI_TILE_ZERO(1);
    if constexpr (C > 2) ZI_TILE_ZERO(2);
  }
  static void Store(float* sums, int64_t distance) {
    ZI_TILE_STORE(0, sums, kWidth * 4);
    if constexpr (C > 1) ZI_TILE_STORE(1, sums + distance, kWidth * 4);
    if constexpr (C > 2) ZI_TILE_STORE(2, sums + 2 * distance, kWidth * 4);
  }
  /// One step, with `columns` of the first of their tiles.
  static __attribute__((always_inline)) void Add(const uint8_t* from, int64_t row_bytes, const uint32_t* columns,
                                                 int64_t column_bytes, int64_t tile_words) {
    ZI_TILE_LOAD(4, from, row_bytes);
    ZI_TILE_LOAD(5, columns, column_bytes);
    ZI_TILE_PRODUCT(0, 4, 5);
    if constexpr (C > 1) {
      ZI_TILE_LOAD(6, columns + tile_words, column_bytes);
      ZI_TILE_PRODUCT(1, 4, 6);
    }
    if constexpr (C > 2) {
      ZI_TILE_LOAD(7, columns + 2 * tile_words, column_bytes);
      ZI_TILE_PRODUCT(2, 4, 7);
    }
  }
};

/// Few columns: a tile of rows over all inputs, as they are stored or a few registers of each at a time.
template <int C, class Source, class Fill>
inline void FewColumns(const Source& source, Fill& fill, const ColumnTiles& x, const TileWork& work, const TileSums& sums,
                       float* panel) {
  const int64_t lanes = source.lanes(), steps = (lanes + kWidth - 1) / kWidth;
  const int64_t column_bytes = x.columns() * 4, step_words = kTileRows * x.columns(), tile_words = step_words * x.steps;
  const uint32_t* const columns = x.At(work.first_tile, 0);
  for (int64_t r = 0; r < work.rows; r += kTileRows) {
    const int64_t row = work.row + r;
    RowsAhead next(source.From(row + kTileRows, kTileRows, 0, lanes));
    const int64_t lines = next.lines() / Larger(1, steps) + 1;
    FewTiles<C>::Clear();
    const auto add_steps = [&](const uint8_t* from, int64_t row_bytes, int64_t step_bytes, int64_t step, int64_t count)
                               __attribute__((always_inline)) {
      const uint32_t* at = columns + step * step_words;
      for (; count > 0; --count, from += step_bytes, at += step_words) {
        next.Request(lines);
        FewTiles<C>::Add(from, row_bytes, at, column_bytes, tile_words);
      }
    };
    const auto add = [&](const float* tile, int64_t row_bytes, int64_t step, int64_t count) __attribute__((always_inline)) {
      add_steps(reinterpret_cast<const uint8_t*>(tile), row_bytes, kWidth * 4, step, count);
    };
    const auto add_filled = [&](int64_t first, int64_t end) {
      for (int64_t k = first; k < end; k += kDepth) {
        fill(row, kTileRows, k, panel);
        add(panel, kPitch * 4, k / kWidth, (Smaller(kDepth, end - k) + kWidth - 1) / kWidth);
      }
    };
    RowTiles rows;
    if (source.InPlace(row, 0, rows)) {
      add_steps(rows.data, rows.row_bytes, rows.step_bytes, 0, steps);
    } else if constexpr (requires { fill.Blocks(row, 0, panel, add); }) {
      constexpr int64_t kLanes = kPairDepth / BF16Pairs::kInputs;
      for (int64_t k = 0; k < lanes; k += kLanes) {
        if (!fill.Blocks(row, k * BF16Pairs::kInputs, panel, add)) add_filled(k, Smaller(lanes, k + kLanes));
      }
    } else {
      add_filled(0, lanes);
    }
    FewTiles<C>::Store(sums.At(r / kTileRows, 0), kAmxRows * kWidth);
  }
}

/// Many columns: a block of inputs meets all rows of the task before the next does.
template <class Source, class Fill>
inline void ManyColumns(const Source& source, Fill& fill, const ColumnTiles& x, const TileWork& work, const TileSums& sums,
                        float* panel) {
  const int64_t end = work.row + work.rows, column_bytes = x.columns() * 4, panels = (work.rows + kAmxRows - 1) / kAmxRows;
  for (int64_t k = 0; k < source.lanes(); k += kDepth) {
    const int64_t steps = (Smaller(kDepth, source.lanes() - k) + kWidth - 1) / kWidth;
    for (int64_t row = work.row; row < end; row += kAmxRows) {
      const int64_t count = Smaller(kAmxRows, RoundUp(end - row, kTileRows)), row_tile = (row - work.row) / kTileRows;
      fill(row, count, k, panel);
      const bool below = row + kAmxRows >= end;
      Ahead next = source.From(below ? work.row : row + kAmxRows, kAmxRows, below ? k + kDepth : k, kDepth);
      if (below && k + kDepth >= source.lanes()) next = source.From(end, kAmxRows, 0, kDepth);
      const int64_t lines = next.Lines() / (steps * work.tiles) + 1;
      for (int64_t near = 0; near < steps; near += kNearSteps) {
        const int64_t length = Smaller(kNearSteps, steps - near), step = k / kWidth + near;
        const RowTiles rows{reinterpret_cast<const uint8_t*>(panel + near * kWidth), kPitch * 4, kPitch * 4 * kTileRows, kWidth * 4};
        for (int64_t tile = 0; tile < work.tiles; ++tile) {
          const uint32_t* column = x.At(work.first_tile + tile, step);
          float* to = sums.At(row_tile, tile);
          // Each panel asks for its share of the inputs that come after this block.
          const int64_t share = length * kTileFloats * 4 / panels, far = steps * kTileFloats * 4;
          Ahead inputs{reinterpret_cast<const uint8_t*>(column) + far + row_tile * kTileRows / kAmxRows * share, 1, share, 0};
          if (step + steps >= x.steps) inputs.rows = 0;
          const auto add = [&]<int R>() { AddTiles<R>(rows, column, column_bytes, length, to, next, lines, inputs); };
          if (count == kAmxRows) add.template operator()<4>();
          if (count == 3 * kTileRows) add.template operator()<3>();
          if (count == 2 * kTileRows) add.template operator()<2>();
          if (count == kTileRows) add.template operator()<1>();
        }
      }
    }
  }
}

/// The products of a task, in scratch.
template <class Source>
inline TileSums SumsOf(const Source& source, const ColumnTiles& x, const TileWork& work, float* scratch) {
  const int64_t sum_count = TileSums::Floats(work);
  const TileSums sums(scratch, work);
  float* panel = scratch + sum_count;
  float* more = panel + kAmxRows * kPitch;
  std::memset(scratch, 0, static_cast<size_t>(sum_count) * sizeof(float));
  const int64_t column_bytes = x.columns() * 4;
  source.With(more, work.tiles <= kFewTiles, [&](auto fill) {
    // Tiles of rows are 4, or where there are many columns 4 to 6.
    SetTiles(TileShapes(column_bytes, work.tiles <= kFewTiles ? 4 : 6));
    if (work.tiles == 1) return FewColumns<1>(source, fill, x, work, sums, panel);
    if (work.tiles == 2) return FewColumns<2>(source, fill, x, work, sums, panel);
    if (work.tiles == 3) return FewColumns<3>(source, fill, x, work, sums, panel);
    ManyColumns(source, fill, x, work, sums, panel);
  });
  ReleaseTiles();
  return sums;
}

/// Floats of scratch that SumsOf takes.
template <class Source>
inline int64_t ScratchFloats(const Source& source, const TileWork& work) {
  return TileSums::Floats(work) + kAmxRows * kPitch + source.Floats();
}
template <class Source>
inline TileSums SumsOf(const Source& source, const ColumnTiles& x, const TileWork& work) {
  const size_t bytes = static_cast<size_t>(ScratchFloats(source, work)) * sizeof(float);
  return SumsOf(source, x, work, static_cast<float*>(Scratch(ScratchUse::kTile, bytes)));
}
inline TileSums SumsOf(const StoredTiles& source, const ColumnTiles& x, const TileWork& work) {
  if (!CanBeTurned(source.weight)) return SumsOf<StoredTiles>(source, x, work);
  const int64_t rows = Smaller(work.rows, source.outputs() - work.row);
  const TurnedBytes turned_bytes(source.weight, rows);
  // As many floats as its own weight needs, or another with groups as long.
  const int64_t own = RoundUp(ScratchFloats(source, work), kWidth);
  const size_t bytes = static_cast<size_t>(own * 4 + turned_bytes.all());
  float* scratch = static_cast<float*>(Scratch(ScratchUse::kTile, bytes));
  const Weight turned = TurnedRows(source.weight, work.row, rows, reinterpret_cast<uint8_t*>(scratch + own));
  return SumsOf(StoredTiles{turned}, x, {0, work.rows, work.first_tile, work.tiles}, scratch);
}

/// Calls f(token, row, count, sums) for tokens and rows of the task, counted from its first: up to kTileRows sums each.
template <class F>
inline void ForSums(const ColumnTiles& x, const TileSums& sums, const TileWork& work, int64_t tokens, F f) {
  for (int64_t row = 0; row < work.rows; row += kTileRows) {
    const int64_t count = Smaller(kTileRows, work.rows - row);
    if (x.narrow()) {
      alignas(64) float all[kTileRows];
      for (int64_t t = 0; t < tokens; ++t) {
        const float* parts = sums.At(row / kTileRows, 0) + t * x.parts;
        for (int64_t r = 0; r < kTileRows; ++r) {
          float sum = parts[r * kWidth];
          for (int64_t part = 1; part < x.parts; ++part) sum += parts[r * kWidth + part];
          all[r] = sum;
        }
        f(t, row, count, all);
      }
      continue;
    }
    for (int64_t tile = 0; tile < work.tiles; tile += x.parts) {
      alignas(64) float added[kTileRows][kWidth], turned[kTileRows][kTileRows];
      const float* lanes[kTileRows];
      for (int64_t r = 0; r < kTileRows; ++r) {
        Vec sum = Load(sums.At(row / kTileRows, tile) + r * kWidth);
        for (int64_t part = 1; part < x.parts; ++part) sum = Add(sum, Load(sums.At(row / kTileRows, tile + part) + r * kWidth));
        Store(added[r], sum);
        lanes[r] = added[r];
      }
      Transpose(lanes, turned[0], kTileRows);
      const int64_t first = tile / x.parts * kTileRows;
      for (int64_t t = first; t < Smaller(tokens, first + kTileRows); ++t) f(t, row, count, turned[t - first]);
    }
  }
}

/// How a product is shared: rows and tokens of a task.
struct TileTasks {
  int64_t outputs, tokens, rows;
  TileTasks(int64_t n, int64_t t, bool turned, int64_t threads) : outputs(n), tokens(t), rows(turned ? kAmxRows : kTaskRows) {
    while (rows > kTileRows && outputs * blocks() < rows * 4 * threads) rows /= 2;
  }
  int64_t blocks() const { return (tokens + kAmxTokens - 1) / kAmxTokens; }
  int64_t count() const { return (outputs + rows - 1) / rows * blocks(); }
  int64_t work(int64_t inputs) const { return rows * inputs / kWidth * Smaller(tokens, kAmxTokens) / 2; }

  /// The task-th: calls f(token, row, count, sums) for its tokens.
  template <class Source, class F>
  void Do(const Source& source, const ColumnTiles& x, int64_t task, F f) const {
    const int64_t row = task / blocks() * rows, token = task % blocks() * kAmxTokens;
    const int64_t token_count = Smaller(kAmxTokens, tokens - token);
    const int64_t tiles = x.narrow() ? 1 : (token_count + kTileRows - 1) / kTileRows * x.parts;
    const TileWork part{row, Smaller(rows, outputs - row), token / kTileRows * x.parts, tiles};
    const TileSums sums = SumsOf(source, x, part);
    ForSums(x, sums, part, token_count,
            [&](int64_t t, int64_t r, int64_t count, const float* values) { f(token + t, row + r, count, values); });
  }
};

/// Tokens whose columns take at most kPackedBytes.
inline int64_t SliceTokens(int64_t parts, int64_t inputs) {
  const int64_t token_bytes = Larger(1, StepsOf(inputs)) * kTileRows * 4 * parts;
  return Larger(kAmxTokens, kPackedBytes / token_bytes / kAmxTokens * kAmxTokens);
}

template <class Source>
inline void AmxLinear(const DenseLinearOp& ending, const Source& source, bool turned, int64_t parts, Run& run) {
  const int64_t inputs = ending.x.shape[1], tokens = ending.x.shape[0], slice = SliceTokens(parts, inputs);
  for (int64_t first = 0; first < tokens; first += slice) {
    const int64_t count = Smaller(slice, tokens - first);
    const size_t bytes = static_cast<size_t>(ColumnWords(count, parts, inputs)) * 4;
    const ColumnTiles x{static_cast<uint32_t*>(Scratch(ScratchUse::kOperation, bytes)), count, parts, StepsOf(inputs)};
    PackColumns(x, inputs, [&](int64_t t) { return Row(ending.x, first + t); }, run);
    const TileTasks tasks(source.outputs(), count, turned, run.pool.threads());
    ForEach(run, tasks.count(), tasks.work(inputs), [&](int64_t task) {
      tasks.Do(source, x, task, [&](int64_t t, int64_t row, int64_t rows, const float* sums) {
        FinishRow(ending, first + t, row, rows, sums);
      });
    });
  }
}

}  // namespace zi::amx
