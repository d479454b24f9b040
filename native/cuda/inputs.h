// Inputs of products as tensor cores take them: of the weights' type, rows packed into the stream's scratch.
#pragma once
#include "cuda/scratch.h"
#include "ops/operand.h"

namespace zi::cuda {

class Run;

bool SamePlace(const View& a, const View& b);
bool Overlaps(const View& a, const View& b);

/// A matrix of that shape in scratch, its rows packed.
View Packed(const View& like, DType type, ScratchUse use, const Scratch& scratch);

/// Knows which inputs lie in scratch already: the projections of one layer read the same.
class ConvertedInputs {
 public:
  /// x [T, K] in another type; what is there already, for several products of the same inputs, is not converted again.
  View Convert(const View& x, DType type, Run& run);
  /// What rounding x to `rounded`, which Convert gave, left.
  View Rest(const View& x, const View& rounded, Run& run);
  /// To be called by a product with what it has written: inputs that lay there are others now.
  void Written(const View& view);
  /// Nothing that was converted is what it was.
  void Forget() { there_ = {}; }

 private:
  struct There {
    View x{};
    DType type = DType::kF32;
    /// What rounding left is there as well.
    bool rest = false;
    /// How often the scratch had moved when they came there: where it has moved since, they are lost.
    int moves = 0, rest_moves = 0;
  };
  There there_;
};

}  // namespace zi::cuda
