// Implements cuda/ways.h and cuda/ways_some.h.
#include "cuda/ways.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/shapes.h"

namespace zi::cuda {
namespace {

/// A product of f32 inputs with this few outputs is small beside the others, and may be a mixture's router, whose
/// nearly even choices must not hang on rounding: it is computed in full precision.
constexpr int64_t kFewOutputs = 256;
/// Up to so many of its tokens eight at a time meet weights that the L2 cache has.
constexpr int64_t kMostByEights = 1024;

/// Rows of slabs are multiples of this, so that biases and results stay as well aligned as they are.
constexpr int64_t kSlabStep = 128;
/// Inputs that kernels on tensor cores count in 32 bits.
constexpr int64_t kMostCoreInputs = int64_t{1} << 28;

std::optional<FragmentKind> ValuesOf(const Weight& dense) {
  const bool eights = dense.inputs % 8 == 0 && RowsAligned(dense.Part(WeightPart::kCodes), 16);
  if (!IsHalf(dense.type) || !eights || dense.inputs > kMostCoreInputs) return std::nullopt;
  return FragmentKind::kValues;
}

}  // namespace

void UnknownType(DType dtype) {
  throw std::invalid_argument("no kernel of this operation takes type " + std::to_string(static_cast<int>(dtype)));
}

bool IsHalf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
    case DType::kBF16:
      return true;
    case DType::kF32:
      return false;
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(dtype);
}

void UnknownFormat(WeightFormat format) {
  throw std::invalid_argument(std::string("no kernel of this operation takes weights in ") +
                              kWeightFormatNames[static_cast<int>(format)]);
}

bool IsFewTokens(const DenseLinearOp& op) {
  return op.x.shape[0] <= kFewTokens && op.x.shape[1] > 0 && !op.input_major;
}

bool IsFewTokens(const LinearOp& op) {
  const Weight& w = op.weight;
  if (w.dense()) return IsFewTokens(DenseOf(op));
  // Where rows lie side by side, few of them are few blocks that each go through all inputs: on an H200 one token meets
  // 4096 × 16384 in 355 µs, and some 200 are enough to make values of it first.
  if (ExpandsInputMajor(w.format) && w.outputs < 3 * w.inputs) return false;
  return op.x.shape[0] <= kFewTokens && op.x.shape[1] > 0;
}

std::optional<FragmentKind> FragmentsOf(const LinearOp& op) {
  if (op.x.dtype != op.weight.type || !RowsAligned(op.x, 16)) return std::nullopt;
  if (op.weight.format == WeightFormat::kDense) return ValuesOf(op.weight);
  return FragmentsOf(op.weight);
}

std::optional<FragmentKind> FragmentsOf(const Weight& w) {
  if (!IsHalf(w.type)) return std::nullopt;
  if (w.product != DType::kF32 && w.product != w.type) return std::nullopt;
  if (w.Part(WeightPart::kGroups).data || !RowsAligned(w.Part(WeightPart::kCodes), 16)) return std::nullopt;
  const DType scale = w.Part(WeightPart::kScales).dtype;
  int inputs = 0;  // of 16 bytes of codes
  FragmentKind kind{};
  switch (w.format) {
    case WeightFormat::kE4M3:
      inputs = 16, kind = FragmentKind::kE4M3;
      break;
    case WeightFormat::kInt8:
      inputs = 16, kind = FragmentKind::kInt8;
      break;
    case WeightFormat::kPacked8:
      inputs = 16, kind = FragmentKind::kPacked8;
      break;
    case WeightFormat::kPacked4:
      inputs = 32, kind = w.product == w.type && scale == w.type ? FragmentKind::kPacked4Exact : FragmentKind::kPacked4;
      break;
    case WeightFormat::kFp4:
      inputs = 32, kind = FragmentKind::kFp4;
      break;
    case WeightFormat::kDense:
    case WeightFormat::kDenseIn:
    case WeightFormat::kTable4:
    case WeightFormat::kAwq:
    case WeightFormat::kGptq:
    case WeightFormat::kE4M3In:
      return std::nullopt;
  }
  if (w.factor != 1.0f && (kind != FragmentKind::kInt8 || w.product != DType::kF32)) return std::nullopt;
  if (w.inputs % inputs != 0 || w.inputs > kMostCoreInputs) return std::nullopt;
  const int64_t shared = kind == FragmentKind::kFp4 ? 16 : inputs;
  const bool all = w.input_group >= w.inputs, whole = w.input_group % shared == 0;
  if (!all && (!whole || (w.input_group & (w.input_group - 1)) != 0)) return std::nullopt;
  return kind;
}

