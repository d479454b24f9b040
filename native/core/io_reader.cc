// Implements core/io_reader.h: picks the engine, says what was lost, and checks everything before it is queued.
#include "core/io_reader.h"

#include <sys/resource.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "core/io_file.h"
#include "core/io_ring_engine.h"
#include "core/io_thread_engine.h"
#include "core/memory.h"

namespace zi {
namespace {

constexpr uint64_t kMaxQueueDepth = 4096;
constexpr uint64_t kPageBytes = 4096;
/// A kernel read takes a 32-bit length.
constexpr uint64_t kMaxChunkBytes = uint64_t{1} << 30;

const IoOptions& Checked(const IoOptions& options) {
  if (options.queue_depth < 1 || options.queue_depth > kMaxQueueDepth) {
    throw std::out_of_range("queueDepth must be 1 to " + std::to_string(kMaxQueueDepth) + ", not " +
                            std::to_string(options.queue_depth));
  }
  if (options.chunk_bytes < kPageBytes || options.chunk_bytes > kMaxChunkBytes || options.chunk_bytes % kPageBytes) {
    throw std::out_of_range("chunkBytes must be a multiple of 4096 up to 1 GiB, not " +
                            std::to_string(options.chunk_bytes));
  }
  return options;
}

uint64_t ToSize(double number, const char* name) {
  if (number >= 0 && number <= 9007199254740991.0 && number == static_cast<double>(static_cast<uint64_t>(number))) {
    return static_cast<uint64_t>(number);
  }
  throw std::invalid_argument(std::string(name) + " must be a safe non-negative integer");
}

uint32_t ToId(double number, const char* name) {
  const uint64_t id = ToSize(number, name);
  if (id > UINT32_MAX) throw std::invalid_argument(std::string("unknown ") + name);
  return static_cast<uint32_t>(id);
}

std::shared_ptr<HostMemory> RequireMemory(uint32_t id) {
  auto memory = FindHostMemory(id);
  if (!memory) throw std::invalid_argument("unknown, freed or no host memory " + std::to_string(id));
  return memory;
}

std::string LockedMemoryLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return "unlimited";
  return std::to_string(limit.rlim_cur >> 10) + " KiB";
}

std::string RegistrationNote(int error, size_t size_bytes) {
  std::string note = "a buffer of " + std::to_string(size_bytes) + " bytes could not be registered with the kernel (" +
                     DescribeErrno(error) + "); reads into it work, at some more CPU time. ";
  if (error == ENOMEM || error == EPERM) {
    return note + "Raise the limit of locked memory, now " + LockedMemoryLimit() +
           " (ulimit -l unlimited, or docker run --ulimit memlock=-1)";
  }
  if (error == EINVAL || error == ENOTSUP) return note + "Linux 5.19 or later can do it";
  return note + "Fewer or smaller buffers may fit";
}

}  // namespace

IoReader::IoReader(const IoOptions& options)
    : options_(Checked(options)), faults_(options_.faults), queue_(options_.chunk_bytes, options_.queue_depth, faults_) {
  if (options_.engine != IoEngineChoice::kThreads) {
    try {
      engine_ = StartRingEngine(queue_, options_.queue_depth, options_.faults);
      return;
    } catch (const std::system_error& error) {
      if (options_.engine == IoEngineChoice::kIoUring) throw;
      notes_.push_back("io_uring cannot be used (" + DescribeErrno(error.code().value()) +
                       "); files are read by a pool of threads, with fewer reads in flight and some more CPU time. "
                       "Allow it with a seccomp profile that permits io_uring (Docker's default does not) and "
                       "sysctl kernel.io_uring_disabled=0; Linux 5.6 or later has what is needed");
    }
  }
  // Room first: an exception once threads run would have them joined before they were told to end.
  notes_.resize(notes_.size() + 1);
  engine_ = StartThreadEngine(queue_, options_.queue_depth);
  notes_.back() = engine_->note();
  if (notes_.back().empty()) notes_.pop_back();
}

IoReader::~IoReader() {
  Close([] {});
  engine_.reset();
}

std::shared_ptr<const IoFile> IoReader::Open(const std::string& path) {
  RequireOpen();
  auto file = std::make_shared<IoFile>(next_file_, path, options_.direct, options_.faults);
  if (file->direct_refused_errno() != 0) {
    Note(said_buffered_, "'" + path + "' cannot be read with O_DIRECT (" + DescribeErrno(file->direct_refused_errno()) +
                             "); files like it are read through the page cache, at more CPU time. Keep the model on a "
                             "local ext4, xfs or btrfs drive to avoid it");
  }
  const auto [entry, is_new] = drives_.emplace(file->device(), static_cast<unsigned>(drives_.size()));
  file->drive = entry->second % kMostDrives;
  engine_->Attach(file);
  files_.emplace(next_file_++, file);
  return file;
}

