// Implements core/io_ring_engine.h.
#include "core/io_ring_engine.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "core/io_file.h"
#include "core/io_ring.h"
#include "core/io_ring_tables.h"
#include "core/io_thread.h"
#include "core/memory.h"

namespace zi {
namespace {

/// user_data of the read that waits for Wake(); blocks use their place in `in_flight_`.
constexpr uint64_t kWake = UINT64_MAX;

class RingEngine final : public IoEngine {
 public:
  RingEngine(IoQueue& queue, uint64_t queue_depth, const IoFaultPlan& faults)
      : queue_(queue),
        // One entry more than there are blocks: the wake read.
        ring_(std::make_shared<IoRing>(static_cast<unsigned>(queue_depth) + 1, faults)),
        buffers_(faults),
        files_(ring_),
        in_flight_(queue_depth) {
    wake_fd_ = eventfd(0, EFD_CLOEXEC);
    if (wake_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    for (uint64_t place = queue_depth; place > 0; --place) free_places_.push_back(place - 1);
    thread_ = StartIoThread("zi-uring", [this] { Run(); });
  }
  ~RingEngine() override { thread_.join(); }

  const char* name() const override { return "io_uring"; }

  void Wake() override {
    const uint64_t one = 1;
    // Fails only when the counter is full, and then the thread is awake anyway.
    [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
  }

  void Stop(std::function<void()> stopped) override {
    std::lock_guard<std::mutex> lock(stop_mutex_);
    stopped_ = std::move(stopped);
    stop_requested_ = true;
    Wake();
  }

  void Attach(const std::shared_ptr<IoFile>& file) override { files_.Attach(*file); }

  int Register(const std::shared_ptr<HostMemory>& memory) override {
    std::lock_guard<std::mutex> lock(buffers_mutex_);
    return buffers_.Register(*ring_, memory);
  }
  void Unregister(uint32_t memory_id) override {
    std::lock_guard<std::mutex> lock(buffers_mutex_);
    buffers_.Unregister(*ring_, memory_id);
  }

 private:
  void Run() {
    for (;;) {
      Fill();
      // Stop() always wakes, so the wake read comes back; while it is out, the kernel may still write wake_value_.
      if (stop_requested_ && !wake_armed_ && free_places_.size() == in_flight_.size()) break;
      Reap();
    }
    ring_.reset();
    {
      // Whoever keeps a closed reader keeps no memory with it.
      std::lock_guard<std::mutex> lock(buffers_mutex_);
      buffers_.Forget();
    }
    {
      // Stop() may still be about to write to the descriptor.
      std::lock_guard<std::mutex> lock(stop_mutex_);
      close(wake_fd_);
    }
    stopped_();
  }

  /// Tops the ring up with blocks. Holds the buffer table from look-up to submission, so that no buffer is
  /// unregistered in between; what has been submitted keeps its buffer by the kernel's own count.
  void Fill() {
    std::lock_guard<std::mutex> lock(buffers_mutex_);
    if (!wake_armed_ && !stop_requested_) {
      wake_armed_ = true;
      io_uring_sqe* sqe = io_uring_get_sqe(ring_->get());
      io_uring_prep_read(sqe, wake_fd_, &wake_value_, sizeof(wake_value_), 0);
      io_uring_sqe_set_data64(sqe, kWake);
    }
    while (!free_places_.empty()) {
      std::optional<IoBlock> block = queue_.TryTake();
      if (!block) break;
      const uint64_t place = free_places_.back();
      free_places_.pop_back();
      Prepare(*block, place);
      in_flight_[place] = std::move(block);
    }
    ring_->SubmitAll();
  }

  void Prepare(const IoBlock& block, uint64_t place) {
    const IoFile& file = *block.read->file;
    const HostMemory& memory = *block.read->memory;
    const auto length = static_cast<unsigned>(block.length());
    const auto memory_offset = static_cast<uint64_t>(block.destination() - memory.data());
    const int buffer = buffers_.Find(memory.id(), memory_offset, length);
    const int fd = file.slot >= 0 ? file.slot : file.fd();
    io_uring_sqe* sqe = io_uring_get_sqe(ring_->get());
    if (buffer >= 0) {
      io_uring_prep_read_fixed(sqe, fd, block.destination(), length, block.file_offset(), buffer);
    } else {
      io_uring_prep_read(sqe, fd, block.destination(), length, block.file_offset());
    }
    if (file.slot >= 0) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, place);
  }

  /// Sleeps until something has come back, then handles all that has.
  void Reap() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_wait_cqe(ring_->get(), &cqe) == -EINTR) {
    }
    while (cqe) {
      const uint64_t data = io_uring_cqe_get_data64(cqe);
      const int result = cqe->res;
      io_uring_cqe_seen(ring_->get(), cqe);
      if (data == kWake) {
        wake_armed_ = false;
      } else {
        IoBlock block = std::move(*in_flight_[data]);
        in_flight_[data].reset();
        free_places_.push_back(data);
        queue_.Complete(std::move(block), result);
      }
      cqe = nullptr;
      io_uring_peek_cqe(ring_->get(), &cqe);
    }
  }

  IoQueue& queue_;
  std::shared_ptr<IoRing> ring_;
  std::mutex buffers_mutex_;
  FixedBuffers buffers_;
  FixedFiles files_;
  int wake_fd_ = -1;
  std::atomic<bool> stop_requested_{false};
  std::function<void()> stopped_;  // written before stop_requested_, read after
  std::mutex stop_mutex_;

  // The thread's own.
  uint64_t wake_value_ = 0;
  bool wake_armed_ = false;
  std::vector<std::optional<IoBlock>> in_flight_;
  std::vector<uint64_t> free_places_;

  std::thread thread_;
};

}  // namespace

std::unique_ptr<IoEngine> StartRingEngine(IoQueue& queue, uint64_t queue_depth, const IoFaultPlan& faults) {
  return std::make_unique<RingEngine>(queue, queue_depth, faults);
}

}  // namespace zi