StoredWay StoredWayOf(const LinearOp& op) {
  if (op.x.shape[0] == 0 || op.out.shape[1] == 0) return StoredWay::kNothing;
  if (!IsFewTokens(op)) return StoredWay::kSlabs;
  if (FragmentsOf(op)) return StoredWay::kCores;
  return op.x.dtype == DType::kF32 ? StoredWay::kDots : StoredWay::kDotsConverted;
}

int GroupShift(const Weight& weight) {
  int shift = 0;
  while (shift < 31 && int64_t{1} << shift < std::min(weight.input_group, weight.inputs)) ++shift;
  return shift;
}

bool ExpandsInputMajor(WeightFormat format) {
  switch (format) {
    case WeightFormat::kAwq:
    case WeightFormat::kGptq:
    case WeightFormat::kDenseIn:
    case WeightFormat::kE4M3In:
      return true;
    case WeightFormat::kDense:
    case WeightFormat::kE4M3:
    case WeightFormat::kInt8:
    case WeightFormat::kPacked8:
    case WeightFormat::kPacked4:
    case WeightFormat::kFp4:
    case WeightFormat::kTable4:
      return false;
  }
  UnknownFormat(format);
}

int64_t SlabRows(const Weight& weight) {
  const int64_t row_bytes = std::max<int64_t>(weight.inputs, 1) * ElementBytes(weight.type);
  return std::min(weight.outputs, std::max<int64_t>(kSlabBytes / row_bytes / kSlabStep, 1) * kSlabStep);
}

DenseLinearOp SlabOf(const LinearOp& op, int64_t first, int64_t rows, uint8_t* values) {
  const Weight& w = op.weight;
  const auto part = [first](View view, int dimension, int64_t count) {
    view.data += first * ElementBytes(view.dtype);
    view.shape[dimension] = count;
    return view;
  };
  DenseLinearOp slab{};
  slab.x = op.x;
  slab.out = part(op.out, 1, rows);
  if (op.bias.data) slab.bias = part(op.bias, 0, rows);
  slab.input_major = ExpandsInputMajor(w.format);
  const int64_t down = slab.input_major ? w.inputs : rows, across = slab.input_major ? rows : w.inputs;
  slab.weight = {values, w.type, 2, {down, across}, {(across + 7) / 8 * 8, 1}};
  slab.activation = op.activation;
  slab.accumulate = op.accumulate;
  return slab;
}

size_t SlabBytes(const Weight& weight) {
  const View values = SlabOf(LinearOp{View{}, View{}, weight, View{}, Activation::kNone, false}, 0, SlabRows(weight), nullptr).weight;
  return static_cast<size_t>(values.shape[0] * values.strides[0] * ElementBytes(values.dtype));
}

bool HeadsInputMajor(const Weight& weight) {
  return weight.dense() ? weight.format == WeightFormat::kDenseIn : ExpandsInputMajor(weight.format);
}

View ExpandedHeads(const Weight& weight, uint8_t* values) {
  return SlabOf(LinearOp{View{}, View{}, weight, View{}, Activation::kNone, false}, 0, weight.outputs, values).weight;
}

size_t ExpandedBytes(const View& values) {
  return static_cast<size_t>(values.shape[0] * values.strides[0] * ElementBytes(values.dtype));
}