void IoReader::CloseFile(uint32_t file) {
  if (files_.erase(file) == 0 && !closing_) throw std::invalid_argument("unknown file " + std::to_string(file));
}

bool IoReader::Register(uint32_t memory_id) {
  RequireOpen();
  const auto memory = RequireMemory(memory_id);
  if (!options_.fixed_buffers) return false;
  const int error = engine_->Register(memory);
  if (error == 0) return true;
  // The note about the lost ring has already been made; threads have nothing to register with.
  if (error != ENOTSUP) Note(said_unregistered_, RegistrationNote(error, memory->size()));
  return false;
}

void IoReader::Unregister(uint32_t memory_id) {
  if (!closing_) engine_->Unregister(memory_id);
}

std::vector<IoRead> IoReader::Check(const double* words, size_t count) const {
  if (count % kReadWords != 0) {
    throw std::invalid_argument("a batch must hold " + std::to_string(kReadWords) + " numbers per read");
  }
  std::vector<IoRead> reads;
  if (closing_) return reads;
  reads.reserve(count / kReadWords);
  for (size_t at = 0; at < count; at += kReadWords) reads.push_back(CheckRead(words + at));
  return reads;
}

IoRead IoReader::CheckRead(const double* words) const {
  const uint32_t file_id = ToId(words[0], "file");
  const auto found = files_.find(file_id);
  if (found == files_.end()) throw std::invalid_argument("unknown file " + std::to_string(file_id));
  IoRead read;
  read.file = found->second;
  read.file_offset = ToSize(words[1], "fileOffset");
  read.size_bytes = ToSize(words[2], "sizeBytes");
  read.required_bytes = ToSize(words[3], "requiredBytes");
  read.memory = RequireMemory(ToId(words[4], "memory id"));
  read.memory_offset = ToSize(words[5], "memoryOffset");

  if (read.required_bytes > read.size_bytes) throw std::out_of_range("requiredBytes must not exceed sizeBytes");
  const uint64_t room = read.memory->size();
  if (read.memory_offset > room || read.size_bytes > room - read.memory_offset) {
    throw std::out_of_range("a read of " + std::to_string(read.size_bytes) + " bytes to offset " +
                            std::to_string(read.memory_offset) + " reaches beyond its memory of " +
                            std::to_string(room) + " bytes");
  }
  const uint64_t alignment = read.file->alignment_bytes();
  const auto address = reinterpret_cast<uintptr_t>(read.memory->data()) + read.memory_offset;
  if (read.file_offset % alignment || read.size_bytes % alignment || address % alignment) {
    throw std::invalid_argument("fileOffset " + std::to_string(read.file_offset) + ", sizeBytes " +
                                std::to_string(read.size_bytes) + " and the memory address of a direct read of '" +
                                read.file->path() + "' must be multiples of " + std::to_string(alignment));
  }
  return read;
}

void IoReader::Submit(std::vector<IoRead> reads, bool urgent, IoDone done) {
  queue_.Push(std::move(reads), urgent, std::move(done));
  std::lock_guard<std::mutex> lock(closing_mutex_);
  if (!closing_) engine_->Wake();
}

void IoReader::RequireOpen() const {
  if (closing_) throw std::system_error(ECANCELED, std::generic_category(), "the reader is closed");
}

/// Each loss is said once, however many files or buffers meet it.
void IoReader::Note(bool& said, std::string sentence) {
  if (!said) notes_.push_back(std::move(sentence));
  said = true;
}

void IoReader::Close(std::function<void()> closed) {
  {
    std::lock_guard<std::mutex> lock(closed_mutex_);
    if (!closed_) {
      on_closed_.push_back(std::move(closed));
      closed = nullptr;
    }
  }
  if (closed) return closed();
  if (closing_) return;
  {
    std::lock_guard<std::mutex> lock(closing_mutex_);
    closing_ = true;
  }
  files_.clear();
  queue_.Close();
  engine_->Stop([this] {
    std::vector<std::function<void()>> waiting;
    {
      std::lock_guard<std::mutex> lock(closed_mutex_);
      closed_ = true;
      waiting.swap(on_closed_);
    }
    for (const auto& call : waiting) call();
  });
}

}  // namespace zi
