// Implements ops/states.h.
#include "ops/states.h"

#include <iterator>

namespace zi {
namespace {

void CheckShape(const WordReader& in, const View& view, const View& like, const char* name) {
  in.Check(view.rank == like.rank, "operands differ in their number of dimensions");
  for (int d = 0; d < like.rank; ++d) in.CheckSize(view, d, like.shape[d], name);
}

void CheckTables(const WordReader& in, const View& sequences, const View& slots) {
  in.CheckSize(sequences, 1, 4, "sequences");
  in.CheckSize(slots, 0, sequences.shape[0], "slots");
}

void CheckVector(const WordReader& in, const View& vector, int64_t size, const char* name) {
  if (vector.data) in.CheckSize(vector, 0, size, name);
}

}  // namespace

CausalConvOp ReadCausalConv(WordReader& in) {
  CausalConvOp op{in.Activation("out", 3), in.Activation("x", 3),       in.Weight("weight", 2), in.OptionalWeight("bias"),
                  in.Floats("state", 3),   in.IndexTable("sequences"), in.Index("slots"),      Activation::kNone};
  const uint64_t activation = in.Size("activation");
  in.Check(activation < std::size(kActivationNames), "unknown activation");
  op.activation = static_cast<Activation>(activation);
  CheckShape(in, op.x, op.out, "x");
  in.Check(op.x.dtype == op.out.dtype, "x and out differ in type");
  const int64_t channels = op.x.shape[1] * op.x.shape[2];
  in.CheckSize(op.weight, 0, channels, "weight");
  in.Check(op.weight.shape[1] > 0, "the weight must have a tap");
  CheckVector(in, op.bias, channels, "bias");
  in.CheckSize(op.state, 1, op.weight.shape[1] - 1, "state");
  in.CheckSize(op.state, 2, channels, "state");
  CheckTables(in, op.sequences, op.slots);
  return op;
}

StateScanOp ReadStateScan(WordReader& in) {
  StateScanOp op{in.Activation("out", 3),
                 in.Activation("q", 3),
                 in.Activation("k", 3),
                 in.Activation("v", 3),
                 in.Activation("step", 3),
                 in.OptionalActivation("beta", 3),
                 in.Weight("stepBias", 1),
                 in.Weight("decay", 1),
                 in.OptionalWeight("skip"),
                 in.Floats("state", 4),
                 in.IndexTable("sequences"),
                 in.Index("slots"),
                 in.Number(),
                 in.Number(),
                 in.Number(),
                 in.Number()};
  const int64_t tokens = op.v.shape[0], heads = op.v.shape[1], groups = op.k.shape[1];
  CheckShape(in, op.out, op.v, "out");
  CheckShape(in, op.q, op.k, "q");
  in.CheckSize(op.k, 0, tokens, "k");
  in.Check(groups > 0 && heads % groups == 0, "the heads of k must divide those of v");
  in.CheckSize(op.step, 0, tokens, "step");
  in.CheckSize(op.step, 1, groups, "step");
  in.CheckSize(op.step, 2, heads / groups, "step");
  if (op.beta.data) CheckShape(in, op.beta, op.step, "beta");
  CheckVector(in, op.step_bias, heads, "stepBias");
  CheckVector(in, op.decay, heads, "decay");
  CheckVector(in, op.skip, heads, "skip");
  in.CheckSize(op.state, 1, heads, "state");
  in.CheckSize(op.state, 2, op.k.shape[2], "state");
  in.CheckSize(op.state, 3, op.v.shape[2], "state");
  CheckTables(in, op.sequences, op.slots);
  return op;
}

GatedRmsOp ReadGatedRms(WordReader& in) {
  GatedRmsOp op{in.Activation("out", 0), in.Activation("x", 0), in.Activation("gate", 0), in.Weight("weight", 1),
                in.Number(),             in.Flag()};
  CheckShape(in, op.x, op.out, "x");
  CheckShape(in, op.gate, op.out, "gate");
  const int64_t length = op.x.shape[op.x.rank - 1], groups = op.x.rank > 1 ? op.x.shape[op.x.rank - 2] : 1;
  in.Check(op.weight.shape[0] == length || op.weight.shape[0] == groups * length,
           "the weight must be as long as a group, or as all of them");
  return op;
}

CompressOp ReadCompress(WordReader& in) {
  CompressOp op{in.Floats("entries", 3),
                in.Floats("values", 3),
                in.Floats("gates", 3),
                in.Weight("bias", 2),
                in.Weight("norm", 1),
                in.Floats("inverseFrequencies", 1),
                in.Floats("state", 4),
                in.IndexTable("sequences"),
                in.Index("slots"),
                in.Number(),
                in.Number()};
  const int64_t series = op.values.shape[1], depth = op.values.shape[2];
  CheckShape(in, op.gates, op.values, "gates");
  in.Check(series == 1 || series == 2, "there must be one series of values or two");
  in.Check(op.bias.shape[0] > 0, "a run must have a token");
  in.CheckSize(op.bias, 1, series * depth, "bias");
  in.CheckSize(op.norm, 0, depth, "norm");
  in.Check(op.inverse_frequencies.shape[0] <= depth / 2, "more frequencies than pairs in an entry");
  in.CheckSize(op.entries, 2, depth, "entries");
  in.CheckSize(op.state, 0, op.entries.shape[0], "state");
  in.CheckSize(op.state, 1, series, "state");
  in.CheckSize(op.state, 2, 3, "state");
  in.CheckSize(op.state, 3, depth, "state");
  CheckTables(in, op.sequences, op.slots);
  return op;
}

WindowAttentionOp ReadWindowAttention(WordReader& in) {
  WindowAttentionOp op{in.Activation("out", 3),
                       in.Activation("q", 3),
                       in.Floats("k", 2),
                       in.Floats("window", 3),
                       in.OptionalFloatBlock("entries"),
                       in.OptionalWeight("sinks"),
                       in.IndexTable("sequences"),
                       in.Index("slots"),
                       static_cast<int64_t>(in.Size("ratio")),
                       in.Number()};
  CheckShape(in, op.out, op.q, "out");
  const int64_t depth = op.q.shape[2];
  in.Check(op.q.dtype == op.out.dtype, "q and out differ in type");
  in.CheckSize(op.k, 0, op.q.shape[0], "k");
  in.CheckSize(op.k, 1, depth, "k");
  in.Check(depth <= kMostWindowDepth, "a head has more values than a GPU keeps in registers");
  in.Check(op.window.shape[1] > 0, "the window must have a position");
  in.CheckSize(op.window, 2, depth, "window");
  in.Check(op.ratio > 0, "a run must have a token");
  if (op.entries.data) {
    in.CheckSize(op.entries, 0, op.window.shape[0], "entries");
    in.CheckSize(op.entries, 2, depth, "entries");
  }
  CheckVector(in, op.sinks, op.q.shape[1], "sinks");
  CheckTables(in, op.sequences, op.slots);
  return op;
}

}  // namespace zi
