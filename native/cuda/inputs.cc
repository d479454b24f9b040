// Implements cuda/inputs.h.
#include "cuda/inputs.h"

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

View Packed(const View& like, DType type, Scratch& scratch) {
  View view = like;
  view.dtype = type;
  view.strides[0] = (like.shape[1] + 7) / 8 * 8;
  view.strides[1] = 1;
  view.data = scratch.AtLeast(static_cast<size_t>(view.shape[0] * view.strides[0] * ElementBytes(type)));
  return view;
}

View ConvertInputs(const View& x, DType type, Run& run) {
  auto& there = run.converted;
  const bool found = there.x.data && there.type == type && SamePlace(there.x, x);
  const View to = Packed(x, type, run.inputs);
  if (found) return to;
  LaunchConvert(x, to, run);
  there = {x, type};
  return to;
}

View RestOfInputs(const View& x, const View& rounded, Run& run) {
  const View to = Packed(x, rounded.dtype, run.rests);
  if (!run.converted.rest) LaunchRest(x, rounded, to, run);
  run.converted.rest = true;
  return to;
}

void ForgetInputs(const View& written, Run& run) {
  if (run.converted.x.data && Overlaps(written, run.converted.x)) run.converted = {};
}

}  // namespace zi::cuda
