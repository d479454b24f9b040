// Turns one encoded operation into work for a stream.
#pragma once
#include <cstddef>

#include "core/stream.h"

namespace zi {

/// Checks everything that does not depend on the contents of memory; what does (indices, tables) is checked when the
/// work runs and fails the stream. The work holds the memories it uses. Throws std::invalid_argument.
Stream::Work DecodeOperation(const double* words, size_t count);

}  // namespace zi
