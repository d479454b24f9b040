// Implements cuda/joined.h.
#include "cuda/joined.h"

#include <algorithm>

#include "cuda/inputs.h"
#include "cuda/shapes.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

/// Whether one kernel makes values of both.
bool Alike(const LinearOp& a, const LinearOp& b) {
  if (a.weight.format != b.weight.format || a.weight.type != b.weight.type) return false;
  const View &a_scales = a.weight.Part(WeightPart::kScales), &b_scales = b.weight.Part(WeightPart::kScales);
  return FragmentsOf(a) == FragmentsOf(b) && a_scales.dtype == b_scales.dtype;
}

bool ReadsWeight(const LinearOp& op, const View& written) {
  return std::any_of(std::begin(op.weight.parts), std::end(op.weight.parts),
                     [&](const View& part) { return part.data && Overlaps(part, written); });
}

bool Reads(const LinearOp& op, const View& written) { return Overlaps(op.x, written) || ReadsWeight(op, written); }

bool Aligned(const View& view) { return reinterpret_cast<uintptr_t>(view.data) % 16 == 0; }

}  // namespace

bool IsHiddenNorm(const NormOp& op) {
  const auto& [out, x, weight, bias, eps, offset, centers] = op;
  if (x.rank != 2 || x.dtype != DType::kF32 || !weight.data || weight.rank != 1) return false;
  if (x.shape[1] % 8 != 0 || x.shape[1] <= kLeastHiddenLength || x.shape[1] > kMostHiddenLength) return false;
  if (bias.data && bias.dtype != weight.dtype) return false;
  if (out.dtype != DType::kF32 && out.dtype != weight.dtype) return false;
  return RowsAligned(out, 16) && RowsAligned(x, 16) && Aligned(weight) && (!bias.data || Aligned(bias));
}

std::optional<FragmentKind> StreamedKindOf(const LinearOp& op) {
  const std::optional<FragmentKind> kind = FragmentsOf(op);
  return kind && HasPlainScales(op.weight, *kind) ? kind : std::nullopt;
}

bool JoinedProducts::Add(const NormOp& op) {
  if (waiting_.norm || !waiting_.products.empty()) return false;
  if (!IsHiddenNorm(op) || op.x.shape[0] > kMostNormedTokens || op.out.dtype == DType::kF32 || Overlaps(op.out, op.x)) return false;
  waiting_.norm = op;
  return true;
}

bool JoinedProducts::Add(const LinearOp& op) {
  if (!Fits(op)) return false;
  waiting_.products.push_back(op);
  return true;
}

bool JoinedProducts::Fits(const LinearOp& op) const {
  const auto& [norm, products] = waiting_;
  if (norm) {
    if (!SamePlace(op.x, norm->out) || !StreamedKindOf(op) || Reads(op, op.out)) return false;
    // Blocks norm for themselves, some of them when others have results; one writes what comes of it.
    if (Overlaps(op.out, norm->x) || ReadsWeight(op, norm->out)) return false;
    for (const View& vector : {norm->weight, norm->bias, op.bias}) {
      if (vector.data && (Overlaps(vector, op.out) || Overlaps(vector, norm->out))) return false;
    }
  }
  if (products.empty()) return true;
  if (products.size() == kMostJoined) return false;
  const LinearOp& first = products.front();
  if (!SamePlace(op.x, first.x) || !Alike(op, first) || Reads(op, op.out)) return false;
  return std::none_of(products.begin(), products.end(), [&](const LinearOp& other) {
    return Overlaps(op.out, other.out) || Reads(op, other.out) || Reads(other, op.out);
  });
}

}  // namespace zi::cuda
