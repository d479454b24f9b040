// Implements core/io_file.h: asks statx for the alignment of direct reads and tries one before trusting it.
#include "core/io_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "core/faults.h"

namespace zi {
namespace {

constexpr uint64_t kDefaultAlignment = 4096;
constexpr uint64_t kMinAlignment = 512;

bool Fails(FaultPoint point) {
  const int error = FaultAt(point);
  if (error != 0) errno = error;
  return error != 0;
}

/// What statx says about direct reads: a multiple, 0 for "not possible", or the default where it says nothing.
uint64_t DirectAlignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx facts {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0 && (facts.stx_mask & STATX_DIOALIGN) != 0) {
    if (facts.stx_dio_offset_align == 0) return 0;
    return std::max({kMinAlignment, uint64_t{facts.stx_dio_offset_align}, uint64_t{facts.stx_dio_mem_align}});
  }
#endif
  return kDefaultAlignment;
}

/// Some file systems accept O_DIRECT at open and refuse the first read. Returns its errno or 0.
int ProbeRead(int fd, uint64_t alignment) {
  void* buffer = nullptr;
  if (posix_memalign(&buffer, alignment, alignment) != 0) return ENOMEM;
  ssize_t result;
  do {
    result = pread(fd, buffer, alignment, 0);
  } while (result < 0 && errno == EINTR);
  const int error = result < 0 ? errno : 0;
  free(buffer);
  return error;
}

}  // namespace

IoFile::IoFile(uint32_t id, std::string path, bool want_direct, const IoFaultPlan& faults)
    : id_(id), path_(std::move(path)) {
  struct stat facts {};
  // Before open, because opening a FIFO would wait until somebody writes to it.
  if (Fails(FaultPoint::kStat) || stat(path_.c_str(), &facts) != 0) throw std::system_error(errno, std::generic_category(), path_);
  if (!S_ISREG(facts.st_mode)) {
    throw std::system_error(S_ISDIR(facts.st_mode) ? EISDIR : EINVAL, std::generic_category(),
                            path_ + " is no regular file");
  }
  if (!(want_direct && OpenDirect(faults))) {
    fd_ = Fails(FaultPoint::kOpen) ? -1 : open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), path_);
    posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  if (Fails(FaultPoint::kStat) || fstat(fd_, &facts) != 0) {
    const int error = errno;
    close(fd_);
    throw std::system_error(error, std::generic_category(), path_);
  }
  size_bytes_ = static_cast<uint64_t>(facts.st_size);
  device_ = facts.st_dev;
}

IoFile::~IoFile() {
  slot_owner.reset();  // the ring's reference first, so that close() really closes
  close(fd_);
}

bool IoFile::OpenDirect(const IoFaultPlan& faults) {
  if (faults.direct_open_errno != 0) return Refuse(faults.direct_open_errno);
  fd_ = Fails(FaultPoint::kDirectOpen) ? -1 : open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd_ < 0) return Refuse(errno);
  const uint64_t alignment = DirectAlignment(fd_);
  if (alignment == 0) return Refuse(EINVAL);
  // Only "cannot read like this" means refused; a real read error is reported by the read that meets it.
  const int injected = faults.direct_read_errno != 0 ? faults.direct_read_errno : FaultAt(FaultPoint::kDirectRead);
  const int error = injected != 0 ? injected : ProbeRead(fd_, alignment);
  if (error == EINVAL || error == EOPNOTSUPP) return Refuse(error);
  direct_ = true;
  alignment_bytes_ = alignment;
  return true;
}

bool IoFile::Refuse(int error) {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  direct_refused_errno_ = error;
  return false;
}

bool IoFile::EndsBy(uint64_t offset) const {
  struct stat facts {};
  return !Fails(FaultPoint::kStat) && fstat(fd_, &facts) == 0 && static_cast<uint64_t>(facts.st_size) <= offset;
}

void IoFile::DropCache(uint64_t offset, uint64_t size_bytes) const {
  if (direct_refused_errno_ == 0 || size_bytes == 0) return;
  posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(size_bytes), POSIX_FADV_DONTNEED);
}

}  // namespace zi
