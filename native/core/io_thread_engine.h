// The engine for machines that do not allow io_uring: a few threads that pread.
#pragma once
#include <memory>

#include "core/io_engine.h"
#include "core/io_queue.h"

namespace zi {

/// At most this many threads for each drive, and no more than `queue_depth`: what one needs to be busy with large chunks.
constexpr uint64_t kReadThreads = 8;

/// `queue` must outlive the engine. Throws CodedError where not even one thread starts.
std::unique_ptr<IoEngine> StartThreadEngine(IoQueue& queue, uint64_t queue_depth);

}  // namespace zi
