// Implements cuda/scratch_needs.h.
#include "cuda/scratch_needs.h"

#include <algorithm>
#include <initializer_list>

#include "cuda/sample_scratch.h"
#include "cuda/shapes.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

size_t PackedBytes(const View& matrix, DType type) {
  return static_cast<size_t>(matrix.shape[0] * PackedStride(matrix.shape[1]) * ElementBytes(type));
}

ScratchBytes Needs(const DenseLinearOp& op) {
  ScratchBytes needs;
  switch (WayOf(op)) {
    case LinearWay::kNothing:
    case LinearWay::kPlain:
    case LinearWay::kFew:
    case LinearWay::kByEights:
      return needs;
    case LinearWay::kFewConverted:
      needs[ScratchUse::kInputs] = PackedBytes(op.x, DType::kF32);
      return needs;
    case LinearWay::kLibrary:
      break;
  }
  const LibraryProduct product = LibraryProductOf(op);
  const DType type = op.weight.dtype;
  if (product.converts) needs[ScratchUse::kInputs] = PackedBytes(op.x, type);
  if (product.exact) needs[ScratchUse::kRests] = PackedBytes(op.x, type);
  if (product.apart) needs[ScratchUse::kSums] = PackedBytes(op.out, DType::kF32);
  if (product.converts_bias) {
    needs[ScratchUse::kBias] = static_cast<size_t>(op.bias.shape[0] * ElementBytes(op.out.dtype));
  }
  return needs;
}

/// Choices that are grouped by expert, whose weights are multiplied as values of `type`.
template <class Op>
ScratchBytes TileNeeds(const Op& op, DType type, const ExpertTiling& tiling) {
  ScratchBytes needs;
  if (tiling.packs) needs[ScratchUse::kInputs] = PackedBytes(op.x, type);
  if (tiling.exact) needs[ScratchUse::kRests] = PackedBytes(op.x, type);
  needs[ScratchUse::kChoices] = ChoicesBytes(op.out.shape[0]) + static_cast<size_t>(tiling.tiles) * kTileBytes;
  return needs;
}

ScratchBytes Needs(const DenseExpertLinearOp& op) {
  ScratchBytes needs;
  const DType x = op.x.dtype, w = op.weight.dtype;
  if (op.out.shape[0] == 0 || op.weight.shape[0] == 0) return needs;
  if (const auto tiling = TilingOf(op)) return TileNeeds(op, w, *tiling);
  if (x != w && x != DType::kF32) needs[ScratchUse::kInputs] = PackedBytes(op.x, DType::kF32);
  return needs;
}

ScratchBytes StoredNeeds(const ExpertLinearOp& op) {
  ScratchBytes needs;
  if (op.out.shape[0] == 0 || op.weight.outputs == 0) return needs;
  const auto tiling = TilingOf(op);
  if (!tiling) {
    if (op.x.dtype != DType::kF32) needs[ScratchUse::kInputs] = PackedBytes(op.x, DType::kF32);
    return needs;
  }
  needs = TileNeeds(op, op.weight.type, *tiling);
  if (!tiling->slabs) return needs;
  needs[ScratchUse::kChoices] += static_cast<size_t>(op.expert_count) * sizeof(int32_t);
  needs[ScratchUse::kWeights] = SlabBytes(op.weight, *tiling);
  return needs;
}

ScratchBytes Needs(const LinearOp& op) {
  if (op.weight.dense()) return Needs(DenseOf(op));
  ScratchBytes needs;
  switch (StoredWayOf(op)) {
    case StoredWay::kNothing:
    case StoredWay::kCores:
    case StoredWay::kDots:
      return needs;
    case StoredWay::kDotsConverted:
      needs[ScratchUse::kInputs] = PackedBytes(op.x, DType::kF32);
      return needs;
    case StoredWay::kSlabs:
      break;
  }
  // The last slab may have fewer rows, and go another way.
  const int64_t rows = SlabRows(op.weight), last = (op.weight.outputs - 1) % rows + 1;
  needs = Needs(SlabOf(op, 0, rows, nullptr));
  needs.TakeIn(Needs(SlabOf(op, op.weight.outputs - last, last, nullptr)));
  needs[ScratchUse::kWeights] = SlabBytes(op.weight);
  if (SomeKindOf(op)) {
    needs[ScratchUse::kInputs] = std::max(needs[ScratchUse::kInputs], PlacedBytes(op));
    needs[ScratchUse::kPartials] = SomePartBytes(op);
  }
  return needs;
}

