// The read engine as its users see it: open files, register memory, queue batches, close.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/io_engine.h"
#include "core/io_queue.h"
#include "core/io_types.h"

namespace zi {

/// Numbers per read: file, fileOffset, sizeBytes, requiredBytes, memory id, memoryOffset.
constexpr size_t kReadWords = 6;

/// Used from one thread, but for Submit. Misuse throws std::invalid_argument or std::out_of_range, the system's refusals throw
/// std::system_error; what happens later is reported to the batch.
class IoReader {
 public:
  explicit IoReader(const IoOptions& options);
  /// Closes if need be and waits for the reads in flight.
  ~IoReader();
  IoReader(const IoReader&) = delete;
  IoReader& operator=(const IoReader&) = delete;

  const char* engine_name() const { return engine_->name(); }
  const std::vector<std::string>& notes() const { return notes_; }

  std::shared_ptr<const IoFile> Open(const std::string& path);
  /// Reads already queued still finish.
  void CloseFile(uint32_t file);

  /// False, with a note, when the kernel refuses; reads then work without.
  bool Register(uint32_t memory_id);
  void Unregister(uint32_t memory_id);

  /// Checks a batch and resolves its ids; afterwards only the system can fail it. Empty after Close().
  std::vector<IoRead> Check(const double* words, size_t count) const;
  /// From any thread. Fails the batch with ECANCELED after Close(). `urgent`: before those that are queued and not urgent.
  void Submit(std::vector<IoRead> reads, bool urgent, IoDone done);

  IoStats stats() const { return queue_.stats(); }
  /// `closed` is called when nothing is in flight and the ring is freed. May be called again.
  void Close(std::function<void()> closed);

 private:
  IoRead CheckRead(const double* words) const;
  void RequireOpen() const;
  void Note(bool& said, std::string sentence);

  const IoOptions options_;
  IoFaults faults_;
  IoQueue queue_;
  std::unique_ptr<IoEngine> engine_;
  std::vector<std::string> notes_;
  bool said_buffered_ = false;
  bool said_unregistered_ = false;
  std::unordered_map<uint32_t, std::shared_ptr<IoFile>> files_;
  uint32_t next_file_ = 1;
  /// By device, in the order in which files of theirs were opened first.
  std::unordered_map<uint64_t, unsigned> drives_;

  bool closing_ = false;  // written by the owner's thread, with the mutex held
  std::mutex closing_mutex_;
  std::mutex closed_mutex_;
  bool closed_ = false;  // by an engine thread
  std::vector<std::function<void()>> on_closed_;
};

}  // namespace zi
