// linear: which way each product goes, and what it needs before and after.
#include <stdexcept>

#include "cuda/products.h"
#include "cuda/run.h"

namespace zi::cuda {
namespace {

const uint8_t* ConvertedBias(const View& bias, DType type, Run& run) {
  View to = bias;
  to.dtype = type;
  to.data = run.scratch().At(ScratchUse::kBias, static_cast<size_t>(bias.shape[0] * ElementBytes(type)));
  LaunchConvert(bias, to, run);
  return to.data;
}

Epilogue EpilogueOf(const DenseLinearOp& op) {
  const bool bias = op.bias.data;
  switch (op.activation) {
    case Activation::kRelu:
      return bias ? Epilogue::kReluBias : Epilogue::kRelu;
    case Activation::kGeluTanh:
      if (op.out.dtype != DType::kF32) return bias ? Epilogue::kGeluTanhBias : Epilogue::kGeluTanh;
      break;
    // Applied afterwards.
    case Activation::kGelu:
    case Activation::kGeluQuick:
    case Activation::kSilu:
    case Activation::kNone:
      break;
  }
  return bias ? Epilogue::kBias : Epilogue::kNone;
}

/// Whether the activation comes out of the product itself. The library approximates the hyperbolic tangent, which only
/// a 16-bit result hides.
bool IsFused(const DenseLinearOp& op) {
  return op.activation == Activation::kNone || op.activation == Activation::kRelu ||
         (op.activation == Activation::kGeluTanh && op.out.dtype != DType::kF32);
}

/// False where the library has nothing for it.
bool LaunchLibraryProduct(const DenseLinearOp& op, Run& run) {
  run.OtherQueued();
  const DType type = op.weight.dtype;
  const auto [converts, exact, apart, converts_bias] = LibraryProductOf(op);
  Product product{};
  product.weight = op.weight;
  product.x = converts ? run.inputs().Convert(op.x, type, run) : op.x;
  product.out = apart ? Packed(op.out, DType::kF32, ScratchUse::kSums, run.scratch()) : op.out;
  product.input_major = op.input_major;
  product.accumulate = op.accumulate && !apart;
  if (exact) {
    Product rest = product;
    rest.x = run.inputs().Rest(op.x, product.x, run);
    if (!run.products().Multiply(rest, run.stream())) return false;
    product.accumulate = true;
  }
  DenseLinearOp finish = op;
  finish.accumulate = apart && op.accumulate;
  if (!apart) {
    product.epilogue = EpilogueOf(op);
    product.bias = converts_bias ? ConvertedBias(op.bias, op.out.dtype, run) : op.bias.data;
    if (run.products().Multiply(product, run.stream())) {
      if (IsFused(op)) return true;
      finish.bias = View{};
      LaunchFinish(finish, product.out, run);
      return true;
    }
    product.epilogue = Epilogue::kNone;
  }
  if (!run.products().Multiply(product, run.stream())) {
    if (exact) throw std::runtime_error("the library multiplies what rounding left, but not what was rounded");
    return false;
  }
  if (apart || op.bias.data || op.activation != Activation::kNone) LaunchFinish(finish, product.out, run);
  return true;
}

void LaunchConvertedFew(const DenseLinearOp& op, Run& run) {
  DenseLinearOp converted = op;
  converted.x = run.inputs().Convert(op.x, DType::kF32, run);
  LaunchFewTokens({converted}, run);
}

}  // namespace

void LaunchDense(const DenseLinearOp& op, Run& run) {
  const LinearWay way = WayOf(op);
  if (way == LinearWay::kNothing) return;
  if (way != LinearWay::kFew) run.Flush();
  switch (way) {
    case LinearWay::kNothing:
      break;
    case LinearWay::kPlain:
      LaunchPlainProduct(op, run);
      break;
    case LinearWay::kFew:
      run.Join(op);
      break;
    case LinearWay::kFewConverted:
      LaunchConvertedFew(op, run);
      break;
    case LinearWay::kLibrary:
      if (!LaunchLibraryProduct(op, run)) LaunchPlainProduct(op, run);
      break;
  }
  run.inputs().Written(op.out);
}

void Launch(const LinearOp& op, Run& run) {
  if (!op.weight.dense()) UnknownFormat(op.weight.format);
  LaunchDense(DenseOf(op), run);
}

}  // namespace zi::cuda
