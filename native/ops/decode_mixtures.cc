// Reads and checks the operations of mixtures of experts: the choice, products with chosen experts, their gates and their sum.
#include <algorithm>
#include <iterator>

#include "core/io_pieces.h"
#include "ops/decode_parts.h"
#include "ops/exchange.h"

namespace zi {
namespace {

RouteScore ReadScore(WordReader& in) {
  const uint64_t value = in.Size("score");
  in.Check(value < std::size(kRouteScoreNames), "unknown score of experts");
  return static_cast<RouteScore>(value);
}

void CheckPieces(const Reader& in, const IoPieces& files, int64_t first, int64_t experts) {
  const auto count = static_cast<int64_t>(files.count());
  in.Check(first >= 0 && first <= count && experts <= count - first, "files have no pieces for all experts");
}

/// The first slot and the last lie in memory, and so do those between them.
void CheckSlots(const Reader& in, const ExpertLinearOp& op, const ExpertParts& parts, int64_t places) {
  constexpr int64_t kMost = int64_t{1} << 24;
  in.Check(places == 2, "of experts in slots the first place and the last are given");
  in.Check(op.slot_count > 0 && op.slot_count < kMost, "there must be a slot");
  in.Check(op.slot_bytes > 0 && op.slot_bytes % 16 == 0 && op.slot_bytes < (int64_t{1} << 40), "slots lie at multiples of 16 bytes");
  in.Check(op.expert_count <= kMostExpertsInSlots, "more experts than kernels sort");
  in.Check(parts.nested_offsets.empty(), "experts with nested scales have no slots");
  for (const auto& place : parts.places) {
    if (place.empty()) continue;
    in.Check(place[0] && place[1], "experts in slots have all parts");
    in.Check(place[1] - place[0] == (op.slot_count - 1) * op.slot_bytes, "slots are equal");
  }
}

/// Every part of the weight has a column of places, and every expert a row and a piece.
void CheckFiles(const Reader& in, const ExpertLinearOp& op) {
  in.Check((op.files != nullptr) == (op.places.data != nullptr), "experts of files have places in their slots");
  if (!op.files) return;
  in.Check(op.in_slots(), "experts of files lie in slots");
  const auto parts = static_cast<int64_t>(std::count_if(std::begin(op.parts), std::end(op.parts), [](auto* part) { return part != nullptr; }));
  in.CheckSize(op.places, 0, 1 + op.expert_count, "slots.files.places");
  in.Check(op.first_part <= op.places.shape[1] / 2 && parts <= op.places.shape[1] / 2 - op.first_part, "parts have no places");
  CheckPieces(in, *op.files, op.first_piece, op.expert_count);
}

}  // namespace

Operation Route(Reader& in) {
  RouteOp op{in.IndexTable("experts"),
             in.Floats("weights", 2),
             in.Floats("logits", 2),
             in.OptionalWeight("bias"),
             in.OptionalWeight("expertScale"),
             in.OptionalIndexWeight("table"),
             in.OptionalIndex("rows"),
             ReadScore(in),
             static_cast<int64_t>(in.Size("groups")),
             static_cast<int64_t>(in.Size("groupsKept")),
             static_cast<int64_t>(in.Size("groupBest")),
             in.Flag(),
             in.Number(),
             in.Number(),
             in.Number(),
             in.Number()};
  const int64_t experts = op.logits.shape[1], choices = op.experts.shape[1];
  CheckSameShape(in, op.weights, op.experts, "weights");
  in.CheckSize(op.logits, 0, op.experts.shape[0], "logits");
  in.Check(choices <= experts, "more choices than experts");
  CheckInnermost(in, op.bias, op.logits, "bias");
  CheckInnermost(in, op.expert_scale, op.logits, "expertScale");
  in.Check((op.table.data != nullptr) == (op.rows.data != nullptr), "a table is read by rows, and without one there are none");
  if (op.table.data) {
    in.CheckSize(op.rows, 0, op.logits.shape[0], "rows");
    in.Check(choices > 0 && op.table.shape[1] >= choices && op.table.shape[1] % choices == 0,
             "a row of the table names as many experts as are chosen");
  }
  in.Check(op.groups > 0 && experts % op.groups == 0, "groups must be of one size");
  in.Check(op.groups_kept > 0 && op.groups_kept <= op.groups, "more groups are kept than there are");
  in.Check(op.group_best == 1 || op.group_best == 2, "a group is as good as its best expert, or its best two");
  in.Check(op.groups == 1 || op.group_best <= experts / op.groups, "groups have fewer experts than count for them");
  return op;
}

Operation ExpertLinear(Reader& in) {
  ExpertLinearOp op{in.Activation("out", 2), in.Activation("x", 2), in.IndexTable("experts"), {}, {}, 0, nullptr, {}, 0, 0};
  op.slots = in.OptionalIndex("slots");
  op.slot_count = static_cast<int64_t>(in.Size("slots"));
  op.slot_bytes = static_cast<int64_t>(in.Size("slots"));
  op.places = in.OptionalIndexWeight("slots.files.places");
  op.first_part = static_cast<int64_t>(in.Size("slots.files.firstPart"));
  op.first_piece = static_cast<int64_t>(in.Size("slots.files.firstPiece"));
  in.files = in.Pieces("slots.files.pieces");
  op.files = in.files.get();
  const auto places = static_cast<int64_t>(in.Size("experts"));
  op.expert_count = op.in_slots() ? op.slots.shape[0] : places;
  in.Check(op.expert_count > 0, "there must be an expert");
  op.weight = ReadWeight(in, "weight");
  const auto parts = std::make_shared<ExpertParts>(ReadExperts(in, op.weight, places, "weight"));
  if (op.in_slots()) CheckSlots(in, op, *parts, places);
  for (int part = 0; part < kWeightParts; ++part) {
    if (!parts->places[part].empty()) op.parts[part] = parts->places[part].data();
  }
  if (!parts->nested_offsets.empty()) op.nested_offsets = parts->nested_offsets.data();
  CheckFiles(in, op);
  in.experts = parts;
  const int64_t tokens = op.experts.shape[0], choices = tokens * op.experts.shape[1];
  in.CheckSize(op.out, 0, choices, "out");
  in.CheckSize(op.out, 1, op.weight.outputs, "out");
  in.CheckSize(op.x, 0, op.x.shape[0] == tokens ? tokens : choices, "x");
  in.CheckSize(op.x, 1, op.weight.inputs, "x");
  return op;
}

Operation BringExperts(Reader& in) {
  BringExpertsOp op{in.IndexTable("experts"), in.ByteRows("slots", 2),  in.OptionalBytes("home"), in.IndexTable("places"),
                    in.Index("slotOf"),       in.Index("uses"),      in.Index("keyOf"),   in.Index("stamps"),
                    in.Index("calls"),        in.Index("counts"),    in.Index("list"),    static_cast<int64_t>(in.Size("firstKey")),
                    static_cast<int64_t>(in.Size("ageCalls")), {}, nullptr, {}};
  op.aside = ReadAside(in, op.experts);
  in.files = in.Pieces("files");
  op.files = in.files.get();
  op.behind = ReadHostSlots(in);
  const int64_t experts = op.expert_count(), slots = op.slots.shape[0], choices = op.experts.shape[0] * op.experts.shape[1];
  in.Check(experts > 0 && experts <= kMostExpertsInSlots, "there are 1 to 1024 experts");
  in.Check(op.places.shape[1] > 0 && op.places.shape[1] % 2 == 0 && op.places.strides[0] == op.places.shape[1],
           "an expert has two words for each of its parts");
  in.Check(slots >= std::min(experts, choices), "there are fewer slots than experts may be chosen");
  in.Check(slots < (int64_t{1} << 24) && op.slots.shape[1] % 16 == 0 && op.slots.strides[0] == op.slots.shape[1],
           "slots follow each other at multiples of 16 bytes");
  in.Check(op.first_key >= 0 && op.first_key + experts <= op.slot_of.shape[0], "the layer has experts that no table knows");
  in.Check(op.age_calls > 0, "uses are halved after some calls");
  const int homes = (op.home.data != nullptr) + (op.files != nullptr) + (op.behind.slots.data != nullptr);
  in.Check(homes == 1, "experts have one home");
  in.Check(!op.behind || !op.aside, "the host computes experts of layers that rest in its memory");
  if (op.behind) {
    in.Check(op.behind.asked.shape[0] >= kAskedHead + kAskedEach * experts, "what is asked has room for every expert");
    in.Check(op.behind.found.shape[0] >= experts && op.behind.found.shape[1] >= kFoundHead + op.places.shape[1],
             "what is found has room for every expert and its parts");
  }
  if (op.files) {
    CheckPieces(in, *op.files, op.first_key, experts);
    const HostMemory& memory = op.files->memory();
    in.Check(op.slots.data >= memory.data() && op.slots.data + slots * op.slots.shape[1] <= memory.data() + memory.size(),
             "slots lie elsewhere than files are read into");
  }
  in.CheckSize(op.uses, 0, op.slot_of.shape[0], "uses");
  in.CheckSize(op.key_of, 0, slots, "keyOf");
  in.CheckSize(op.stamps, 0, slots, "stamps");
  in.CheckSize(op.calls, 0, 1, "calls");
  in.CheckSize(op.counts, 0, 3, "counts");
  in.Check(op.list.shape[0] >= 1 + 2 * experts, "the list has room for every expert");
  return op;
}

Operation ExpertBias(Reader& in) {
  ExpertBiasOp op{in.Activation("x", 2), in.IndexTable("experts"), in.Weight("bias", 2)};
  in.CheckSize(op.x, 0, op.experts.shape[0] * op.experts.shape[1], "x");
  in.CheckSize(op.bias, 1, op.x.shape[1], "bias");
  return op;
}

Operation GatedPairs(Reader& in) {
  GatedPairsOp op{in.Activation("out", 2), in.Activation("x", 2), in.Number(), in.Number()};
  in.CheckSize(op.x, 0, op.out.shape[0], "x");
  in.CheckSize(op.x, 1, 2 * op.out.shape[1], "x");
  return op;
}

Operation GateSigmoid(Reader& in) {
  GateSigmoidOp op{in.Activation("x", 0), in.Activation("gate", 0)};
  in.Check(op.gate.rank == op.x.rank, "operands differ in their number of dimensions");
  const int last = op.x.rank - 1;
  for (int d = 0; d < last; ++d) in.CheckSize(op.gate, d, op.x.shape[d], "gate");
  if (op.gate.shape[last] != 1) in.CheckSize(op.gate, last, op.x.shape[last], "gate");
  return op;
}

Operation Combine(Reader& in) {
  CombineOp op{in.Activation("x", 2), in.Activation("y", 2), in.OptionalFloatTable("weights"), in.Flag()};
  const int64_t tokens = op.x.shape[0];
  if (op.weights.data) {
    in.CheckSize(op.weights, 0, tokens, "weights");
    in.CheckSize(op.y, 0, tokens * op.weights.shape[1], "y");
  } else {
    in.Check(tokens == 0 ? op.y.shape[0] == 0 : op.y.shape[0] % tokens == 0, "every token has as many rows");
  }
  in.CheckSize(op.y, 1, op.x.shape[1], "y");
  return op;
}

Operation ScaleRows(Reader& in) {
  ScaleRowsOp op{in.Activation("x", 2), in.Floats("weights", 2)};
  in.CheckSize(op.x, 0, op.weights.shape[0] * op.weights.shape[1], "x");
  return op;
}

}  // namespace zi
