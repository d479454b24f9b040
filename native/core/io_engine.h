// The port of the read engine: what turns the queue's chunks into bytes in memory.
#pragma once
#include <cerrno>
#include <functional>
#include <memory>

#include "core/io_types.h"

namespace zi {

/// Made by StartRingEngine or StartThreadEngine. All calls come from one thread, the owner's.
class IoEngine {
 public:
  /// Joins the engine's threads. Stop() must have been called.
  virtual ~IoEngine() = default;
  virtual const char* name() const = 0;
  /// A sentence about what it lacks; empty when it lacks nothing.
  virtual std::string note() const noexcept { return {}; }

  /// The queue has got something new. Not after Stop().
  virtual void Wake() = 0;
  /// The queue has been closed: finish what is in flight, free everything, then call `stopped` on an engine thread.
  virtual void Stop(std::function<void()> stopped) = 0;

  /// Optional accelerations. Register() gives 0, or the errno with which the kernel refused.
  virtual void Attach(const std::shared_ptr<IoFile>&) {}
  virtual int Register(const std::shared_ptr<HostMemory>&) { return ENOTSUP; }
  virtual void Unregister(uint32_t /*memory_id*/) {}
};

}  // namespace zi
