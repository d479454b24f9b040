// Implements cpu/quantise.h: shares the rows among the threads of a pool.
#include "cpu/quantise.h"

#include <algorithm>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/kernels.h"

namespace zi {
namespace {

/// Large enough to be worth handing to another thread.
constexpr int64_t kChunkValues = 1 << 15;

}  // namespace

void QuantiseLoss::Add(const QuantiseLoss& other) {
  squares += other.squares;
  lost_squares += other.lost_squares;
  largest = std::max(largest, other.largest);
  if (other.not_finite >= 0 && (not_finite < 0 || other.not_finite < not_finite)) not_finite = other.not_finite;
}

int64_t CodeStride(QuantiseTo to, int64_t inputs) {
  switch (to) {
    case QuantiseTo::kInt4:
      return (inputs + 7) / 8 * 4;
    case QuantiseTo::kInt8:
      return (inputs + 3) / 4 * 4;
    case QuantiseTo::kE4M3:
      return inputs;
  }
  return 0;
}

QuantiseLoss Quantise(const QuantiseJob& job, const Kernels& kernels, ThreadPool& pool) {
  struct Shared {
    const QuantiseJob& job;
    const Kernels& kernels;
    // Sums are made row by row: whoever took which rows changes no figure.
    std::vector<QuantiseLoss> rows;
  } shared{job, kernels, std::vector<QuantiseLoss>(static_cast<size_t>(job.rows))};
  const CancelFlag never{false};
  const int64_t chunk = std::max<int64_t>(1, kChunkValues / std::max<int64_t>(1, job.inputs));
  pool.ParallelFor(
      static_cast<size_t>(job.rows), static_cast<size_t>(chunk), never,
      [](void* context, size_t begin, size_t end) {
        auto& all = *static_cast<Shared*>(context);
        for (size_t row = begin; row < end; ++row) {
          all.kernels.quantise_row(all.job, static_cast<int64_t>(row), all.rows[row]);
        }
      },
      &shared);
  QuantiseLoss total;
  for (const QuantiseLoss& row : shared.rows) total.Add(row);
  return total;
}

}  // namespace zi
