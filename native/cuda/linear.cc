// linear: which way each product goes, and what it needs before and after.
#include <algorithm>
#include <stdexcept>

#include "cuda/few_stored.h"
#include "cuda/products.h"
#include "cuda/run.h"
#include "cuda/ways_some.h"

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
    case Activation::kRelu2:
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

void LaunchDense(const LinearOp& stored, Run& run) {
  const DenseLinearOp op = DenseOf(stored);
  switch (WayOf(op)) {
    case LinearWay::kNothing:
      return;
    case LinearWay::kFew:
      return run.Join(stored);
    case LinearWay::kFewConverted: {
      run.Flush();
      DenseLinearOp converted = op;
      converted.x = run.inputs().Convert(op.x, DType::kF32, run);
      return LaunchFewTokens({converted}, run);
    }
    case LinearWay::kPlain:
    case LinearWay::kByEights:
    case LinearWay::kLibrary:
      run.Flush();
      return LaunchMany(op, run);
  }
}

void LaunchSlabs(const LinearOp& op, Run& run) {
  const int64_t outputs = op.weight.outputs, step = SlabRows(op.weight);
  uint8_t* const values = run.scratch().At(ScratchUse::kWeights, SlabBytes(op.weight));
  for (int64_t first = 0; first < outputs; first += step) {
    const DenseLinearOp slab = SlabOf(op, first, std::min(step, outputs - first), values);
    LaunchExpand(op.weight, first, slab.weight, run);
    LaunchMany(slab, run);
  }
}

void LaunchStored(const LinearOp& op, Run& run) {
  switch (StoredWayOf(op)) {
    case StoredWay::kNothing:
      return;
    case StoredWay::kCores:
      return run.Join(op);
    case StoredWay::kDots:
      run.Flush();
      return LaunchFewDots(op, op.x, run);
    case StoredWay::kDotsConverted:
      run.Flush();
      return LaunchFewDots(op, run.inputs().Convert(op.x, DType::kF32, run), run);
    case StoredWay::kSlabs:
      run.Flush();
      if (LaunchSomeStored(op, run)) return;
      return LaunchSlabs(op, run);
  }
}

}  // namespace

void LaunchMany(const DenseLinearOp& op, Run& run) {
  const LinearWay way = WayOf(op);
  if (way == LinearWay::kByEights) return LaunchFewTokens({op}, run);
  if (way == LinearWay::kLibrary && LaunchLibraryProduct(op, run)) return;
  LaunchPlainProduct(op, run);
}

void LaunchJoined(const Joined& joined, Run& run) {
  const auto& [norm, ops] = joined;
  if (norm) {
    if (!ops.empty() && LaunchFewStreamed(joined, run)) return;
    LaunchNorm(*norm, run);
  }
  if (ops.empty()) return;
  if (!ops.front().weight.dense()) return LaunchFewOnCores(ops, run);
  if (LaunchFewStreamed({std::nullopt, ops}, run)) return;
  std::vector<DenseLinearOp> dense;
  for (const LinearOp& op : ops) dense.push_back(DenseOf(op));
  LaunchFewTokens(dense, run);
}

void Launch(const LinearOp& op, Run& run) {
  if (op.weight.dense()) LaunchDense(op, run);
  else LaunchStored(op, run);
  run.inputs().Written(op.out);
}

}  // namespace zi::cuda
