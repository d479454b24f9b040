// What the bindings see of CUDA: plain C++ without a CUDA header, implemented by the GPU part or by absent.cc.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/event.h"
#include "core/exchange.h"
#include "core/memory.h"
#include "cuda/scratch_needs.h"

namespace zi::cuda {

struct DeviceInfo {
  std::string name, bus_id;
  size_t total_bytes, free_bytes;
  int major, minor;  // compute capability
  int multiprocessors;
};

struct Status {
  /// A sentence about what is missing; empty when the devices can be used.
  std::string problem;
  /// There is a GPU, or a driver too old to say; whether or not it can be used.
  bool present = false;
  std::vector<DeviceInfo> devices;
  /// Where the library for products was found.
  std::string products;
};

/// Never throws. Looks at the driver, the devices and the library for products.
Status Probe();

/// A CUDA stream. Nothing here waits for the device but the destructor.
class Queue {
 public:
  virtual ~Queue() = default;
  /// One operation of op-encoding.ts. Throws std::invalid_argument on operands that do not fit; what the driver refuses
  /// fails the device: later work is dropped and later events fail with the same sentence.
  virtual void Launch(const double* words, size_t count) = 0;
  /// Several, each after a word with its length. Those before one that throws may have been launched. `kept`: what stands
  /// for exactly these words at every call, or 0.
  virtual void LaunchAll(const double* words, size_t count, uint64_t kept) = 0;
  virtual std::shared_ptr<Event> Record() = 0;
  virtual void Wait(const std::shared_ptr<Event>& event) = 0;
  /// Refuses new work and fails the promises that wait; calls `closed` when what was queued has run. Idempotent.
  virtual void Close(std::function<void()> closed) = 0;
};

/// Gathers by a library in which all devices take part at once (NCCL).
class Gatherer {
 public:
  virtual ~Gatherer() = default;
  /// In place: the g-th `shard` bytes of memories[g], on the device of queues[g], come to lie there in all the others.
  /// Queued on every queue or, where a device has failed, on none: then all of them fail. Throws std::invalid_argument.
  virtual void Gather(const std::vector<std::shared_ptr<Queue>>& queues,
                      const std::vector<std::shared_ptr<Memory>>& memories, size_t shard) = 0;
  /// What it takes of a device's memory, at most.
  virtual size_t device_bytes() const = 0;
  /// Waits for its library, not for ever where a device has failed. Call once the queues are closed. Idempotent.
  virtual void Close() = 0;
};

/// Each throws std::runtime_error with a sentence.
std::shared_ptr<Queue> OpenQueue(int device, const std::string& name, bool computes);
/// Takes a second: makes communicators, and gathers once.
std::shared_ptr<Gatherer> OpenGatherer(const std::vector<int>& devices);
/// What these devices sum through, an end for each; `through_host`: by memory of the host even where they reach each other's.
std::vector<std::shared_ptr<Exchange>> OpenExchange(const std::vector<int>& devices, size_t room, bool through_host);
/// A sentence about what gathering lacks; empty when its library is there.
std::string GathererProblem();
/// [i][j]: the i-th device's copies and kernels reach the j-th one's memory without the host in between.
std::vector<std::vector<bool>> PeerAccess(const std::vector<int>& devices);
/// In the table of memories. Throws std::bad_alloc when the device has too little left.
std::shared_ptr<Memory> Allocate(int device, size_t size);
/// Bytes that are free on the device, as the driver counts them.
size_t FreeBytes(int device);
/// Page-locks a block for all devices, several pieces at a time; fastest when its pages were touched before.
void Pin(const std::shared_ptr<HostMemory>& memory);

}  // namespace zi::cuda
