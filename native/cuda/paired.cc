// Implements cuda/paired.h: what is of the second lies so far behind what is of the first, and the inputs are the same.
#include "cuda/paired.h"

#include <algorithm>

#include "cuda/products.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

/// More fill an H200 by themselves: 14336 × 8192 twice takes 131 µs together and 123 one after the other, 512 × 8192 15 and 18.
constexpr int64_t kMostOutputs = 2048;

/// The library reads distances in elements, of which both are positive multiples of 16 bytes.
bool LiesBehind(const View& first, const View& second) {
  return second.data > first.data && (second.data - first.data) % 16 == 0;
}
int64_t Apart(const View& first, const View& second) { return (second.data - first.data) / ElementBytes(first.dtype); }

bool Alike(const View& a, const View& b) {
  return a.dtype == b.dtype && a.shape[0] == b.shape[0] && a.shape[1] == b.shape[1] && a.strides[0] == b.strides[0];
}

/// Nothing but the product itself, by the library as operands are.
bool IsBare(const LinearOp& op) {
  if (!op.weight.dense() || op.bias.data || op.activation != Activation::kNone || op.accumulate) return false;
  const DenseLinearOp dense = DenseOf(op);
  if (WayOf(dense) != LinearWay::kLibrary || dense.input_major) return false;
  const LibraryProduct library = LibraryProductOf(dense);
  return !library.converts && !library.exact && !library.apart;
}

}  // namespace

std::optional<PairedProducts> PairAt(const std::vector<Decoded>& operations, size_t first) {
  if (operations.size() - first < kPairedOperations) return std::nullopt;
  const auto* a = std::get_if<LinearOp>(&operations[first].op);
  const auto* b = std::get_if<LinearOp>(&operations[first + 1].op);
  if (!a || !b || a->x.shape[0] > kSomeTokens || a->out.shape[1] > kMostOutputs || !SamePlace(a->x, b->x) || !IsBare(*a) || !IsBare(*b)) return std::nullopt;
  const View weight = DenseOf(*a).weight, other = DenseOf(*b).weight;
  if (!Alike(weight, other) || !Alike(a->out, b->out) || !LiesBehind(weight, other) || !LiesBehind(a->out, b->out)) return std::nullopt;
  for (const View& read : {a->x, weight, other}) {
    if (Overlaps(a->out, read) || Overlaps(b->out, read)) return std::nullopt;
  }
  if (Overlaps(a->out, b->out)) return std::nullopt;
  return PairedProducts{*a, *b};
}

void Launch(const PairedProducts& pair, Run& run) {
  run.Flush();
  run.OtherQueued();
  const DenseLinearOp first = DenseOf(pair.first), second = DenseOf(pair.second);
  Product product{};
  product.weight = first.weight;
  product.x = first.x;
  product.out = first.out;
  product.second = Product::Second{Apart(first.weight, second.weight), Apart(first.out, second.out)};
  if (!run.products().Multiply(product, run.stream())) {
    LaunchMany(first, run);
    LaunchMany(second, run);
  }
  run.inputs().Written(pair.first.out);
  run.inputs().Written(pair.second.out);
}

}  // namespace zi::cuda
