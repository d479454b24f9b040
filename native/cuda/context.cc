// Implements cuda/context.h.
#include "cuda/context.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "core/clock.h"
#include "cuda/api.h"

namespace zi::cuda {
namespace {

/// At 30 s a float still tells 2 µs apart, and the two clocks have hardly drifted.
constexpr double kRenewMs = 30'000;

std::string Describe(const Fault& fault) {
  const std::string index = std::to_string(fault.index), value = std::to_string(fault.value);
  const std::string limit = std::to_string(fault.limit);
  switch (static_cast<FaultCode>(fault.code)) {
    case kRowOutside:
      return "gather_rows: row " + value + " of token " + index + " is outside the table of " + limit + " rows";
    case kSlotOutside:
      return "kv_store: slot " + value + " of token " + index + " is outside the cache of " + limit + " slots";
    case kPageOutside:
      return "attention: page entry " + index + " is " + value + ", outside the " + limit + " there are";
    case kSequenceOutside:
      return "attention: sequence " + index + " reaches to " + value + ", outside the " + limit + " there are";
    case kHistoryOutside:
      return "sample: row " + index + " names " + value + " in its history, outside the " + limit + " there are";
    case kMaskOutside:
      return "sample: row " + index + " has mask " + value + ", outside the " + limit + " there are";
    case kAddedOutside:
      return "sample: row " + index + " names " + value + " in what is added to it, outside the " + limit + " there are";
    case kExpertOutside:
      return "expert_linear: expert " + value + " of choice " + index + " is none of " + limit;
    case kExpertInNoSlot:
      return "expert_linear: expert " + value + " of choice " + index + " lies in no slot";
    case kExpertPartOutside:
      return "bring_experts: a part of expert " + index + " ends at byte " + value + ", beyond the " + limit + " there are";
    case kGroupOutside:
      return "a weight's input " + index + " has group " + value + ", which is none of " + limit;
    case kStateOutside:
      return "sequence " + index + " has state " + value + ", outside the " + limit + " there are";
    case kStateTokensOutside:
      return "a sequence with a state, " + index + ", reaches to token " + value + ", outside the " + limit + " there are";
    case kHostFailed:
      return "the processor failed in its part";
    case kNoFault:
      break;
  }
  return "a kernel reported fault " + std::to_string(fault.code) + ", which has no name";
}

std::shared_ptr<const ClockBase> Calibrate(cudaStream_t stream) {
  auto best = std::make_shared<ClockBase>();
  double best_ms = 1e9;
  for (int i = 0; i < 3; ++i) {
    auto base = std::make_shared<ClockBase>();
    Check(cudaEventCreate(&base->event), "cudaEventCreate");
    base->host_ms = NowMs();
    Check(cudaEventRecord(base->event, stream), "cudaEventRecord");
    Check(cudaEventSynchronize(base->event), "cudaEventSynchronize");
    const double round_trip_ms = NowMs() - base->host_ms;
    // The time before is kept: an event never seems later than the moment its promise resolves.
    if (round_trip_ms < best_ms) best_ms = round_trip_ms, best = base;
  }
  return best;
}

/// Never destroyed: at process exit the driver may be gone before static objects are.
struct Contexts {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Context>> by_device;
  std::set<std::pair<int, int>> peers;  // from, to
};

Contexts& AllContexts() {
  static auto* contexts = new Contexts();
  return *contexts;
}

/// Where peers cannot reach each other, copies between them go through the host by themselves.
void EnablePeers(std::set<std::pair<int, int>>* peers, int device, int other) {
  for (const auto& [from, to] : {std::pair(device, other), std::pair(other, device)}) {
    int possible = 0;
    if (cudaDeviceCanAccessPeer(&possible, from, to) == cudaSuccess && possible && cudaSetDevice(from) == cudaSuccess) {
      const cudaError_t code = cudaDeviceEnablePeerAccess(to, 0);
      if (code == cudaSuccess || code == cudaErrorPeerAccessAlreadyEnabled) peers->emplace(from, to);
    }
    cudaGetLastError();
  }
}

std::vector<std::shared_ptr<Context>> ContextsInUse() {
  auto& contexts = AllContexts();
  std::lock_guard<std::mutex> lock(contexts.mutex);
  std::vector<std::shared_ptr<Context>> all;
  for (const auto& [device, context] : contexts.by_device) all.push_back(context);
  return all;
}

}  // namespace

std::shared_ptr<Context> Context::Of(int device) {
  auto& [mutex, by_device, peers] = AllContexts();
  std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = by_device.find(device); found != by_device.end()) return found->second;
  auto context = std::make_shared<Context>(device);
  for (const auto& [other, ignored] : by_device) EnablePeers(&peers, device, other);
  context->Use();
  by_device.emplace(device, context);
  return context;
}

