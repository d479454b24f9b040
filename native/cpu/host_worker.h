// HostWorker: a thread that computes on the processor what a device asks for through its mailbox, while the device goes on.
#pragma once
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "core/memory.h"
#include "core/stream.h"
#include "core/thread_pool.h"
#include "cpu/cost_line.h"

namespace zi {

/// How long one expert takes, of those that the device brings to itself and of those that the host computes; and what both take
/// beside.
struct ShareRates {
  double bring_ms, compute_ms, device_ms, host_ms;
};
enum class ShareRule { kBalanced, kNone, kAll };

class HostWorker {
 public:
  /// `mail`: kMailWords of i32, which the device reaches. Throws CodedError where its thread cannot start.
  HostWorker(const std::string& name, std::shared_ptr<HostMemory> mail);
  ~HostWorker();
  HostWorker(const HostWorker&) = delete;
  HostWorker& operator=(const HostWorker&) = delete;

  /// Operations on host memory, as streams take them; gives the job's number. Throws std::invalid_argument.
  uint32_t Define(const double* words, size_t count);
  void Forget(uint32_t job);

  /// Between these the worker, and the threads that it computes with, look out without sleeping for long. They may nest. What is
  /// asked for outside of them waits until the next Begin; a worker that is looking when End is called may still compute it.
  void Begin();
  void End();

  /// Sets which of a device's missing experts the host computes: from rates, which are then corrected by what is measured.
  void Share(ShareRule rule, const ShareRates& rates);
  ShareRates rates();
  /// Why jobs fail, from the first one on that did; empty while none has.
  std::string failure();

  /// Whoever waits for a job waits no longer. Returns when the thread has ended. Idempotent.
  void Close();

 private:
  void Loop();
  bool Next(uint64_t* asked);
  void Do(uint64_t asked);
  void Learn(double took_ms);
  void WriteShares();
  void EndLookout();

  int32_t* const words_;
  const std::shared_ptr<HostMemory> mail_;
  std::atomic<bool> closed_{false};
  std::atomic<int> begun_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  uint32_t next_job_ = 1;                                                    // guarded by mutex_
  std::unordered_map<uint32_t, std::shared_ptr<const Stream::Work>> jobs_;  // guarded by mutex_
  std::string failure_;                                                      // guarded by mutex_
  ShareRule rule_ = ShareRule::kNone;                                        // guarded by mutex_
  CostLine device_, host_;                                                   // guarded by mutex_; by experts that come, and that are computed
  std::shared_ptr<ThreadPool> pool_;  // guarded by mutex_; that whose workers look out as well
  uint32_t done_ = 0;     // the worker's thread only
  uint32_t learned_ = 0;  // the worker's thread only
  std::thread thread_;
};

}  // namespace zi
