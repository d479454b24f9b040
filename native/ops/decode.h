// One encoded operation, read and checked: what a stream of any kind of device runs.
#pragma once
#include <variant>

#include "ops/exchange.h"
#include "ops/operand_bytes.h"
#include "ops/weights.h"
#include "ops/words.h"

namespace zi {

using Operation = std::variant<GatherRowsOp, LayerNormOp, RmsNormOp, LinearOp, GatedOp, AddOp, RotaryOp, KvStoreOp,
                               AttentionOp, ArgmaxOp, NllFoldOp, ScaleCapOp, RouteOp, ExpertLinearOp, CombineOp, SampleOp,
                               NoteNotFiniteOp, CopyOp, FillOp, ExpertBiasOp, GatedPairsOp, PositionScaleOp,
                               ClampOp, CausalConvOp, StateScanOp, GatedRmsOp, GateSigmoidOp, ScaleRowsOp, HeadLinearOp,
                               CompressOp, WindowAttentionOp, HyperWeightsOp, HyperMixOp, BringExpertsOp, AskHostOp, TakeHostOp,
                               CopyRowsOp, FindExpertsOp, ReduceOp, TopTokensOp,
                               TokenRowsOp>;

struct Decoded {
  const char* name;
  Operation op;
  /// Holding them keeps the operands' views valid.
  std::vector<std::shared_ptr<Memory>> memories;
  /// ExpertLinearOp::parts point into it; null for other operations.
  std::shared_ptr<const ExpertParts> experts;
  /// The operation points to them; null for those that read no files.
  std::shared_ptr<IoPieces> files;
  /// The same; null for those that no other device takes part in.
  std::shared_ptr<Exchange> exchange;
};

/// What is read, to be compared with what offload/port/op-table.ts says is written: per opcode its operation and operands,
/// then the element types and the activations.
std::vector<std::string> OperationTable();

/// Checks everything that does not depend on the contents of memory; what does (indices, tables) is checked when the
/// operation runs and fails its stream. `place`: where it is to run;
/// with kNoPlace its memories are not looked for, and its views must not be followed. Throws std::invalid_argument.
Decoded DecodeOperation(const double* words, size_t count, int place);
/// Several, each after a word with its length.
std::vector<Decoded> DecodeOperations(const double* words, size_t count, int place);

}  // namespace zi