DenseLinearOp HeadOf(const HeadLinearOp& op, const View& values, int64_t head) {
  const auto part = [head](const View& view) {
    View one = view;
    one.rank = 2;
    one.shape[1] = view.shape[2], one.strides[1] = 1;
    one.data += head * view.strides[1] * ElementBytes(view.dtype);
    return one;
  };
  DenseLinearOp product{part(op.out), part(op.x), values, View{}, false, Activation::kNone, false};
  const bool input_major = HeadsInputMajor(op.weight);
  const int64_t first = head * op.head_rows + op.first_row, rows = (op.transposed ? op.x : op.out).shape[2];
  product.weight.data += first * (input_major ? 1 : values.strides[0]) * ElementBytes(values.dtype);
  product.weight.shape[input_major ? 1 : 0] = rows;
  // The transpose of rows is a weight that is stored the other way.
  product.input_major = input_major != op.transposed;
  return product;
}

LinearWay WayOf(const DenseLinearOp& op) {
  const int64_t tokens = op.x.shape[0], outputs = op.out.shape[1], inputs = op.x.shape[1];
  const DType x = op.x.dtype, w = op.weight.dtype;
  if (tokens == 0 || outputs == 0) return LinearWay::kNothing;
  if (inputs == 0) return LinearWay::kPlain;
  if (IsFewTokens(op)) return x == w || x == DType::kF32 ? LinearWay::kFew : LinearWay::kFewConverted;
  if (x == DType::kF32 && w != DType::kF32 && outputs <= kFewOutputs) {
    return tokens <= kMostByEights && !op.input_major ? LinearWay::kByEights : LinearWay::kPlain;
  }
  return LinearWay::kLibrary;
}

LibraryProduct LibraryProductOf(const DenseLinearOp& op) {
  const DType type = op.weight.dtype, out = op.out.dtype;
  LibraryProduct product{};
  product.converts = op.x.dtype != type;
  product.apart = (op.accumulate && op.activation != Activation::kNone) || (out != DType::kF32 && out != type);
  const bool writes_floats = product.apart || out == DType::kF32;
  product.exact = op.x.dtype == DType::kF32 && type != DType::kF32 && writes_floats;
  product.converts_bias = !product.apart && op.bias.data &&
                          (op.bias.dtype != out || reinterpret_cast<uintptr_t>(op.bias.data) % 16 != 0);
  return product;
}

int64_t WiderHead(const AttentionOp& op) { return std::max(op.q.shape[2], op.out.shape[2]); }

namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Whether eight neighbours of a cache become values of 16 bits by themselves: codes of one scale, or the other such type.
bool EightsExpand(const View& cached, const View& scales, int64_t depth) {
  switch (cached.dtype) {
    case DType::kF16:
    case DType::kBF16:
      return RowsAligned(cached, 16);
    case DType::kI8:
    case DType::kE4M3:
      return RowsAligned(cached, 8) && depth / scales.shape[3] % 8 == 0;
    case DType::kU8:
      return RowsAligned(cached, 4) && depth / scales.shape[3] % 8 == 0;
    case DType::kF32:
    case DType::kI32:
    case DType::kE8M0:
      return false;
  }
  UnknownType(cached.dtype);
}

/// None where tensor cores do not take heads as they are or lie. What is f32 is two halves of 16 bits there.
std::optional<WideTiling> WideTilingOf(const AttentionOp& op) {
  const int64_t depth = op.q.shape[2], value_depth = op.out.shape[2], heads = op.q.shape[1], kv_heads = op.keys.shape[1];
  const bool exact = op.q.dtype == DType::kF32, half = op.keys.dtype == DType::kF16 || op.keys.dtype == DType::kBF16;
  const bool expands = !exact && op.keys.dtype != op.q.dtype;
  if (exact && op.keys.dtype != op.q.dtype && !half) return std::nullopt;
  if (WiderHead(op) <= kHalfTileDepth || depth > kWideDepth || value_depth > kWideValueDepth) return std::nullopt;
  if (depth % 8 != 0 || value_depth % 8 != 0 || heads % kv_heads != 0) return std::nullopt;
  if (expands && !(EightsExpand(op.keys, op.key_scales, depth) && EightsExpand(op.values, op.value_scales, value_depth))) return std::nullopt;
  if (!expands && (!RowsAligned(op.keys, 16) || !RowsAligned(op.values, 16))) return std::nullopt;
  WideTiling tiling{};
  tiling.halves = exact ? 2 : 1;
  const int64_t group = heads / kv_heads, rows = kWideRows / tiling.halves;
  tiling.head_tiles = CeilDiv(group, rows);
  tiling.heads = CeilDiv(group, tiling.head_tiles);
  tiling.tokens = tiling.head_tiles > 1 ? 1 : rows / group;
  tiling.few = group >= kFewestWideHeads;
  return tiling;
}

