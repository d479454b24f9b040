// linear: which way each product goes, and what it needs before and after.
#include "cuda/products.h"
#include "cuda/run.h"

namespace zi::cuda {
namespace {

/// Up to this many tokens reading the weights rules, and our kernel reads them once at full rate in full precision.
constexpr int64_t kFewTokens = 8;

bool Overlaps(const View& view, const Run::Converted& c) {
  const uint8_t* end = c.x + c.rows * c.stride * int64_t{sizeof(float)};
  const uint8_t* view_end = view.data + view.shape[0] * view.strides[0] * int64_t{sizeof(float)};
  return view.data < end && c.x < view_end;
}

/// x in the weight's type, packed; the same x of the projection before is not converted again.
const uint8_t* ConvertInputs(const LinearOp& op, Run& run, int64_t stride) {
  const Run::Converted wanted{op.x.data, op.x.shape[0], op.x.shape[1], op.x.strides[0], op.weight.dtype};
  const auto& c = run.converted;
  uint8_t* to = run.inputs.AtLeast(static_cast<size_t>(op.x.shape[0] * stride) * 2);
  if (c.x != wanted.x || c.rows != wanted.rows || c.columns != wanted.columns || c.stride != wanted.stride ||
      c.dtype != wanted.dtype) {
    LaunchConvert(op.x, op.weight.dtype, to, stride, run);
    run.converted = wanted;
  }
  return to;
}

bool LibraryProduct(const LinearOp& op, Run& run) {
  const bool half = op.weight.dtype != DType::kF32;
  // Rows of eight elements keep the 16-byte alignment that the fast kernels want.
  const int64_t packed_stride = (op.x.shape[1] + 7) / 8 * 8;
  const bool has_epilogue = op.bias.data || op.activation != Activation::kNone;
  const bool apart = op.accumulate && op.activation != Activation::kNone;
  Product product{};
  product.weight = op.weight.data;
  product.dtype = op.weight.dtype;
  product.input_major = op.input_major;
  product.tokens = op.x.shape[0];
  product.outputs = op.out.shape[1];
  product.inputs = op.x.shape[1];
  product.weight_stride = op.weight.strides[0];
  product.x = half ? ConvertInputs(op, run, packed_stride) : op.x.data;
  product.x_stride = half ? packed_stride : op.x.strides[0];
  product.out = reinterpret_cast<float*>(op.out.data);
  product.out_stride = op.out.strides[0];
  product.accumulate = op.accumulate && !apart;
  if (apart) {
    product.out_stride = (product.outputs + 3) / 4 * 4;
    const size_t size = static_cast<size_t>(product.tokens * product.out_stride) * sizeof(float);
    product.out = reinterpret_cast<float*>(run.sums.AtLeast(size));
  }
  if (!run.products().Multiply(product, run.stream)) return false;
  if (!has_epilogue) return true;
  LinearOp finish = op;
  finish.accumulate = apart;
  LaunchFinish(finish, product.out, product.out_stride, run);
  return true;
}

}  // namespace

void Launch(const LinearOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], outputs = op.out.shape[1], inputs = op.x.shape[1];
  if (tokens == 0 || outputs == 0) return;
  if (run.converted.x && Overlaps(op.out, run.converted)) run.converted = {};
  if (inputs == 0) return LaunchPlainProduct(op, run);
  if (tokens <= kFewTokens && !op.input_major) return LaunchFewTokens(op, run);
  if (!LibraryProduct(op, run)) LaunchPlainProduct(op, run);
}

}  // namespace zi::cuda
