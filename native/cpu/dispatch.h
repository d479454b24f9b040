// Turns one encoded operation into work for a stream of the processor.
#pragma once
#include <cstddef>

#include "core/stream.h"

namespace zi {

/// Checked as ops/decode.h says; the work holds the memories it uses. Throws std::invalid_argument.
Stream::Work WorkFor(const double* words, size_t count);
/// Several, each after a word with its length: one piece of work that stops between them when it is cancelled.
Stream::Work WorkForAll(const double* words, size_t count);

}  // namespace zi