ScratchBytes Needs(const ExpertLinearOp& op) {
  return op.weight.format == WeightFormat::kDense ? Needs(DenseOf(op)) : StoredNeeds(op);
}

ScratchBytes Needs(const HeadLinearOp& op) {
  ScratchBytes needs;
  const int64_t tokens = op.x.shape[0], heads = op.x.shape[1];
  if (tokens == 0 || heads == 0 || op.out.shape[2] == 0) return needs;
  const View values = op.weight.dense() ? op.weight.Part(WeightPart::kCodes) : ExpandedHeads(op.weight, nullptr);
  if (tokens > kFewHeadTokens && op.x.shape[2] > 0) {
    for (int64_t head = 0; head < heads; ++head) needs.TakeIn(Needs(HeadOf(op, values, head)));
  }
  if (!op.weight.dense()) needs[ScratchUse::kWeights] = ExpandedBytes(values);
  return needs;
}

ScratchBytes Needs(const AttentionOp& op) {
  ScratchBytes needs;
  if (op.q.shape[0] == 0 || op.q.shape[1] == 0 || op.out.shape[2] == 0) return needs;
  const AttentionWay way = WayOf(op);
  const int64_t parts = way.wide && way.wide->few ? WideParts(op, way) : way.blocks * way.splits;
  // A maximum, a sum, and the values of a head.
  const int64_t values = parts * (2 + op.out.shape[2]);
  if (way.splits > 1) needs[ScratchUse::kPartials] = static_cast<size_t>(values) * sizeof(float);
  return needs;
}

ScratchBytes Needs(const SampleOp& op) {
  ScratchBytes needs;
  needs[ScratchUse::kPartials] = SampleScratch::Bytes(op.logits.shape[0], op.logits.shape[1]);
  return needs;
}

ScratchBytes Needs(const StateScanOp& op) {
  ScratchBytes needs;
  const ScanWay way = WayOf(op);
  if (way.chunks) needs[ScratchUse::kPartials] = static_cast<size_t>(way.each * op.v.shape[1] * way.chunk_bytes);
  return needs;
}

template <class Op>
ScratchBytes Needs(const Op&) {
  return {};
}

/// With that many times the rows.
template <class... Views>
void Repeat(int64_t rows, Views&... views) {
  ((views.shape[0] *= rows), ...);
}

ScratchBytes Most(const LinearOp& one, int64_t rows, int64_t) {
  ScratchBytes most;
  for (const int64_t some : {std::min(rows, kFewTokens), std::min(rows, kSomeTokens), rows}) {
    LinearOp op = one;
    Repeat(some, op.x, op.out);
    // Where operands will lie is not known: as badly as they can.
    if (op.bias.data) op.bias.data += 1;
    if (!op.weight.dense()) op.x.data += 1;
    most.TakeIn(Needs(op));
  }
  return most;
}

ScratchBytes Most(const ExpertLinearOp& one, int64_t rows, int64_t) {
  ScratchBytes most;
  const int64_t each = one.out.shape[0], experts = one.expert_count;
  if (each == 0) return most;
  for (const int64_t choices : {MostFewChoices(experts), MostChoicesOfTiles(16, experts), MostChoicesOfTiles(32, experts),
                                MostChoicesOfTiles(64, experts), rows * each}) {
    ExpertLinearOp op = one;
    Repeat(std::min(rows, choices / each), op.x, op.out, op.experts);
    most.TakeIn(Needs(op));
  }
  return most;
}

