// Implements cpu/copy.h in pieces that several threads take, and between which a cancel is seen.
#include "cpu/copy.h"

#include <algorithm>
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

void CopyByteRows(const CopyRowsOp& op, Run& run) {
  run.pool.ParallelFor(
      op.rows, std::max<size_t>(1, kPieceBytes / op.row), run.cancel,
      [](void* context, size_t begin, size_t end) {
        const auto& copy = *static_cast<const CopyRowsOp*>(context);
        for (size_t row = begin; row < end; ++row) {
          std::memcpy(copy.to + row * copy.to_stride, copy.from + row * copy.from_stride, copy.row);
        }
      },
      const_cast<CopyRowsOp*>(&op));
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
