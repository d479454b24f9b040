// The machine's limits for benchmarks: how fast memory can be read and how many multiply-adds registers can do.
#pragma once
#include <cstddef>

namespace zi {

/// Bytes per second of `threads` threads that sum up `size` bytes of cold memory; the median of several passes.
double MeasureReadBandwidth(size_t size, unsigned threads);

/// The same of all passes over `size` bytes together that fit into so many milliseconds, one after the other and the last one whole:
/// for what goes on beside them. Caches are not emptied, so `size` has to be many times theirs.
double MeasureReadBandwidthFor(double ms, size_t size, unsigned threads);

/// f32 operations per second (a multiply-add counts two) of `threads` threads; the median of several runs.
double MeasureFlops(unsigned threads);

}  // namespace zi