bool Context::Reaches(int from, int to) {
  auto& contexts = AllContexts();
  std::lock_guard<std::mutex> lock(contexts.mutex);
  return from == to || contexts.peers.count({from, to}) > 0;
}

void Context::UseAny() {
  auto& [mutex, by_device, peers] = AllContexts();
  std::lock_guard<std::mutex> lock(mutex);
  if (!by_device.empty() && cudaSetDevice(by_device.begin()->first) != cudaSuccess) cudaGetLastError();
}

bool Context::SynchronizeAll() {
  const auto contexts = ContextsInUse();
  if (std::any_of(contexts.begin(), contexts.end(), [](const auto& context) { return context->abandoned(); })) return false;
  for (const auto& context : contexts) {
    if (cudaSetDevice(context->device()) == cudaSuccess) cudaDeviceSynchronize();
  }
  cudaGetLastError();
  return true;
}

Context::Context(int device) : device_(device) {
  Use();
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    Check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  };
  ask(multiprocessors_, cudaDevAttrMultiProcessorCount);
  ask(shared_memory_.of_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  ask(shared_memory_.of_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  ask(shared_memory_.kept, cudaDevAttrReservedSharedMemoryPerBlock);
  Check(cudaDeviceGetAttribute(&generation_, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  Check(cudaHostAlloc(reinterpret_cast<void**>(&fault_), sizeof(Fault), cudaHostAllocPortable | cudaHostAllocMapped),
        "cudaHostAlloc");
  try {
    std::memset(fault_, 0, sizeof(Fault));
    Check(cudaStreamCreateWithFlags(&clock_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    base_ = Calibrate(clock_stream_);
  } catch (...) {
    if (clock_stream_) cudaStreamDestroy(clock_stream_);
    cudaFreeHost(fault_);
    throw;
  }
}

void Context::Fail(const std::string& sentence) {
  std::vector<std::weak_ptr<FailureListener>> listeners;
  for (const auto& context : ContextsInUse()) {
    std::lock_guard<std::mutex> lock(context->mutex_);
    if (!context->failure_.empty()) continue;
    context->failure_ = sentence;
    for (auto& listener : context->listeners_) listeners.push_back(std::move(listener));
    context->listeners_.clear();
  }
  for (const auto& listener : listeners) {
    if (const auto live = listener.lock()) live->Failed(sentence);
  }
}

std::string Context::failure() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_.empty() || reinterpret_cast<volatile int&>(fault_->code) == kNoFault) return failure_;
  }
  Fail("cuda:" + std::to_string(device_) + ": " + Describe(*fault_));
  return known_failure();
}

std::string Context::known_failure() {
  std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

void Context::Tell(std::weak_ptr<FailureListener> listener) {
  std::lock_guard<std::mutex> lock(mutex_);
  listeners_.erase(std::remove_if(listeners_.begin(), listeners_.end(), [](const auto& one) { return one.expired(); }),
                   listeners_.end());
  listeners_.push_back(std::move(listener));
}

std::shared_ptr<const ClockBase> Context::clock() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (NowMs() - base_->host_ms > kRenewMs) base_ = Calibrate(clock_stream_);
  return base_;
}

std::vector<std::vector<bool>> PeerAccess(const std::vector<int>& devices) {
  for (const int device : devices) Context::Of(device);
  std::vector<std::vector<bool>> access;
  for (const int from : devices) {
    auto& row = access.emplace_back();
    for (const int to : devices) row.push_back(Context::Reaches(from, to));
  }
  return access;
}

}  // namespace zi::cuda
