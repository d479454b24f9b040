// Implements cuda/rank_exchange.h: memory that all devices of a group write to, and the end of waiting when one of them fails.
#include "cuda/rank_exchange.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <thread>

#include "core/threads.h"
#include "cuda/api.h"

namespace zi::cuda {
namespace {

constexpr auto kLook = std::chrono::milliseconds(50);

/// A word of the host that every kernel of the group looks at while it waits for long.
class ClosedWord final : public FailureListener {
 public:
  ClosedWord() : memory_(AllocateHost(sizeof(int32_t), false)) { Pin(memory_); }
  void Failed(const std::string&) override { Close(); }
  void Close() { std::atomic_ref<int32_t>(*word()).store(1, std::memory_order_release); }
  int32_t* word() const { return reinterpret_cast<int32_t*>(memory_->data()); }

 private:
  const std::shared_ptr<HostMemory> memory_;
};

/// Looks now and then whether a device of the group broke: nobody else may ask one, while all wait for it.
class Lookout {
 public:
  explicit Lookout(const std::vector<std::shared_ptr<Context>>& contexts) : state_(std::make_shared<State>()) {
    for (const auto& context : contexts) {
      context->Use();
      cudaStream_t stream = nullptr;
      Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
      state_->probes.push_back({context, stream});
    }
    thread_ = StartThread("zi:exchange", [state = state_] { state->Look(); });
  }
  ~Lookout() {
    {
      std::lock_guard<std::mutex> lock(state_->mutex);
      state_->stop = true;
    }
    state_->stopping.notify_all();
    if (!thread_.joinable()) return;
    // On a broken device the driver may keep the thread for ever.
    const bool broken = !state_->probes.front().context->known_failure().empty();
    if (broken) {
      thread_.detach();
    } else {
      thread_.join();
    }
  }

 private:
  struct Probe {
    std::shared_ptr<Context> context;
    cudaStream_t stream;
  };
  struct State {
    std::vector<Probe> probes;
    std::mutex mutex;
    std::condition_variable stopping;
    bool stop = false;  // guarded by mutex

    ~State() {
      for (const Probe& probe : probes) {
        if (probe.context->known_failure().empty()) cudaStreamDestroy(probe.stream);
      }
    }
    bool Stopped() {
      std::unique_lock<std::mutex> lock(mutex);
      return stopping.wait_for(lock, kLook, [this] { return stop; });
    }
    void Look() {
      while (!Stopped()) {
        for (const Probe& probe : probes) {
          if (!probe.context->failure().empty()) return;
          cudaError_t code = cudaSetDevice(probe.context->device());
          if (code == cudaSuccess) code = cudaStreamQuery(probe.stream);
          if (code == cudaSuccess || code == cudaErrorNotReady) continue;
          return probe.context->Fail("cuda:" + std::to_string(probe.context->device()) + ": " + cudaGetErrorString(code));
        }
      }
    }
  };
  const std::shared_ptr<State> state_;
  std::thread thread_;
};

size_t RoundedUp(size_t size) { return (size + 255) / 256 * 256; }

}  // namespace

class ExchangeGroup {
 public:
  ExchangeGroup(const std::vector<int>& devices, size_t room, bool through_host)
      : layout{static_cast<int>(devices.size()), RoundedUp(room)}, closed(std::make_shared<ClosedWord>()) {
    for (const int device : devices) contexts.push_back(Context::Of(device));
    bool reach = !through_host;
    for (const int from : devices) {
      for (const int to : devices) reach = reach && (from == to || Context::Reaches(from, to));
    }
    for (const int device : devices) {
      sharing = std::max(sharing, std::count(devices.begin(), devices.end(), device));
    }
    const size_t bytes = layout.Bytes(), epoch_bytes = kMostMeetingBlocks * sizeof(uint32_t);
    on_devices = reach;
    for (const int device : devices) {
      epochs.push_back(Cleared(device, epoch_bytes));
      if (reach) {
        inboxes.push_back(Cleared(device, bytes));
      } else {
        const auto memory = AllocateHost(bytes, bytes >= (size_t{4} << 20));
        Pin(memory);
        inboxes.push_back(memory);
      }
    }
    for (const auto& context : contexts) context->Tell(closed);
    lookout = std::make_unique<Lookout>(contexts);
  }
  ~ExchangeGroup() {
    lookout.reset();
    for (const auto& context : contexts) {
      if (!context->abandoned()) continue;
      // Its kernels may still write to memory of the others.
      new std::vector<std::shared_ptr<Memory>>(std::move(inboxes));
      return;
    }
  }

  const InboxLayout layout;
  const std::shared_ptr<ClosedWord> closed;
  std::vector<std::shared_ptr<Context>> contexts;
  std::vector<std::shared_ptr<Memory>> inboxes, epochs;
  bool on_devices = false;
  /// Ranks of one device, at most.
  std::ptrdiff_t sharing = 1;
  std::unique_ptr<Lookout> lookout;

 private:
  std::shared_ptr<Memory> Cleared(int device, size_t bytes) {
    auto memory = Allocate(device, bytes);
    Context::Of(device)->Use();
    Check(cudaMemset(memory->data(), 0, bytes), "cudaMemset");
    Check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return memory;
  }
};

DeviceExchange::DeviceExchange(int rank, std::shared_ptr<ExchangeGroup> group)
    : Exchange(rank, group->layout.count, group->layout.room), group_(std::move(group)) {}

int DeviceExchange::place() const { return group_->contexts[static_cast<size_t>(rank())]->device(); }
size_t DeviceExchange::device_bytes() const {
  return group_->epochs.front()->size() + (group_->on_devices ? group_->layout.Bytes() : 0);
}
void DeviceExchange::Fail(const std::string&) { group_->closed->Close(); }
InboxLayout DeviceExchange::layout() const { return group_->layout; }
uint8_t* DeviceExchange::inbox(int rank) const { return group_->inboxes[static_cast<size_t>(rank)]->data(); }
uint32_t* DeviceExchange::epochs() const {
  return reinterpret_cast<uint32_t*>(group_->epochs[static_cast<size_t>(rank())]->data());
}
int64_t DeviceExchange::most_blocks() const { return kMostMeetingBlocks / group_->sharing; }
const int32_t* DeviceExchange::closed() const { return group_->closed->word(); }

std::vector<std::shared_ptr<Exchange>> OpenExchange(const std::vector<int>& devices, size_t room, bool through_host) {
  if (devices.empty() || devices.size() > kMostRanks) {
    throw std::invalid_argument("a group has 1 to " + std::to_string(kMostRanks) + " devices");
  }
  if (room == 0) throw std::invalid_argument("a group needs room for a value");
  const auto group = std::make_shared<ExchangeGroup>(devices, room, through_host);
  std::vector<std::shared_ptr<Exchange>> exchanges;
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    PrepareSums(*group->contexts[rank]);
    exchanges.push_back(std::make_shared<DeviceExchange>(static_cast<int>(rank), group));
    EnterExchange(exchanges.back());
  }
  return exchanges;
}

}  // namespace zi::cuda
