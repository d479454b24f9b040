// Implements core/io_chunk.h: the four cases of a completion.
#include "core/io_chunk.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/io_file.h"
#include "core/memory.h"

namespace zi {

uint64_t IoChunk::file_offset() const { return read->file_offset + start + resume_bytes; }

uint8_t* IoChunk::destination() const { return read->memory->data() + read->memory_offset + start + resume_bytes; }

uint64_t IoChunk::required_bytes() const {
  return read->required_bytes <= start ? 0 : std::min(size_bytes, read->required_bytes - start);
}

int64_t PlainRead(const IoChunk& chunk) {
  const ssize_t result =
      pread(chunk.read->file->fd(), chunk.destination(), chunk.length(), static_cast<off_t>(chunk.file_offset()));
  return result < 0 ? -errno : result;
}

IoVerdict Advance(IoChunk& chunk, int64_t result) {
  if (result == -EAGAIN || result == -EINTR) {
    return ++chunk.retries < kMaxRetries ? IoVerdict::kRetry : IoVerdict::kFailed;
  }
  if (result < 0) return IoVerdict::kFailed;

  const IoFile& file = *chunk.read->file;
  const uint64_t reached = chunk.resume_bytes + static_cast<uint64_t>(result);
  const bool progress = reached > chunk.arrived_bytes;
  // Less than before is possible, as a direct read resumes before the byte where it stopped; only the last count holds.
  chunk.arrived_bytes = reached;
  if (reached >= chunk.size_bytes) return IoVerdict::kDone;

  // A direct read never returns 0 behind an odd last byte, because it resumes before it; so ask for the size as well.
  if (result == 0 || file.EndsBy(chunk.read->file_offset + chunk.start + reached)) {
    return reached >= chunk.required_bytes() ? IoVerdict::kDone : IoVerdict::kEnded;
  }
  chunk.retries = progress ? 0 : chunk.retries + 1;
  if (chunk.retries >= kMaxRetries) return IoVerdict::kFailed;
  chunk.resume_bytes = reached / file.alignment_bytes() * file.alignment_bytes();
  return IoVerdict::kContinue;
}

}  // namespace zi
