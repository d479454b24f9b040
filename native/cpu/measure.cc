// Implements cpu/measure.h with the kernels and a pool of its own size.
#include "cpu/measure.h"

#include <algorithm>
#include <vector>

#include "core/clock.h"
#include "core/memory.h"
#include "core/thread_pool.h"
#include "cpu/isa.h"

namespace zi {
namespace {

constexpr int kRuns = 5;

/// Median seconds of one parallel loop over `count` chunks.
template <class F>
double MedianSeconds(ThreadPool& pool, size_t count, F body) {
  std::vector<double> seconds;
  const CancelFlag never{false};
  for (int i = 0; i < kRuns; ++i) {
    const double start = NowMs();
    pool.ParallelFor(
        count, 1, never, [](void* context, size_t begin, size_t) { (*static_cast<F*>(context))(begin); }, &body);
    seconds.push_back((NowMs() - start) / 1e3);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

}  // namespace

double MeasureReadBandwidth(size_t size, unsigned threads) {
  constexpr size_t kChunk = size_t{1} << 20;
  const size_t chunks = std::max<size_t>(1, size / kChunk);
  const auto memory = AllocateHost(chunks * kChunk, true);
  memory->Populate(threads);
  const Kernels& kernels = *CurrentCpu().kernels;
  ThreadPool pool(threads);
  std::vector<float> sums(chunks);
  const double seconds = MedianSeconds(pool, chunks, [&](size_t i) {
    sums[i] = kernels.read_all(reinterpret_cast<const float*>(memory->data() + i * kChunk), kChunk / sizeof(float));
  });
  return static_cast<double>(chunks * kChunk) / seconds;
}

double MeasureFlops(unsigned threads) {
  constexpr size_t kSteps = 10'000'000;
  const Kernels& kernels = *CurrentCpu().kernels;
  ThreadPool pool(threads);
  std::vector<float> sinks(threads);
  std::vector<double> operations(threads);
  const double seconds = MedianSeconds(pool, threads, [&](size_t i) {
    operations[i] = kernels.multiply_add(kSteps, &sinks[i]);
  });
  double total = 0;
  for (double count : operations) total += count;
  return total / seconds;
}

}  // namespace zi
