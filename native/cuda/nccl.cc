// Gathers by NCCL, opened at run time: one communicator per device, all of them of this process and this thread.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/coded_error.h"
#include "core/threads.h"
#include "cuda/api.h"
#include "cuda/context.h"
#include "cuda/library.h"
#include "cuda/nccl_abi.h"
#include "cuda/stream.h"

namespace zi::cuda {
namespace {

/// Bytes that each device gives to the first gather: as many as a shard has, so that NCCL connects as it will for shards.
constexpr size_t kFirstShard = size_t{16} << 20;
constexpr std::chrono::seconds kFirstPatience{30};
/// How often errors that NCCL found by itself, and failures of devices, are looked for.
constexpr std::chrono::milliseconds kLook{50};
/// NCCL ends communicators within this time, or is left alone.
constexpr std::chrono::seconds kPatience{20};

struct Nccl {
  nccl::Functions functions;
  std::string problem;
};

Nccl Load() {
  Nccl result{};
  std::string path;
  void* library = OpenLibrary({"libnccl.so.2"}, &path);
  if (!library) {
    result.problem =
        "NCCL was not found (libnccl.so.2, in the loader's path, CUDA_HOME/lib64 and /usr/local/cuda*/lib64): install "
        "NVIDIA's libnccl2 package or set LD_LIBRARY_PATH to its folder";
    return result;
  }
  auto& f = result.functions;
  const auto get = [&](const char* name, auto& function) {
    void* symbol = dlsym(library, name);
    if (!symbol) result.problem = path + " lacks " + name + ": install NCCL 2.14 or later";
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  get("ncclGetErrorString", f.GetErrorString);
  get("ncclCommInitAll", f.CommInitAll);
  get("ncclCommDestroy", f.CommDestroy);
  get("ncclCommAbort", f.CommAbort);
  get("ncclCommGetAsyncError", f.CommGetAsyncError);
  get("ncclGroupStart", f.GroupStart);
  get("ncclGroupEnd", f.GroupEnd);
  get("ncclAllGather", f.AllGather);
  return result;
}

/// Loads at the first call; the result stays.
const Nccl& Loaded() {
  static const Nccl* loaded = new Nccl(Load());
  return *loaded;
}

const nccl::Functions& Functions() {
  if (!Loaded().problem.empty()) throw std::runtime_error(Loaded().problem);
  return Loaded().functions;
}

/// Outlives the gatherer where NCCL does not come back.
struct Ending {
  std::mutex mutex;
  std::condition_variable changed;
  size_t left;
};

class NcclGatherer final : public Gatherer {
 public:
  explicit NcclGatherer(const std::vector<int>& devices);
  ~NcclGatherer() override { Close(); }

  void Gather(const std::vector<std::shared_ptr<Queue>>& queues, const std::vector<std::shared_ptr<Memory>>& memories,
              size_t shard) override;
  size_t device_bytes() const override { return device_bytes_; }
  void Close() override;

 private:
  /// Empty, or what NCCL refused.
  std::string Launch(const std::vector<cudaStream_t>& streams, const std::vector<uint8_t*>& data, size_t shard);
  std::string Sentence(const char* what, nccl::Result code) const {
    return std::string("NCCL: ") + what + ": " + nccl_.GetErrorString(code);
  }
  /// A first gather on memory of its own: connections are made by it, and take most of NCCL's memory.
  void GatherOnce();
  void Watch();
  /// Ends all communicators, each on a thread of its own, because they wait for each other.
  void End(nccl::Result (*end)(nccl::Communicator*));

  const nccl::Functions& nccl_;
  std::vector<std::shared_ptr<Context>> contexts_;
  std::vector<nccl::Communicator*> communicators_;
  size_t device_bytes_ = 0;
  std::mutex closing_;
  std::timed_mutex launching_;
  std::mutex mutex_;
  std::condition_variable stopping_;
  bool stop_ = false;   // guarded by mutex_
  bool ended_ = false;  // guarded by launching_
  std::thread watcher_;
};

size_t FreeNow(const Context& context) {
  context.Use();
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

NcclGatherer::NcclGatherer(const std::vector<int>& devices) : nccl_(Functions()) {
  std::vector<size_t> free_before;
  for (const int device : devices) contexts_.push_back(Context::Of(device));
  for (const auto& context : contexts_) free_before.push_back(FreeNow(*context));
  communicators_.resize(devices.size());
  const nccl::Result code = nccl_.CommInitAll(communicators_.data(), static_cast<int>(devices.size()), devices.data());
  if (code != nccl::kSuccess) throw std::runtime_error(Sentence("ncclCommInitAll", code));
  try {
    GatherOnce();
    for (size_t g = 0; g < contexts_.size(); ++g) {
      const size_t free = FreeNow(*contexts_[g]);
      device_bytes_ = std::max(device_bytes_, free_before[g] > free ? free_before[g] - free : 0);
    }
  } catch (...) {
    End(nccl_.CommAbort);
    throw;
  }
  try {
    watcher_ = StartThread("zi:nccl", [this] { Watch(); });
  } catch (...) {
    End(nccl_.CommAbort);
    throw;
  }
}

void NcclGatherer::GatherOnce() {
  const size_t count = contexts_.size();
  std::vector<cudaStream_t> streams(count, nullptr);
  std::vector<uint8_t*> data(count, nullptr);
  for (size_t g = 0; g < count; ++g) {
    contexts_[g]->Use();
    Check(cudaStreamCreateWithFlags(&streams[g], cudaStreamNonBlocking), "cudaStreamCreate");
    Check(cudaMalloc(reinterpret_cast<void**>(&data[g]), count * kFirstShard), "cudaMalloc for NCCL's first gather");
  }
  const std::string problem = Launch(streams, data, kFirstShard);
  if (!problem.empty()) throw std::runtime_error(problem);
  const auto deadline = std::chrono::steady_clock::now() + kFirstPatience;
  for (size_t g = 0; g < count; ++g) {
    contexts_[g]->Use();
    cudaError_t code = cudaErrorNotReady;
    while ((code = cudaStreamQuery(streams[g])) == cudaErrorNotReady && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    if (code == cudaErrorNotReady) {
      cudaGetLastError();
      throw std::runtime_error("NCCL's first gather did not end within 30 s: the GPUs see each other, but do not hear");
    }
    Check(code, "NCCL's first gather");
  }
  for (size_t g = 0; g < count; ++g) {
    contexts_[g]->Use();
    Check(cudaFree(data[g]), "cudaFree");
    Check(cudaStreamDestroy(streams[g]), "cudaStreamDestroy");
  }
}

std::string NcclGatherer::Launch(const std::vector<cudaStream_t>& streams, const std::vector<uint8_t*>& data,
                                 size_t shard) {
  nccl::Result code = nccl_.GroupStart();
  if (code != nccl::kSuccess) return Sentence("ncclGroupStart", code);
  for (size_t g = 0; g < streams.size() && code == nccl::kSuccess; ++g) {
    code = nccl_.AllGather(data[g] + g * shard, data[g], shard, nccl::kUint8, communicators_[g], streams[g]);
  }
  const nccl::Result ended = nccl_.GroupEnd();
  if (code != nccl::kSuccess) return Sentence("ncclAllGather", code);
  return ended == nccl::kSuccess ? "" : Sentence("ncclGroupEnd", ended);
}

void NcclGatherer::Gather(const std::vector<std::shared_ptr<Queue>>& queues,
                          const std::vector<std::shared_ptr<Memory>>& memories, size_t shard) {
  const size_t count = contexts_.size();
  if (queues.size() != count || memories.size() != count) {
    throw std::invalid_argument("a gather needs a stream and a memory of each of the " + std::to_string(count) + " devices");
  }
  std::vector<cudaStream_t> streams;
  std::vector<uint8_t*> data;
  for (size_t g = 0; g < count; ++g) {
    const auto* stream = dynamic_cast<const Stream*>(queues[g].get());
    if (!stream || &stream->context() != contexts_[g].get() || memories[g]->place() != contexts_[g]->device()) {
      throw std::invalid_argument("stream and memory " + std::to_string(g) + " of a gather are not of its device");
    }
    if (shard > memories[g]->size() / count) {
      throw std::invalid_argument(std::to_string(count) + " shards of " + std::to_string(shard) +
                                  " bytes do not fit into a memory of " + std::to_string(memories[g]->size()));
    }
    stream->RequireOpen();
    streams.push_back(stream->handle());
    data.push_back(memories[g]->data());
  }
  if (shard == 0) return;
  std::lock_guard<std::timed_mutex> lock(launching_);
  // All take part, or none: one that waits alone would wait for ever.
  for (const auto& context : contexts_) {
    if (!context->failure().empty()) return;  // which has failed the others as well
  }
  if (ended_) throw std::runtime_error("the gatherer is closed");
  const std::string problem = Launch(streams, data, shard);
  if (!problem.empty()) contexts_[0]->Fail(problem);
}

void NcclGatherer::Watch() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (stopping_.wait_for(lock, kLook, [this] { return stop_; })) return;
    }
    for (size_t g = 0; g < contexts_.size(); ++g) {
      nccl::Result error = nccl::kSuccess;
      const nccl::Result code = nccl_.CommGetAsyncError(communicators_[g], &error);
      if (code != nccl::kSuccess) error = code;
      if (error != nccl::kSuccess && error != nccl::kInProgress) {
        contexts_[g]->Fail("cuda:" + std::to_string(contexts_[g]->device()) + ": " + Sentence("gather", error));
      }
    }
    if (contexts_[0]->failure().empty()) continue;
    // Kernels of a gather wait for those of a device that may never run: abort ends them.
    End(nccl_.CommAbort);
    return;
  }
}

void NcclGatherer::End(nccl::Result (*end)(nccl::Communicator*)) {
  {
    // Whoever launches holds the lock for microseconds, unless the driver's queue is full of what only an abort ends.
    std::unique_lock<std::timed_mutex> lock(launching_, std::chrono::seconds(2));
    if (ended_) return;
    ended_ = true;
  }
  const auto ending = std::make_shared<Ending>();
  ending->left = communicators_.size();
  for (nccl::Communicator* communicator : communicators_) {
    const auto finish = [ending, communicator, end] {
      end(communicator);
      std::lock_guard<std::mutex> done(ending->mutex);
      --ending->left;
      ending->changed.notify_all();
    };
    try {
      StartDetached("zi:nccl end", finish);
    } catch (const CodedError&) {
      // One after the other they would wait for ever: it is left to the end of the process.
      std::lock_guard<std::mutex> done(ending->mutex);
      --ending->left;
    }
  }
  std::unique_lock<std::mutex> waiting(ending->mutex);
  ending->changed.wait_for(waiting, kPatience, [&] { return ending->left == 0; });
}

void NcclGatherer::Close() {
  std::lock_guard<std::mutex> once(closing_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  stopping_.notify_all();
  if (watcher_.joinable()) watcher_.join();
  End(contexts_[0]->failure().empty() ? nccl_.CommDestroy : nccl_.CommAbort);
}

}  // namespace

std::string GathererProblem() { return Loaded().problem; }

std::shared_ptr<Gatherer> OpenGatherer(const std::vector<int>& devices) {
  if (devices.empty()) throw std::invalid_argument("a gatherer needs devices");
  return std::make_shared<NcclGatherer>(devices);
}

}  // namespace zi::cuda
