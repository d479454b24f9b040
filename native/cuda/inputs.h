// Inputs of products as tensor cores take them: of the weights' type, rows packed into the stream's scratch.
#pragma once
#include "cuda/run.h"

namespace zi::cuda {

bool SamePlace(const View& a, const View& b);
bool Overlaps(const View& a, const View& b);

/// A matrix of that shape. Rows of a multiple of eight elements keep the 16-byte alignment that fast kernels want.
View Packed(const View& like, DType type, Scratch& scratch);
/// x [T, K] in another type; what is there already, for several products of the same inputs, is not converted again.
View ConvertInputs(const View& x, DType type, Run& run);
/// What rounding x to `rounded`, which ConvertInputs gave, left.
View RestOfInputs(const View& x, const View& rounded, Run& run);
/// To be called by a product with what it has written: inputs that lay there are others now.
void ForgetInputs(const View& written, Run& run);

}  // namespace zi::cuda
