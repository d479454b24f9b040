// Implements cpu/copy.h in pieces that several threads take, and between which a cancel is seen.
#include "cpu/copy.h"

#include <cstring>

namespace zi {
namespace {
constexpr size_t kPieceBytes = size_t{1} << 20;
}

void CopyBytes(const CopyOp& op, Run& run) {
  run.pool.ParallelFor(
      op.size, kPieceBytes, run.cancel,
      [](void* context, size_t begin, size_t end) {
        const auto& copy = *static_cast<const CopyOp*>(context);
        std::memcpy(copy.to + begin, copy.from + begin, end - begin);
      },
      const_cast<CopyOp*>(&op));
}

void FillBytes(const FillOp& op, Run& run) {
  run.pool.ParallelFor(
      op.size, kPieceBytes, run.cancel,
      [](void* context, size_t begin, size_t end) {
        const auto& fill = *static_cast<const FillOp*>(context);
        std::memset(fill.to + begin, fill.value, end - begin);
      },
      const_cast<FillOp*>(&op));
}

}  // namespace zi
