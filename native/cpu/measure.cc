// Implements cpu/measure.h with the kernels and a pool of its own size.
#include "cpu/measure.h"

#include <cpuid.h>
#include <emmintrin.h>

#include <algorithm>
#include <memory>
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

constexpr size_t kChunk = size_t{1} << 20;

/// What threads of its own read chunk by chunk.
struct ColdMemory {
  const size_t chunks;
  const std::shared_ptr<HostMemory> memory;
  const Kernels& kernels;
  ThreadPool pool;
  std::vector<float> sums;

  ColdMemory(size_t size, unsigned threads)
      : chunks(std::max<size_t>(1, size / kChunk)), memory(AllocateHost(chunks * kChunk, true)), kernels(*CurrentCpu().kernels),
        pool(threads), sums(chunks) {
    memory->Populate(threads);
  }
  double bytes() const { return static_cast<double>(chunks * kChunk); }
  const char* Chunk(size_t i) const { return reinterpret_cast<const char*>(memory->data() + i * kChunk); }
  void Read(size_t i) { sums[i] = kernels.read_all(reinterpret_cast<const float*>(Chunk(i)), kChunk / sizeof(float)); }
};

}  // namespace

double MeasureReadBandwidth(size_t size, unsigned threads) {
  ColdMemory memory(size, threads);
  return memory.bytes() / MedianSeconds(memory.pool, memory.chunks, [&](size_t i) { memory.Read(i); }, [&] {
    ForEach(memory.pool, memory.chunks, [&](size_t i) { Flush(memory.Chunk(i), kChunk); });
  });
}

double MeasureReadBandwidthFor(double ms, size_t size, unsigned threads) {
  ColdMemory memory(size, threads);
  const double start = NowMs();
  double passes = 0, took_ms = 0;
  for (; took_ms < ms; took_ms = NowMs() - start, ++passes) ForEach(memory.pool, memory.chunks, [&](size_t i) { memory.Read(i); });
  return passes * memory.bytes() / (took_ms / 1e3);
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
