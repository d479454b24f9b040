// Implements ops/decode.h: one function per operation, and the table of opcodes.
#include "ops/decode.h"

#include <iterator>

#include "ops/decode_parts.h"
#include "ops/states.h"
#include "ops/weights.h"

namespace zi {
namespace {

Activation ReadActivation(WordReader& in) {
  const uint64_t value = in.Size("activation");
  in.Check(value < std::size(kActivationNames), "unknown activation");
  return static_cast<Activation>(value);
}

Operation GatherRows(Reader& in) {
  GatherRowsOp op{in.Activation("out", 2), in.Weight("table", 2), in.Index("rows"), in.Flag(), in.Number()};
  in.CheckSize(op.table, 1, op.out.shape[1], "table");
  in.CheckSize(op.rows, 0, op.out.shape[0], "rows");
  return op;
}

Operation LayerNorm(Reader& in) {
  LayerNormOp op{in.Activation("out", 0), in.Activation("x", 0), in.Weight("weight", 0), in.OptionalWeight("bias"),
                 in.Number(),             in.Number()};
  CheckSameShape(in, op.out, op.x, "out");
  in.Check(op.weight.rank <= 2 && op.weight.rank <= op.x.rank, "the weight has more dimensions than a row of heads");
  for (int d = 0; d < op.weight.rank; ++d) {
    in.CheckSize(op.weight, d, op.x.shape[op.x.rank - op.weight.rank + d], "weight");
  }
  CheckInnermost(in, op.bias, op.x, "bias");
  return op;
}

Operation RmsNorm(Reader& in) {
  RmsNormOp op{in.Activation("out", 0), in.Activation("x", 0), in.OptionalWeight("weight"), in.Number(), in.Number()};
  CheckSameShape(in, op.out, op.x, "out");
  CheckInnermost(in, op.weight, op.x, "weight");
  return op;
}

Operation Linear(Reader& in) {
  LinearOp op{in.Activation("out", 2), in.Activation("x", 2), ReadWeight(in, "weight"), in.OptionalWeight("bias"),
              ReadActivation(in),      in.Flag()};
  in.CheckSize(op.x, 0, op.out.shape[0], "x");
  in.CheckSize(op.out, 1, op.weight.outputs, "out");
  in.CheckSize(op.x, 1, op.weight.inputs, "x");
  CheckInnermost(in, op.bias, op.out, "bias");
  return op;
}

Operation HeadLinear(Reader& in) {
  HeadLinearOp op{in.Activation("out", 3), in.Activation("x", 3), ReadWeight(in, "weight"), 0, 0, false};
  op.head_rows = static_cast<int64_t>(in.Size("headRows"));
  op.first_row = static_cast<int64_t>(in.Size("firstRow"));
  op.transposed = in.Flag();
  const View& rows = op.transposed ? op.x : op.out;
  const View& inputs = op.transposed ? op.out : op.x;
  in.CheckSize(op.x, 0, op.out.shape[0], "x");
  in.CheckSize(op.x, 1, op.out.shape[1], "x");
  in.CheckSize(inputs, 2, op.weight.inputs, op.transposed ? "out" : "x");
  // Each is at most 2⁵³, so neither sum nor product of a few of them wraps around unseen.
  in.Check(op.first_row <= op.head_rows && rows.shape[2] <= op.head_rows - op.first_row, "a head has fewer rows than are taken");
  in.Check(op.head_rows == 0 || op.x.shape[1] <= op.weight.outputs / op.head_rows, "the weight has fewer rows than the heads");
  return op;
}

Operation Gated(Reader& in) {
  GatedOp op{in.Activation("out", 0), in.Activation("gate", 0), in.Activation("up", 0), ReadActivation(in), in.Number(), in.Flag()};
  in.Check(op.limit >= 0, "the limit must not be negative");
  CheckSameShape(in, op.gate, op.out, "gate");
  CheckSameShape(in, op.up, op.out, "up");
  return op;
}

Operation Add(Reader& in) {
  AddOp op{in.Activation("out", 0), in.Activation("a", 0), in.Activation("b", 0), in.OptionalWeight("factor")};
  CheckSameShape(in, op.a, op.out, "a");
  CheckSameShape(in, op.b, op.out, "b");
  if (op.factor.data) in.CheckSize(op.factor, 0, 1, "factor");
  return op;
}

Operation Rotary(Reader& in) {
  RotaryOp op{in.Activation("x", 3), in.Index("positions"), in.Floats("inverseFrequencies", 1), in.Flag(),
              in.Number()};
  in.CheckSize(op.positions, 0, op.x.shape[0], "positions");
  in.Check(op.inverse_frequencies.shape[0] <= op.x.shape[2] / 2, "more frequencies than pairs in a head");
  return op;
}

/// Keys or values of heads of `depth` values, with scales where they are codes.
void CheckCached(const WordReader& in, const View& cached, const View& scales, int64_t depth, const char* names[2]) {
  const bool nibbles = cached.dtype == DType::kU8;
  in.Check(!nibbles || depth % 2 == 0, "codes of 4 bits are for heads of an even size");
  in.CheckSize(cached, 3, nibbles ? depth / 2 : depth, names[0]);
  const int64_t groups = CacheGroups(cached.dtype, depth);
  in.Check((groups > 0) == (scales.data != nullptr), "codes have scales, and floats have none");
  if (groups == 0) return;
  for (int d = 0; d < 3; ++d) in.CheckSize(scales, d, cached.shape[d], names[1]);
  in.CheckSize(scales, 3, groups, names[1]);
}

/// keys and values [pages, kvHeads, pageTokens, …], of one type, for heads of so many values.
template <class Op>
void CheckCache(const WordReader& in, const Op& op, int64_t key_depth, int64_t value_depth) {
  const View &keys = op.keys, &values = op.values;
  for (int d = 0; d < 3; ++d) in.CheckSize(values, d, keys.shape[d], "values");
  in.Check(keys.dtype == values.dtype, "keys and values differ in type");
  in.Check(keys.shape[2] > 0, "pages must hold at least one token");
  const char* key_names[] = {"keys", "keyScales"};
  const char* value_names[] = {"values", "valueScales"};
  CheckCached(in, keys, op.key_scales, key_depth, key_names);
  CheckCached(in, values, op.value_scales, value_depth, value_names);
}

Operation KvStore(Reader& in) {
  KvStoreOp op{in.Activation("k", 3),
               in.OptionalActivation("v", 3),
               in.Cache("keys"),
               in.Cache("values"),
               in.OptionalScales("keyScales"),
               in.OptionalScales("valueScales"),
               in.Index("slots")};
  if (op.v.data) {
    in.CheckSize(op.v, 0, op.k.shape[0], "v");
    in.CheckSize(op.v, 1, op.k.shape[1], "v");
    in.Check(op.k.dtype == op.v.dtype, "k and v differ in type");
  } else {
    in.Check(op.values.data == op.keys.data && op.values.shape[3] <= op.keys.shape[3], "without v, values lie in keys");
  }
  const int64_t stored_value = op.values.dtype == DType::kU8 ? 2 * op.values.shape[3] : op.values.shape[3];
  CheckCache(in, op, op.k.shape[2], op.v.data ? op.v.shape[2] : stored_value);
  in.CheckSize(op.keys, 1, op.k.shape[1], "keys");
  in.CheckSize(op.slots, 0, op.k.shape[0], "slots");
  return op;
}

Operation Attention(Reader& in) {
  AttentionOp op{in.Activation("out", 3),
                 in.Activation("q", 3),
                 in.Cache("keys"),
                 in.Cache("values"),
                 in.OptionalScales("keyScales"),
                 in.OptionalScales("valueScales"),
                 in.IndexTable("sequences"),
                 in.Index("pages"),
                 in.Index("positions"),
                 in.OptionalFloats("alibiSlopes"),
                 in.OptionalWeight("sinks"),
                 in.Number(),
                 static_cast<int64_t>(in.Size("windowTokens")),
                 static_cast<int64_t>(in.Size("chunkTokens")),
                 in.Number(),
                 static_cast<int64_t>(in.Size("maxContextTokens")),
                 in.Flag()};
  in.CheckSize(op.q, 0, op.out.shape[0], "q");
  in.CheckSize(op.q, 1, op.out.shape[1], "q");
  in.Check(op.q.dtype == op.out.dtype, "q and out differ in type");
  CheckCache(in, op, op.q.shape[2], op.out.shape[2]);
  in.Check(op.keys.shape[1] > 0, "keys must have at least one head");
  in.CheckSize(op.sequences, 1, 4, "sequences");
  in.CheckSize(op.positions, 0, op.q.shape[0], "positions");
  if (op.alibi_slopes.data) in.CheckSize(op.alibi_slopes, 0, op.q.shape[1], "alibiSlopes");
  if (op.sinks.data) in.CheckSize(op.sinks, 0, op.q.shape[1], "sinks");
  return op;
}

Operation Argmax(Reader& in) {
  ArgmaxOp op{in.Index("out"), in.Floats("logits", 2)};
  in.CheckSize(op.out, 0, op.logits.shape[0], "out");
  return op;
}

Operation TokenRows(Reader& in) {
  TokenRowsOp op{in.Index("rows"), in.Index("tokens")};
  in.CheckSize(op.rows, 0, op.tokens.shape[0], "rows");
  return op;
}

Operation TopTokens(Reader& in) {
  TopTokensOp op{in.IndexTable("tokens"), in.Floats("values", 2), in.Floats("logits", 2)};
  CheckSameShape(in, op.values, op.tokens, "values");
  in.CheckSize(op.tokens, 0, op.logits.shape[0], "tokens");
  in.Check(op.tokens.shape[1] > 0 && op.tokens.shape[1] <= op.logits.shape[1], "there must be as many tokens as are wanted, and one");
  return op;
}

Operation NllFold(Reader& in) {
  NllFoldOp op{in.Floats("state", 2), in.Floats("logits", 2), in.Index("targets"),
               static_cast<int64_t>(in.Size("firstColumn")), in.Flag()};
  in.CheckSize(op.state, 0, op.logits.shape[0], "state");
  in.CheckSize(op.state, 1, 3, "state");
  in.CheckSize(op.targets, 0, op.logits.shape[0], "targets");
  return op;
}

Operation ScaleCap(Reader& in) {
  ScaleCapOp op{in.Activation("x", 0), in.Number(), in.Number()};
  return op;
}

Operation PositionScale(Reader& in) {
  PositionScaleOp op{in.Activation("x", 3), in.Index("positions"), in.Number(), static_cast<double>(in.Size("offset")),
                     static_cast<double>(in.Size("length"))};
  in.CheckSize(op.positions, 0, op.x.shape[0], "positions");
  in.Check(op.length >= 1, "the length must be a whole number above 0");
  return op;
}

Operation Clamp(Reader& in) {
  ClampOp op{in.Activation("x", 0), in.Number()};
  in.Check(op.limit >= 0, "the limit must not be negative");
  return op;
}

Operation Sample(Reader& in) {
  SampleOp op{in.Index("out"), in.Floats("logits", 2), in.Floats("settings", 2), in.IndexTable("draws"),
              in.Index("history"), in.OptionalIndexTable("addedOf"), in.OptionalIndex("addedTokens"), in.OptionalFloats("addedValues"),
              in.OptionalIndex("maskOf"), in.OptionalIndexTable("masks")};
  const int64_t rows = op.logits.shape[0];
  in.CheckSize(op.out, 0, rows, "out");
  in.CheckSize(op.settings, 0, rows, "settings");
  in.CheckSize(op.settings, 1, 4, "settings");
  in.CheckSize(op.draws, 0, rows, "draws");
  in.CheckSize(op.draws, 1, 4, "draws");
  in.Check(op.logits.shape[1] > 0, "there must be something to draw from");
  in.Check(!op.added_of.data == !op.added_tokens.data && !op.added_of.data == !op.added_values.data,
           "what is added, to which tokens and whose it is go together");
  if (op.added_of.data) {
    in.CheckSize(op.added_of, 0, rows, "addedOf");
    in.CheckSize(op.added_of, 1, 2, "addedOf");
    CheckSameShape(in, op.added_values, op.added_tokens, "addedValues");
  }
  in.Check(!op.mask_of.data == !op.masks.data, "masks and whose they are go together");
  if (op.masks.data) {
    in.CheckSize(op.mask_of, 0, rows, "maskOf");
    in.CheckSize(op.masks, 1, (op.logits.shape[1] + 31) / 32, "masks");
  }
  return op;
}

Operation NoteNotFinite(Reader& in) {
  NoteNotFiniteOp op{in.Index("found"), in.Activation("x", 2), 0, false};
  const uint64_t place = in.Size("place");
  in.Check(place <= INT32_MAX, "the place must be a whole number of 32 bits");
  op.place = static_cast<int32_t>(place);
  op.first = in.Flag();
  in.CheckSize(op.found, 0, op.x.shape[0], "found");
  return op;
}

/// What it holds, in the order of its words and in the terms of offload/port/ops.ts, is compared when the addon is loaded.
struct Opcode {
  const char* name;
  const char* operands;
  Operation (*decode)(Reader&);
};
constexpr Opcode kOpcodes[] = {
    {"gather_rows", "out table rows accumulate scale", GatherRows},
    {"layer_norm", "out x weight bias eps weightOffset", LayerNorm},
    {"rms_norm", "out x weight eps weightOffset", RmsNorm},
    {"linear", "out x weight bias activation accumulate", Linear},
    {"gated", "out gate up activation limit limitAfter", Gated},
    {"add", "out a b factor", Add},
    {"rotary", "x positions inverseFrequencies interleaved scale", Rotary},
    {"kv_store", "k v keys values keyScales valueScales slots", KvStore},
    {"attention",
     "out q keys values keyScales valueScales tables.sequences tables.pages tables.positions score.alibi.slopes score.sinks "
     "score.scale score.windowTokens score.chunkTokens score.softCap tables.maxContextTokens score.alibi.rounded",
     Attention},
    {"argmax", "out logits", Argmax},
    {"nll_fold", "state logits targets firstColumn first", NllFold},
    {"scale_cap", "x scale softCap", ScaleCap},
    {"copy", "to toOffsetBytes from fromOffsetBytes sizeBytes", Copy},
    {"fill", "to offsetBytes sizeBytes byte", Fill},
    {"route",
     "experts weights logits bias expertScale table rows rule.score rule.groups rule.groupsKept rule.groupBest "
     "rule.normalize rule.addedToSum rule.leastSum rule.scale rule.sparseMixer",
     Route},
    {"expert_linear", "out x experts slots.table slots.count slots.bytes slots.files.places slots.files.firstPart slots.files.firstPiece "
     "slots.files.pieces weights", ExpertLinear},
    {"combine", "x y weights accumulate", Combine},
    {"sample",
     "out logits tables.settings tables.draws tables.history tables.added.entriesOf tables.added.tokens tables.added.values "
     "tables.allowed.maskOf tables.allowed.masks",
     Sample},
    {"note_not_finite", "found x place first", NoteNotFinite},
    {"expert_bias", "x experts bias", ExpertBias},
    {"gated_pairs", "out x alpha limit", GatedPairs},
    {"position_scale", "x positions beta offset length", PositionScale},
    {"clamp", "x limit", Clamp},
    {"causal_conv", "out x weight bias state tables.sequences tables.slots activation",
     [](Reader& in) -> Operation { return ReadCausalConv(in); }},
    {"state_scan",
     "out q k v step beta stepBias decay skip state tables.sequences tables.slots minStep maxStep normEps queryScale",
     [](Reader& in) -> Operation { return ReadStateScan(in); }},
    {"gated_rms", "out x gate weight eps gateFirst", [](Reader& in) -> Operation { return ReadGatedRms(in); }},
    {"gate_sigmoid", "x gate", GateSigmoid},
    {"scale_rows", "x weights", ScaleRows},
    {"head_linear", "out x weight headRows firstRow transposed", HeadLinear},
    {"compress", "entries values gates bias norm inverseFrequencies state tables.sequences tables.slots eps rotaryScale",
     [](Reader& in) -> Operation { return ReadCompress(in); }},
    {"window_attention", "out q k window entries sinks tables.sequences tables.slots ratio scale",
     [](Reader& in) -> Operation { return ReadWindowAttention(in); }},
    {"hyper_weights", "gather spread mix logits base scale iterations eps", HyperWeights},
    {"hyper_mix", "x y spread mix", HyperMix},
    {"bring_experts",
     "experts slots home places tables.slotOf tables.uses tables.keyOf tables.stamps tables.calls counts tables.list firstKey "
     "ageCalls aside.here aside.there aside.x aside.hostX aside.weights aside.hostWeights aside.mail.words aside.mail.state aside.job "
     "files behind.slots behind.asked behind.found behind.mail.words behind.mail.state behind.job",
     BringExperts},
    {"ask_host", "from to mail.words mail.state job", AskHost},
    {"take_host", "out from choices mail.words mail.state", TakeHost},
    {"copy_rows", "to toOffsetBytes toStrideBytes from fromOffsetBytes fromStrideBytes rowBytes rows", CopyRows},
    {"find_experts",
     "asked found slots begins alike tables.slotOf tables.keyOf tables.uses tables.stamps tables.readAs tables.calls counts ageCalls "
     "files",
     FindExperts},
    {"reduce", "x partial exchange accumulate", Reduce},
    {"top_tokens", "tokens values logits", TopTokens},
    {"token_rows", "rows tokens", TokenRows},
};

template <class Names>
std::string Joined(std::string line, const Names& names) {
  for (const char* name : names) line += std::string(" ") + name;
  return line;
}

}  // namespace

std::vector<std::string> OperationTable() {
  std::vector<std::string> lines;
  for (const Opcode& opcode : kOpcodes) lines.push_back(std::string(opcode.name) + ": " + opcode.operands);
  lines.push_back(Joined("types:", kDTypeNames));
  lines.push_back(Joined("activations:", kActivationNames));
  lines.push_back(Joined("scores:", kRouteScoreNames));
  lines.push_back(Joined("formats:", kWeightFormatNames));
  lines.push_back(Joined("weights: format parts shape firstRow rowGroup inputGroup product type bits zeroPlusOne globalDivides factor nestedOffset", kWeightPartNames));
  return lines;
}

Decoded DecodeOperation(const double* words, size_t count, int place) {
  Reader in(words, count, place);
  const uint64_t code = in.Size("opcode");
  in.Check(code < std::size(kOpcodes), "unknown opcode");
  const Opcode& opcode = kOpcodes[code];
  in.SetOperation(opcode.name);
  Operation op = opcode.decode(in);
  in.ExpectEnd();
  return {opcode.name, op, in.TakeMemories(), std::move(in.experts), std::move(in.files), std::move(in.exchange)};
}

std::vector<Decoded> DecodeOperations(const double* words, size_t count, int place) {
  std::vector<Decoded> operations;
  for (size_t at = 0; at < count;) {
    const double length = words[at++];
    if (!(length >= 1) || length > static_cast<double>(count - at)) {
      throw std::invalid_argument("a batch of operations ends too early");
    }
    operations.push_back(DecodeOperation(words + at, static_cast<size_t>(length), place));
    at += static_cast<size_t>(length);
  }
  return operations;
}

}  // namespace zi
