// Implements core/io_ring_engine.h.
#include "core/io_ring_engine.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <system_error>
#include <vector>

#include "core/clock.h"
#include "core/faults.h"
#include "core/io_file.h"
#include "core/io_ring.h"
#include "core/io_ring_tables.h"
#include "core/memory.h"
#include "core/threads.h"

namespace zi {
namespace {

/// user_data of the read that waits for Wake(); chunks use their place in `in_flight_`.
constexpr uint64_t kWake = UINT64_MAX;

/// Reads in flight on all drives together: what a ring can have, less the wake read.
constexpr uint64_t kMostInFlight = 32'767;

uint64_t Places(uint64_t depth) { return std::min(depth * kMostDrives, kMostInFlight); }

/// How long the kernel may have no memory for requests until that counts as broken, and between two attempts.
constexpr double kPatienceMs = 10'000;
constexpr useconds_t kBetweenAttemptsUs = 1000;
/// How often a broken ring is asked whether what it had in flight has ended.
constexpr useconds_t kBetweenLooksUs = 5000;

/// An eventfd that is closed once.
class WakeDescriptor {
 public:
  WakeDescriptor() {
    const int injected = FaultAt(FaultPoint::kEventFd);
    fd_ = injected != 0 ? -1 : eventfd(0, EFD_CLOEXEC);
    if (fd_ < 0) throw std::system_error(injected != 0 ? injected : errno, std::generic_category(), "eventfd");
  }
  ~WakeDescriptor() { Close(); }
  WakeDescriptor(const WakeDescriptor&) = delete;
  WakeDescriptor& operator=(const WakeDescriptor&) = delete;
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

class RingEngine final : public IoEngine {
 public:
  RingEngine(IoQueue& queue, uint64_t queue_depth, const IoFaultPlan& faults)
      : queue_(queue),
        // One entry more than there are chunks, for the wake read.
        ring_(std::make_shared<IoRing>(static_cast<unsigned>(Places(queue_depth)) + 1, faults)),
        buffers_(faults),
        files_(ring_),
        in_flight_(Places(queue_depth)) {
    free_places_.reserve(in_flight_.size());
    prepared_.reserve(in_flight_.size() + 1);
    for (uint64_t place = in_flight_.size(); place > 0; --place) free_places_.push_back(place - 1);
    thread_ = StartThread("zi-uring", [this] { Run(); });
  }
  ~RingEngine() override { thread_.join(); }

  const char* name() const override { return "io_uring"; }

  void Wake() override {
    const uint64_t one = 1;
    // Fails only when the counter is full, and then the thread is awake anyway.
    [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
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
      // Looked at once: where Stop() has not been called by now, a wake is armed for it to send.
      const bool stopping = stop_requested_;
      if (stopping && Ended()) break;
      if (broken_errno_ == 0) Fill(stopping);
      if (broken_errno_ != 0) {
        ServeBroken();
      } else if (wake_armed_ || free_places_.size() < in_flight_.size()) {
        Reap();
      }
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
      wake_.Close();
    }
    stopped_();
  }

  /// Stop() always wakes, so the wake read comes back; while it is out, the kernel may still write wake_value_. What came back
  /// short is read on, also when it was the last that was in flight.
  bool Ended() const {
    return stop_requested_ && !wake_armed_ && free_places_.size() == in_flight_.size() && !queue_.HasChunks();
  }

  /// Tops the ring up with chunks. Holds the buffer table from look-up to submission, so that no buffer is
  /// unregistered in between; what has been submitted keeps its buffer by the kernel's own count.
  void Fill(bool stopping) {
    if (const int refused = PrepareAndSubmit(stopping)) Break(refused);
  }

  int PrepareAndSubmit(bool stopping) {
    std::lock_guard<std::mutex> lock(buffers_mutex_);
    if (!wake_armed_ && !stopping) {
      wake_armed_ = true;
      io_uring_sqe* sqe = io_uring_get_sqe(ring_->get());
      io_uring_prep_read(sqe, wake_.get(), &wake_value_, sizeof(wake_value_), 0);
      io_uring_sqe_set_data64(sqe, kWake);
      prepared_.push_back(kWake);
    }
    while (!free_places_.empty()) {
      std::optional<IoChunk> chunk = queue_.TryTake();
      if (!chunk) break;
      const uint64_t place = free_places_.back();
      free_places_.pop_back();
      Prepare(*chunk, place);
      in_flight_[place] = std::move(chunk);
      prepared_.push_back(place);
    }
    return SubmitPrepared();
  }

  /// 0, or the errno that says that the ring is broken. What the kernel does not take for the moment stays prepared.
  int SubmitPrepared() {
    while (!prepared_.empty()) {
      const int result = ring_->Submit();
      if (result > 0) {
        prepared_.erase(prepared_.begin(), prepared_.begin() + std::min<ptrdiff_t>(result, std::ssize(prepared_)));
        refused_since_ms_ = 0;
        continue;
      }
      if (result < 0 && result != -EAGAIN && result != -EBUSY && result != -EINTR) return -result;
      if (refused_since_ms_ == 0) refused_since_ms_ = NowMs();
      return NowMs() - refused_since_ms_ > kPatienceMs ? ENOMEM : 0;
    }
    return 0;
  }