/// Parts of one tile, over all heads, and what one takes: a maximum, a sum, and the values of a head.
int64_t PartsOfTile(const AttentionOp& op, const WideTiling& tiling, int64_t splits) {
  return op.keys.shape[1] * tiling.head_tiles * kWideRows / tiling.halves * splits;
}
int64_t PartBytes(const AttentionOp& op) { return (2 + op.out.shape[2]) * static_cast<int64_t>(sizeof(float)); }
int64_t TilesAtOnce(int64_t tile_bytes, int64_t tiles) { return std::max<int64_t>(1, std::min(kWidePartBytes / tile_bytes, tiles)); }
int64_t WideSplits(int64_t context) { return std::clamp<int64_t>(CeilDiv(context, kWideSplitTokens), 1, kMostGridRows); }

/// Tiles for sequences with up to `way.most_tokens` new tokens.
void CountWideTiles(const AttentionOp& op, AttentionWay& way) {
  const int64_t tokens = op.q.shape[0], sequences = op.sequences.shape[0], each = way.wide->tokens;
  way.blocks = each > 1 ? tokens / each + sequences : tokens;
  if (way.by_sequence) way.blocks = sequences * CeilDiv(way.most_tokens, each);
  way.splits = WideSplits(op.max_context);
  way.wide->at_once = way.splits == 1 ? way.blocks : TilesAtOnce(PartsOfTile(op, *way.wide, way.splits) * PartBytes(op), way.blocks);
}

}  // namespace

int64_t WideParts(const AttentionOp& op, const AttentionWay& way) {
  return way.wide->at_once * PartsOfTile(op, *way.wide, way.splits);
}

size_t MostWidePartBytes(const AttentionOp& op) {
  const auto tiling = WideTilingOf(op);
  if (!tiling || !tiling->few) return 0;
  const int64_t rows = op.q.shape[0], each = tiling->tokens;
  int64_t most = 0, tiles = each > 1 ? rows / each + rows : rows;
  if (rows >= kTileTokens) tiles = std::max(tiles, (rows - 1) * CeilDiv(kTileTokens - 1, each));
  // As many tiles as there is memory for may take less of it where each takes more.
  for (int64_t splits = 2; splits <= WideSplits(op.max_context); ++splits) {
    const int64_t tile_bytes = PartsOfTile(op, *tiling, splits) * PartBytes(op);
    most = std::max(most, TilesAtOnce(tile_bytes, tiles) * tile_bytes);
  }
  return static_cast<size_t>(most);
}

AttentionWay RowsOf(const AttentionOp& op) {
  return {false, op.q.shape[0], false, op.q.shape[0] * op.q.shape[1], 1, std::nullopt};
}

AttentionWay WayOf(const AttentionOp& op) {
  const int64_t tokens = op.q.shape[0], heads = op.q.shape[1], depth = WiderHead(op), sequences = op.sequences.shape[0];
  AttentionWay way{};
  way.wide = WideTilingOf(op);
  const bool fits = way.wide || depth <= (IsHalf(op.q.dtype) ? kHalfTileDepth : kFloatTileDepth);
  way.tiles = fits && tokens >= kTileTokens && tokens > sequences;
  way.most_tokens = way.tiles ? kTileTokens - 1 : tokens;
  way.by_sequence = way.most_tokens < tokens;
  if (way.wide && way.wide->few) {
    CountWideTiles(op, way);
    return way;
  }
  way.blocks = (way.by_sequence ? sequences * way.most_tokens : tokens) * heads;
  way.splits = CeilDiv(op.max_context, kSplitTokens);
  if (way.splits <= 1 || way.blocks >= kEnoughBlocks || way.splits > kMostGridRows) way.splits = 1;
  return way;
}

}  // namespace zi::cuda
