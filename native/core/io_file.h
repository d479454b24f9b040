// A file opened for streaming: O_DIRECT where the file system allows it, through the page cache where not.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "core/io_faults.h"

namespace zi {

class IoFile {
 public:
  /// Throws std::system_error when the file cannot be opened for reading or is no regular file.
  IoFile(uint32_t id, std::string path, bool want_direct, const IoFaultPlan& faults);
  ~IoFile();
  IoFile(const IoFile&) = delete;
  IoFile& operator=(const IoFile&) = delete;

  uint32_t id() const { return id_; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_; }
  /// The size when it was opened.
  uint64_t size_bytes() const { return size_bytes_; }
  /// Whether the file, as it is now, holds nothing from `offset` on.
  bool EndsBy(uint64_t offset) const;
  bool direct() const { return direct_; }
  /// Offsets, sizes and addresses of reads are multiples of this; 1 when buffered.
  uint64_t alignment_bytes() const { return alignment_bytes_; }
  /// Why O_DIRECT was refused; 0 when it was granted or not asked for.
  int direct_refused_errno() const { return direct_refused_errno_; }

  /// Gives back the page cache behind a finished read, when the cache stands in for a refused O_DIRECT: a cyclic
  /// stream larger than the cache never hits it and would only push out others' pages, and what fits into DRAM
  /// rests in the engine's own DRAM tier. Files opened buffered on request keep their cache.
  void DropCache(uint64_t offset, uint64_t size_bytes) const;

  /// The device that holds its bytes, as the system numbers it.
  uint64_t device() const { return device_; }
  /// Its place among the drives of its reader, each of which has reads of its own in flight.
  unsigned drive = 0;

  /// Slot in the ring's table of registered files, -1 without one; `slot_owner` frees the slot with the file.
  int slot = -1;
  std::shared_ptr<void> slot_owner;

 private:
  bool OpenDirect(const IoFaultPlan& faults);
  bool Refuse(int error);

  const uint32_t id_;
  const std::string path_;
  int fd_ = -1;
  uint64_t size_bytes_ = 0;
  uint64_t device_ = 0;
  bool direct_ = false;
  uint64_t alignment_bytes_ = 1;
  int direct_refused_errno_ = 0;
};

}  // namespace zi
