// Implements cpu/expert_block.h.
//
// A block has the bits of its operations one by one: of what these write, it leaves out only rows of gates whose choice is computed
// elsewhere, which nothing has written before either.
#include "cpu/expert_block.h"

#include <algorithm>
#include <tuple>
#include <variant>

namespace zi {
namespace {

bool AreAlike(const View& a, const View& b) {
  return a.dtype == b.dtype && a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape) &&
         std::equal(a.strides, a.strides + a.rank, b.strides);
}
bool AreOne(const View& a, const View& b) { return a.data == b.data && AreAlike(a, b); }
bool SameParts(const Weight& a, const Weight& b) {
  return std::equal(a.parts, a.parts + kWeightParts, b.parts, [](const View& of_a, const View& of_b) {
    return of_a.data && of_b.data ? AreAlike(of_a, of_b) : of_a.data == of_b.data;
  });
}
bool SameFormat(const Weight& a, const Weight& b) {
  const auto facts = [](const Weight& w) {
    return std::tuple(w.format, w.outputs, w.inputs, w.first_row, w.row_group, w.input_group, w.product, w.type, w.bits,
                      w.zero_plus_one, w.global_divides);
  };
  return facts(a) == facts(b) && SameParts(a, b);
}

/// Rows are of every choice, and those of experts that no table of slots has to be asked for.
bool IsPlain(const ExpertLinearOp& op) { return !op.in_slots(); }
bool SameChoices(const ExpertLinearOp& a, const ExpertLinearOp& b) {
  return a.expert_count == b.expert_count && AreOne(a.experts, b.experts) && a.out.shape[0] == b.out.shape[0];
}
/// Another product of the same inputs, as those of gates and of what they let through are where checkpoints store both apart.
bool IsBeside(const ExpertLinearOp& a, const ExpertLinearOp& b) {
  return IsPlain(b) && SameChoices(a, b) && AreOne(a.x, b.x) && a.out.data != b.out.data && SameFormat(a.weight, b.weight);
}
bool AddsTo(const ExpertBiasOp& bias, const ExpertLinearOp& product) {
  return AreOne(bias.x, product.out) && AreOne(bias.experts, product.experts) && bias.bias.shape[0] >= product.expert_count;
}

/// Columns of what a product makes, each row of one choice.
bool IsOf(const View& columns, const ExpertLinearOp& product) {
  const View& out = product.out;
  const auto* data = reinterpret_cast<const float*>(columns.data);
  const auto* row = reinterpret_cast<const float*>(out.data);
  return columns.rank == 2 && columns.shape[0] == out.shape[0] && columns.strides[0] == out.strides[0] && columns.strides[1] == 1 &&
         data >= row && data + columns.shape[1] <= row + out.shape[1];
}
bool IsOfProducts(const View& columns, const ExpertBlock& block) {
  return IsOf(columns, *block.products[0]) || (block.products[1] && IsOf(columns, *block.products[1]));
}

/// Goes through operations and takes those that fit.
class Cursor {
 public:
  Cursor(const std::vector<Decoded>& operations, size_t at) : operations_(operations), at_(at) {}
  size_t at() const { return at_; }
  template <class Op, class Fits>
  const Op* Take(Fits fits) {
    const Op* op = at_ < operations_.size() ? std::get_if<Op>(&operations_[at_].op) : nullptr;
    if (!op || !fits(*op)) return nullptr;
    ++at_;
    return op;
  }

 private:
  const std::vector<Decoded>& operations_;
  size_t at_;
};

/// The gates, what they are multiplied with, and the biases in between; false where any of it does not fit.
bool TakeDown(Cursor& next, ExpertBlock* block) {
  const ExpertLinearOp& first = *block->products[0];
  if (!block->products[1]) {
    block->bias = next.Take<ExpertBiasOp>([&](const ExpertBiasOp& op) { return AddsTo(op, first); });
  }
  block->gated = next.Take<GatedOp>([&](const GatedOp& op) {
    return op.out.rank == 2 && IsOfProducts(op.gate, *block) && IsOfProducts(op.up, *block);
  });
  if (!block->gated && !block->products[1]) {
    block->pairs = next.Take<GatedPairsOp>([&](const GatedPairsOp& op) { return AreOne(op.x, first.out); });
  }
  if (!block->gated && !block->pairs) return false;
  const View& inner = block->gated ? block->gated->out : block->pairs->out;
  block->down = next.Take<ExpertLinearOp>([&](const ExpertLinearOp& op) {
    return IsPlain(op) && SameChoices(op, first) && AreOne(op.x, inner);
  });
  if (!block->down) return false;
  block->down_bias = next.Take<ExpertBiasOp>([&](const ExpertBiasOp& op) { return AddsTo(op, *block->down); });
  return true;
}

}  // namespace

size_t FindExpertBlock(const std::vector<Decoded>& operations, size_t first, ExpertBlock* block) {
  Cursor next(operations, first);
  *block = {};
  block->products[0] = next.Take<ExpertLinearOp>(IsPlain);
  if (!block->products[0]) return 0;
  block->products[1] = next.Take<ExpertLinearOp>([&](const ExpertLinearOp& op) { return IsBeside(*block->products[0], op); });
  const ExpertBlock products = *block;
  Cursor rest = next;
  if (TakeDown(rest, block)) return rest.at() - first;
  *block = products;
  return block->products[1] ? next.at() - first : 0;
}

}  // namespace zi
