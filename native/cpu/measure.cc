// Implements cpu/measure.h with the kernels and a pool of its own size.
#include "cpu/measure.h"

#include <cpuid.h>
#include <emmintrin.h>

#include <algorithm>
#include <vector>

#include "core/clock.h"
#include "core/memory.h"
#include "core/thread_pool.h"
#include "cpu/isa.h"

namespace zi {
namespace {

constexpr int kRuns = 5;

template <class F>
void ForEach(ThreadPool& pool, size_t count, F body) {
  const CancelFlag never{false};
  pool.ParallelFor(
      count, 1, never, [](void* context, size_t begin, size_t) { (*static_cast<F*>(context))(begin); }, &body);
}

/// Median seconds of one parallel loop over `count` chunks; `prepare` runs before each and does not count.
template <class F, class Prepare>
double MedianSeconds(ThreadPool& pool, size_t count, F body, Prepare prepare) {
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) {
    prepare();
    const double start = NowMs();
    ForEach(pool, count, body);
    seconds.push_back((NowMs() - start) / 1e3);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

constexpr size_t kLine = 64;

bool HasFlushOpt() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_CLFLUSHOPT);
}

__attribute__((target("clflushopt"))) void FlushSideBySide(const char* from, size_t size) {
  for (size_t at = 0; at < size; at += kLine) __builtin_ia32_clflushopt(from + at);
}

/// Out of every cache, however large it is: what is read next comes from memory.
void Flush(const char* from, size_t size) {
  static const bool side_by_side = HasFlushOpt();
  if (side_by_side) {
    FlushSideBySide(from, size);
  } else {
    for (size_t at = 0; at < size; at += kLine) _mm_clflush(from + at);
  }
  _mm_mfence();
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
  const auto chunk = [&](size_t i) { return memory->data() + i * kChunk; };
  const double seconds = MedianSeconds(
      pool, chunks,
      [&](size_t i) { sums[i] = kernels.read_all(reinterpret_cast<const float*>(chunk(i)), kChunk / sizeof(float)); },
      [&] { ForEach(pool, chunks, [&](size_t i) { Flush(reinterpret_cast<const char*>(chunk(i)), kChunk); }); });
  return static_cast<double>(chunks * kChunk) / seconds;
}

double MeasureFlops(unsigned threads) {
  constexpr size_t kSteps = 10'000'000;
  const Kernels& kernels = *CurrentCpu().kernels;
  ThreadPool pool(threads);
  std::vector<float> sinks(threads);
  std::vector<double> operations(threads);
  const double seconds = MedianSeconds(
      pool, threads, [&](size_t i) { operations[i] = kernels.multiply_add(kSteps, &sinks[i]); }, [] {});
  double total = 0;
  for (double count : operations) total += count;
  return total / seconds;
}

}  // namespace zi
