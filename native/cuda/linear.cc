// linear: which way each product goes, and what it needs before and after.
#include "cuda/inputs.h"
#include "cuda/products.h"
#include "cuda/run.h"

namespace zi::cuda {
namespace {

/// Up to this many tokens reading the weights rules, and our kernel reads them once at full rate in full precision.
constexpr int64_t kFewTokens = 8;
/// A product of f32 inputs with this few outputs is small beside the others, and may be a mixture's router, whose
/// nearly even choices must not hang on rounding: it is computed in full precision.
constexpr int64_t kFewOutputs = 256;

/// The bias as the library takes it: of the type of the result, at a multiple of 16 bytes.
const uint8_t* BiasFor(const View& bias, DType type, Run& run) {
  if (!bias.data || (bias.dtype == type && reinterpret_cast<uintptr_t>(bias.data) % 16 == 0)) return bias.data;
  View to = bias;
  to.dtype = type;
  to.data = run.bias.AtLeast(static_cast<size_t>(bias.shape[0] * ElementBytes(type)));
  LaunchConvert(bias, to, run);
  return to.data;
}

Epilogue EpilogueOf(const LinearOp& op) {
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
bool IsFused(const LinearOp& op) {
  return op.activation == Activation::kNone || op.activation == Activation::kRelu ||
         (op.activation == Activation::kGeluTanh && op.out.dtype != DType::kF32);
}

bool LibraryProduct(const LinearOp& op, Run& run) {
  run.after_kernel = false;  // whatever the library queues
  const DType type = op.weight.dtype;
  // Nothing can be added after the activation by the library, and it writes f32 or its inputs' type.
  const bool apart = (op.accumulate && op.activation != Activation::kNone) ||
                     (op.out.dtype != DType::kF32 && op.out.dtype != type);
  Product product{};
  product.weight = op.weight;
  product.x = op.x.dtype == type ? op.x : ConvertInputs(op.x, type, run);
  product.out = apart ? Packed(op.out, DType::kF32, run.sums) : op.out;
  product.input_major = op.input_major;
  product.accumulate = op.accumulate && !apart;
  // f32 inputs are f32 for a reason: what rounding them leaves is multiplied as well.
  const bool exact = op.x.dtype == DType::kF32 && type != DType::kF32 && product.out.dtype == DType::kF32;
  if (exact) {
    Product rest = product;
    rest.x = RestOfInputs(op.x, product.x, run);
    if (!run.products().Multiply(rest, run.stream)) return false;
    product.accumulate = true;
  }
  LinearOp finish = op;
  finish.accumulate = apart && op.accumulate;
  if (!apart) {
    product.epilogue = EpilogueOf(op);
    if (op.bias.data) product.bias = BiasFor(op.bias, op.out.dtype, run);
    if (run.products().Multiply(product, run.stream)) {
      if (IsFused(op)) return true;
      finish.bias = View{};
      LaunchFinish(finish, product.out, run);
      return true;
    }
    product.epilogue = Epilogue::kNone;
  }
  if (!run.products().Multiply(product, run.stream)) {
    if (exact) throw std::runtime_error("the library multiplies what rounding left, but not what was rounded");
    return false;
  }
  if (apart || op.bias.data || op.activation != Activation::kNone) LaunchFinish(finish, product.out, run);
  return true;
}

/// Whether one kernel can compute it with what waits: the same inputs, and nothing of the others is overwritten.
bool Joins(const LinearOp& op, const std::vector<LinearOp>& waiting) {
  if (waiting.empty()) return true;
  if (waiting.size() == kMostJoined) return false;
  const LinearOp& first = waiting.front();
  if (!SamePlace(op.x, first.x) || op.weight.dtype != first.weight.dtype) return false;
  for (const LinearOp& other : waiting) {
    if (Overlaps(op.out, other.out) || Overlaps(op.weight, other.out) || Overlaps(op.out, other.weight)) return false;
  }
  return !Overlaps(op.out, op.x) && !Overlaps(first.out, first.x);
}

}  // namespace

bool IsFewTokens(const LinearOp& op) {
  return op.x.shape[0] <= kFewTokens && op.x.shape[1] > 0 && !op.input_major;
}

void Launch(const LinearOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], outputs = op.out.shape[1], inputs = op.x.shape[1];
  if (tokens == 0 || outputs == 0) return;
  const DType x = op.x.dtype, w = op.weight.dtype;
  const bool few = IsFewTokens(op);
  const bool as_they_are = x == w || x == DType::kF32;
  if (!few || !as_they_are || !Joins(op, run.waiting)) run.Flush();
  if (inputs == 0) {
    LaunchPlainProduct(op, run);
  } else if (few && as_they_are) {
    run.waiting.push_back(op);
  } else if (few) {
    LinearOp converted = op;
    converted.x = ConvertInputs(op.x, DType::kF32, run);
    LaunchFewTokens({converted}, run);
  } else if (x == DType::kF32 && w != DType::kF32 && outputs <= kFewOutputs) {
    LaunchPlainProduct(op, run);
  } else if (!LibraryProduct(op, run)) {
    LaunchPlainProduct(op, run);
  }
  ForgetInputs(op.out, run);
}

}  // namespace zi::cuda