  void Prepare(const IoChunk& chunk, uint64_t place) {
    const IoFile& file = *chunk.read->file;
    const HostMemory& memory = *chunk.read->memory;
    const auto length = static_cast<unsigned>(chunk.length());
    const auto memory_offset = static_cast<uint64_t>(chunk.destination() - memory.data());
    const int buffer = buffers_.Find(memory.id(), memory_offset, length);
    const int fd = file.slot >= 0 ? file.slot : file.fd();
    io_uring_sqe* sqe = io_uring_get_sqe(ring_->get());
    if (buffer >= 0) {
      io_uring_prep_read_fixed(sqe, fd, chunk.destination(), length, chunk.file_offset(), buffer);
    } else {
      io_uring_prep_read(sqe, fd, chunk.destination(), length, chunk.file_offset());
    }
    if (file.slot >= 0) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, place);
  }

  /// Sleeps until something has come back, then handles all that has.
  void Reap() {
    const int result = prepared_.empty() ? ring_->AwaitOne() : -EAGAIN;
    if (result == -EAGAIN || result == -EBUSY) {
      usleep(kBetweenAttemptsUs);
    } else if (result < 0 && result != -EINTR) {
      return Break(-result);
    }
    HandleArrived();
  }

  void HandleArrived() {
    for (io_uring_cqe* cqe = nullptr; io_uring_peek_cqe(ring_->get(), &cqe) == 0 && cqe; cqe = nullptr) {
      const uint64_t data = io_uring_cqe_get_data64(cqe);
      const int result = cqe->res;
      io_uring_cqe_seen(ring_->get(), cqe);
      if (data == kWake) {
        wake_armed_ = false;
        if (result < 0 && result != -EINTR && result != -EAGAIN && broken_errno_ == 0) Break(-result);
      } else {
        Return(data, result);
      }
    }
  }

  /// Hands a chunk back to the queue. The kernel cancels reads for which it can start no thread of its own; nobody else
  /// does, so these are made here.
  void Return(uint64_t place, int64_t result) {
    IoChunk chunk = std::move(*in_flight_[place]);
    in_flight_[place].reset();
    free_places_.push_back(place);
    if (const int error = FaultAt(FaultPoint::kCompletion)) {
      // As if nothing had arrived.
      memset(chunk.destination(), 0xA5, chunk.length());
      result = -error;
    }
    if (result == -ECANCELED) result = PlainRead(chunk);
    queue_.Complete(std::move(chunk), result);
  }

  /// The ring refuses what it must not refuse: what it has not taken fails, and so does all that comes later. What it has
  /// taken is awaited still, because the kernel writes into its memory.
  void Break(int error) {
    broken_errno_ = error;
    for (const uint64_t data : prepared_) {
      if (data == kWake) {
        wake_armed_ = false;
      } else {
        Return(data, -error);
      }
    }
    prepared_.clear();
  }

  /// Sleeps until somebody wakes, or looks again soon where something is in flight.
  void ServeBroken() {
    while (std::optional<IoChunk> chunk = queue_.TryTake()) queue_.Complete(std::move(*chunk), -broken_errno_);
    const bool was_armed = wake_armed_;
    HandleArrived();
    // The wake that came back may be of a chunk that was queued since the queue was empty: nobody wakes for it again.
    if (Ended() || (was_armed && !wake_armed_)) return;
    if (wake_armed_ || free_places_.size() < in_flight_.size()) {
      usleep(kBetweenLooksUs);
      return;
    }
    uint64_t value;
    [[maybe_unused]] const ssize_t taken = read(wake_.get(), &value, sizeof(value));
  }

  IoQueue& queue_;
  std::shared_ptr<IoRing> ring_;
  std::mutex buffers_mutex_;
  FixedBuffers buffers_;
  FixedFiles files_;
  WakeDescriptor wake_;
  std::atomic<bool> stop_requested_{false};
  std::function<void()> stopped_;  // written before stop_requested_, read after
  std::mutex stop_mutex_;

  // What only the engine's thread touches.
  uint64_t wake_value_ = 0;
  bool wake_armed_ = false;
  std::vector<std::optional<IoChunk>> in_flight_;
  std::vector<uint64_t> free_places_;
  std::vector<uint64_t> prepared_;  // not yet taken by the kernel, the oldest first
  double refused_since_ms_ = 0;
  int broken_errno_ = 0;

  std::thread thread_;
};

}  // namespace

std::unique_ptr<IoEngine> StartRingEngine(IoQueue& queue, uint64_t queue_depth, const IoFaultPlan& faults) {
  return std::make_unique<RingEngine>(queue, queue_depth, faults);
}

}  // namespace zi
