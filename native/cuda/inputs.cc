// Implements cuda/inputs.h.
#include "cuda/inputs.h"

#include "cuda/run.h"

namespace zi::cuda {

bool SamePlace(const View& a, const View& b) {
  return a.data == b.data && a.dtype == b.dtype && a.shape[0] == b.shape[0] && a.shape[1] == b.shape[1] &&
         a.strides[0] == b.strides[0];
}

bool Overlaps(const View& a, const View& b) {
  const uint8_t* a_end = a.data + a.shape[0] * a.strides[0] * ElementBytes(a.dtype);
  const uint8_t* b_end = b.data + b.shape[0] * b.strides[0] * ElementBytes(b.dtype);
  return a.data < b_end && b.data < a_end;
}

View Packed(const View& like, DType type, ScratchUse use, const Scratch& scratch) {
  View view = like;
  view.dtype = type;
  view.strides[0] = PackedStride(like.shape[1]);
  view.strides[1] = 1;
  view.data = scratch.At(use, static_cast<size_t>(view.shape[0] * view.strides[0] * ElementBytes(type)));
  return view;
}

View ConvertedInputs::Convert(const View& x, DType type, Run& run) {
  const int moves = run.scratch().moves(ScratchUse::kInputs);
  const bool found = there_.x.data && there_.type == type && there_.moves == moves && SamePlace(there_.x, x);
  const View to = Packed(x, type, ScratchUse::kInputs, run.scratch());
  if (found) return to;
  LaunchConvert(x, to, run);
  there_ = {x, type, false, moves, 0};
  return to;
}

View ConvertedInputs::Rest(const View& x, const View& rounded, Run& run) {
  const int moves = run.scratch().moves(ScratchUse::kRests);
  const View to = Packed(x, rounded.dtype, ScratchUse::kRests, run.scratch());
  if (!there_.rest || there_.rest_moves != moves) LaunchRest(x, rounded, to, run);
  there_.rest = true;
  there_.rest_moves = moves;
  return to;
}

void ConvertedInputs::Written(const View& view) {
  if (there_.x.data && Overlaps(view, there_.x)) Forget();
}

}  // namespace zi::cuda
