// The engine of choice: one thread that owns one io_uring and keeps it full.
#pragma once
#include <memory>

#include "core/io_engine.h"
#include "core/io_queue.h"

namespace zi {

/// `queue` must outlive the engine. Throws std::system_error where io_uring cannot be used, and
/// CodedError where its thread cannot start.
std::unique_ptr<IoEngine> StartRingEngine(IoQueue& queue, uint64_t queue_depth, const IoFaultPlan& faults);

}  // namespace zi