ScratchBytes Most(const HeadLinearOp& one, int64_t rows, int64_t) {
  HeadLinearOp op = one;
  Repeat(rows, op.x, op.out);
  // Where operands will lie is not known: as badly as they can.
  op.x.data += 1;
  return Needs(op);
}

ScratchBytes Most(const AttentionOp& one, int64_t rows, int64_t context_tokens) {
  ScratchBytes most;
  const int64_t heads = one.q.shape[1], most_blocks = kEnoughBlocks - 1;
  if (heads == 0) return most;
  const auto add = [&](int64_t tokens, int64_t sequences) {
    AttentionOp op = one;
    Repeat(tokens, op.q, op.out, op.positions);
    op.sequences.shape[0] = sequences;
    // Where operands will lie is not known: here as badly as they can.
    op.keys.data += 1;
    op.max_context = std::min(context_tokens, kMostGridRows * kSplitTokens);
    most.TakeIn(Needs(op));
  };
  // A block for each token of as many sequences, and for some tokens of each where others have more.
  const int64_t alone = std::min(rows, most_blocks / heads);
  add(alone, alone);
  add(rows, std::min(rows - 1, most_blocks / ((kTileTokens - 1) * heads)));
  // And as well as they can.
  AttentionOp op = one;
  Repeat(rows, op.q, op.out, op.positions);
  op.sequences.shape[0] = rows;
  op.max_context = context_tokens;
  op.keys.data = op.values.data = reinterpret_cast<uint8_t*>(uintptr_t{256});
  ScratchBytes wide;
  wide[ScratchUse::kPartials] = MostWidePartBytes(op);
  most.TakeIn(wide);
  return most;
}

ScratchBytes Most(const SampleOp& one, int64_t rows, int64_t) {
  SampleOp op = one;
  Repeat(rows, op.logits);
  return Needs(op);
}

ScratchBytes Most(const StateScanOp& one, int64_t rows, int64_t) {
  StateScanOp op = one;
  Repeat(rows, op.out, op.q, op.k, op.v, op.step);
  if (op.beta.data) Repeat(rows, op.beta);
  // Where operands will lie is not known: here as well as they can.
  for (View* view : {&op.q, &op.k, &op.v, &op.out, &op.state}) view->data = reinterpret_cast<uint8_t*>(uintptr_t{256});
  // Every sequence may have a number more, and one has two tokens at least. Rounds are evened out, so that as many as fit are the most.
  const ScanWay way = WayOf(op);
  ScratchBytes most;
  if (!way.chunks) return most;
  const int64_t chunk = op.v.shape[1] * way.chunk_bytes, numbers = rows / kScanChunkTokens + rows - 1;
  most[ScratchUse::kPartials] = static_cast<size_t>(std::min(numbers, std::max(kScanScratchBytes / chunk, int64_t{1})) * chunk);
  return most;
}

template <class Op>
ScratchBytes Most(const Op&, int64_t, int64_t) {
  return {};
}

}  // namespace

void ScratchBytes::TakeIn(const ScratchBytes& other) {
  for (size_t i = 0; i < kScratchUses; ++i) bytes_[i] = std::max(bytes_[i], other.bytes_[i]);
}

size_t SlabBytes(const Weight& weight, const ExpertTiling& tiling) {
  return static_cast<size_t>(tiling.slab_experts * tiling.slab_rows * weight.inputs * ElementBytes(weight.type));
}

ScratchBytes ScratchOf(const Operation& operation) {
  return std::visit([](const auto& op) { return Needs(op); }, operation);
}

ScratchBytes MostScratchOf(const Operation& operation, int64_t rows, int64_t context_tokens) {
  return std::visit([&](const auto& op) { return Most(op, rows, context_tokens); }, operation);
}

}  // namespace zi::cuda
