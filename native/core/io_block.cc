// Implements core/io_block.h: the four cases of a completion, free of threads and system calls.
#include "core/io_block.h"

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

IoVerdict Advance(IoBlock& block, int64_t result) {
  if (result == -EAGAIN || result == -EINTR) {
    return ++block.retries < kMaxRetries ? IoVerdict::kRetry : IoVerdict::kFailed;
  }
  if (result < 0) return IoVerdict::kFailed;
  block.retries = 0;

  const uint64_t reached = block.resume_bytes + static_cast<uint64_t>(result);
  // A direct read that resumes at an aligned offset reads the odd tail of the file again, so stopping twice at the same
  // byte says end of file where a buffered read would return 0. Stopping before it proves nothing: what lay behind
  // counts as not arrived, and is read once more.
  const bool no_progress = result == 0 || reached == block.arrived_bytes;
  block.arrived_bytes = reached;
  if (block.arrived_bytes >= block.size_bytes) return IoVerdict::kDone;

  const bool has_required = block.arrived_bytes >= block.required_bytes();
  if (no_progress) return has_required ? IoVerdict::kDone : IoVerdict::kEnded;
  const IoFile& file = *block.read->file;
  // Where the file ended at open, the end is no surprise: spare the read that would only confirm it.
  const bool at_known_end = block.read->file_offset + block.start + block.arrived_bytes >= file.size_bytes();
  if (has_required && at_known_end) return IoVerdict::kDone;
  block.resume_bytes = block.arrived_bytes / file.alignment_bytes() * file.alignment_bytes();
  return IoVerdict::kContinue;
}

}  // namespace zi
