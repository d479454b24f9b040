// Reads the operations of layers that keep a state per sequence in place of cached keys and values.
#pragma once
#include "ops/words.h"

namespace zi {

// Each throws std::invalid_argument that names the operand. Slots are contents: kernels find those that are none.
CausalConvOp ReadCausalConv(WordReader& in);
StateScanOp ReadStateScan(WordReader& in);
GatedRmsOp ReadGatedRms(WordReader& in);
CompressOp ReadCompress(WordReader& in);
WindowAttentionOp ReadWindowAttention(WordReader& in);

}  // namespace zi
