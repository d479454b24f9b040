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

}  // namespace zi
