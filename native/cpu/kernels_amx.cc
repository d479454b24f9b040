// The kernels for AVX-512 with products on tiles of AMX where the weights' values are bf16; with others they are those of AVX-512.
#include "cpu/simd_amx.h"

#include "cpu/kernel_amx_experts.h"

namespace zi {
namespace amx {

/// Whether a weight's values come in pairs of bf16, each row by itself.
inline bool InTiles(const Weight& w) {
  const bool bf16 = w.dense() ? w.Part(WeightPart::kCodes).dtype == DType::kBF16 : w.type == DType::kBF16;
  return bf16 && w.format != WeightFormat::kDenseIn && w.inputs % BF16Pairs::kInputs == 0;
}
inline View InPairs(View weight) {
  weight.shape[1] /= BF16Pairs::kInputs;
  return weight;
}

template <int kParts>
void TileLinear(const LinearOp& op, Run& run) {
  if (!InTiles(op.weight)) return KernelsAvx512().linear(op, run);
  if (op.weight.dense()) {
    const DenseLinearOp dense = DenseOf(op);
    return AmxLinear(dense, DenseTiles{{InPairs(dense.weight)}}, false, kParts, run);
  }
  CheckGroups(op.weight);
  const DenseLinearOp ending{op.out, op.x, View{}, op.bias, false, op.activation, op.accumulate};
  AmxLinear(ending, StoredTiles{op.weight}, CanBeTurned(op.weight), kParts, run);
}

template <int kParts>
void TileExperts(const ExpertLinearOp& op, Run& run) {
  if (!InTiles(op.weight)) return KernelsAvx512().expert_linear(op, run);
  CheckExperts(op);
  if (op.weight.dense()) {
    const DenseExpertLinearOp dense = DenseOf(op);
    return AmxExperts(op, DenseTileExperts{InPairs(dense.weight), dense.weights}, kParts, run);
  }
  AmxExperts(op, StoredTileExperts{op}, kParts, run);
}

/// @param kParts as how many bf16 each input enters: 3 hold it exactly
template <int kParts>
Kernels Table() {
  Kernels kernels = KernelsAvx512();
  kernels.linear = TileLinear<kParts>;
  kernels.expert_linear = TileExperts<kParts>;
  kernels.expert_block = nullptr;
  return kernels;
}

}  // namespace amx

const Kernels& KernelsAmx() {
  static const Kernels table = amx::Table<3>();
  return table;
}

const Kernels& KernelsAmxBf16() {
  static const Kernels table = amx::Table<1>();
  return table;
}

}  // namespace zi
