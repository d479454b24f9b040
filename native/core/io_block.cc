// Implements core/io_block.h: the four cases of a completion.
#include "core/io_block.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/io_file.h"
#include "core/memory.h"

namespace zi {

uint64_t IoBlock::file_offset() const { return read->file_offset + start + resume_bytes; }

uint8_t* IoBlock::destination() const { return read->memory->data() + read->memory_offset + start + resume_bytes; }

uint64_t IoBlock::required_bytes() const {
  return read->required_bytes <= start ? 0 : std::min(size_bytes, read->required_bytes - start);
}

int64_t PlainRead(const IoBlock& block) {
  const ssize_t result =
      pread(block.read->file->fd(), block.destination(), block.length(), static_cast<off_t>(block.file_offset()));
  return result < 0 ? -errno : result;
}

IoVerdict Advance(IoBlock& block, int64_t result) {
  if (result == -EAGAIN || result == -EINTR) {
    return ++block.retries < kMaxRetries ? IoVerdict::kRetry : IoVerdict::kFailed;
  }
  if (result < 0) return IoVerdict::kFailed;

  const IoFile& file = *block.read->file;
  const uint64_t reached = block.resume_bytes + static_cast<uint64_t>(result);
  const bool progress = reached > block.arrived_bytes;
  // Less than before is possible, as a direct read resumes before the byte where it stopped; only the last count holds.
  block.arrived_bytes = reached;
  if (reached >= block.size_bytes) return IoVerdict::kDone;

  // A direct read never returns 0 behind an odd last byte, because it resumes before it; so ask for the size as well.
  if (result == 0 || file.EndsBy(block.read->file_offset + block.start + reached)) {
    return reached >= block.required_bytes() ? IoVerdict::kDone : IoVerdict::kEnded;
  }
  block.retries = progress ? 0 : block.retries + 1;
  if (block.retries >= kMaxRetries) return IoVerdict::kFailed;
  block.resume_bytes = reached / file.alignment_bytes() * file.alignment_bytes();
  return IoVerdict::kContinue;
}

}  // namespace zi
