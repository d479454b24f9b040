// Implements cpu/host_worker.h.
#include "cpu/host_worker.h"

#include <immintrin.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <stdexcept>

#include "core/clock.h"
#include "core/threads.h"
#include "cpu/dispatch.h"
#include "cpu/isa.h"
#include "ops/mailbox.h"

namespace zi {
namespace {

/// Between two asks of one pass lie a few hundred microseconds, or milliseconds where layers stream.
constexpr double kSpinMs = 2;
constexpr auto kNap = std::chrono::microseconds(20);
/// Shares are reckoned anew every so many measurements.
constexpr uint32_t kLearnEvery = 8;
/// From a device's asking until a job begins, and from its end until the device sees that.
constexpr double kMailMs = 0.008;

}  // namespace

HostWorker::HostWorker(const std::string& name, std::shared_ptr<HostMemory> mail)
    : words_(reinterpret_cast<int32_t*>(mail->data())), mail_(std::move(mail)) {
  if (mail_->size() < kMailWords * sizeof(int32_t)) throw std::invalid_argument("a mailbox has more words");
  thread_ = StartThread(("zi:" + name).c_str(), [this] { Loop(); });
}

HostWorker::~HostWorker() { Close(); }

uint32_t HostWorker::Define(const double* words, size_t count) {
  auto work = std::make_shared<const Stream::Work>(WorkForAll(words, count));
  std::lock_guard<std::mutex> lock(mutex_);
  const uint32_t job = next_job_++;
  jobs_.emplace(job, std::move(work));
  return job;
}

void HostWorker::Forget(uint32_t job) {
  std::lock_guard<std::mutex> lock(mutex_);
  jobs_.erase(job);
}

void HostWorker::Begin() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (begun_++ == 0) {
      pool_ = CurrentCpu().pool;
      pool_->BeginLookout();
    }
  }
  changed_.notify_one();
}

void HostWorker::End() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (--begun_ == 0) EndLookout();
}

void HostWorker::EndLookout() {
  if (pool_) pool_->EndLookout();
  pool_.reset();
}

void HostWorker::Share(ShareRule rule, const ShareRates& rates) {
  std::lock_guard<std::mutex> lock(mutex_);
  rule_ = rule;
  device_ = CostLine(rates.device_ms, rates.bring_ms);
  host_ = CostLine(rates.host_ms, rates.compute_ms);
  WriteShares();
}

ShareRates HostWorker::rates() {
  std::lock_guard<std::mutex> lock(mutex_);
  return {device_.each_ms(), host_.each_ms(), device_.fixed_ms(), host_.fixed_ms()};
}

std::string HostWorker::failure() {
  std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

void HostWorker::Close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  std::atomic_ref<int32_t>(words_[kClosedWord]).store(1, std::memory_order_release);
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
  std::lock_guard<std::mutex> lock(mutex_);
  jobs_.clear();  // they hold memory
  EndLookout();
}

void HostWorker::Loop() {
  prctl(PR_SET_TIMERSLACK, 1000UL);  // a nap is as long as it says
  uint64_t asked;
  while (Next(&asked)) Do(asked);
}

bool HostWorker::Next(uint64_t* asked) {
  const std::atomic_ref<uint64_t> word(*reinterpret_cast<uint64_t*>(words_ + kAskedWord));
  double spin_until = NowMs() + kSpinMs;
  for (uint32_t turn = 1; !closed_; ++turn) {
    // First of all: a worker that was never begun computes nothing.
    if (begun_ == 0) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return begun_ > 0 || closed_; });
      spin_until = NowMs() + kSpinMs;
      continue;
    }
    *asked = word.load(std::memory_order_acquire);
    if (static_cast<uint32_t>(*asked) != done_) return true;
    _mm_pause();
    if (turn % 64 != 0) continue;
    // A thread that computes may need this core.
    std::this_thread::yield();
    if (NowMs() > spin_until) std::this_thread::sleep_for(kNap);
  }
  return false;
}

void HostWorker::Do(uint64_t asked) {
  const auto job = static_cast<uint32_t>(asked >> 32);
  done_ = static_cast<uint32_t>(asked);
  std::shared_ptr<const Stream::Work> work;
  bool failed;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = jobs_.find(job);
    if (found != jobs_.end()) work = found->second;
    if (failure_.empty() && !work) failure_ = "a device asked for job " + std::to_string(job) + ", which there is not";
    failed = !failure_.empty();
  }
  const double begin = NowMs();
  if (!failed) {
    try {
      (*work)(closed_);
    } catch (const std::exception& error) {
      std::lock_guard<std::mutex> lock(mutex_);
      failure_ = error.what();
      failed = true;
    }
  }
  const double took_ms = NowMs() - begin;
  if (failed) std::atomic_ref<int32_t>(words_[kFailedWord]).store(1, std::memory_order_release);
  std::atomic_ref<int32_t>(words_[kDoneWord]).store(static_cast<int32_t>(done_), std::memory_order_release);
  Learn(took_ms);
}

/// The device has said of the job before how long it took for its own part; of this one, how many experts it has is known.
void HostWorker::Learn(double took_ms) {
  const auto load = [this](MailWord word) { return std::atomic_ref<int32_t>(words_[word]).load(std::memory_order_acquire); };
  const int32_t asides = load(kAsideNowWord), came = load(kCameWord);
  const double span_ms = load(kSpanWord) * 1e-6;
  if (asides <= 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  host_.Add(asides, took_ms + kMailMs);
  if (span_ms > 0 && came >= 0) device_.Add(came, span_ms);
  if (++learned_ % kLearnEvery == 0) WriteShares();
}

/// So that both end together.
void HostWorker::WriteShares() {
  std::atomic_ref<int32_t>(words_[kTryWord]).store(rule_ == ShareRule::kBalanced ? 1 : 0, std::memory_order_relaxed);
  for (int32_t missing = 0; kSharesWord + missing < kMailWords; ++missing) {
    int32_t share = 0;
    if (rule_ == ShareRule::kAll) share = missing;
    if (rule_ == ShareRule::kBalanced) {
      // device + (n − c) · bring = host + c · compute; of the whole numbers beside it the better one, or none.
      const double both = device_.each_ms() + host_.each_ms();
      const double even = both > 0 ? (device_.fixed_ms() - host_.fixed_ms() + missing * device_.each_ms()) / both : 0;
      const auto end_ms = [&](int32_t c) {
        const double host_ms = c == 0 ? 0 : host_.fixed_ms() + c * host_.each_ms();
        return std::max(device_.fixed_ms() + (missing - c) * device_.each_ms(), host_ms);
      };
      share = std::clamp(static_cast<int32_t>(std::floor(std::min(even, 1e6))), 0, missing);
      if (share < missing && end_ms(share + 1) < end_ms(share)) ++share;
      if (end_ms(0) < end_ms(share)) share = 0;
    }
    std::atomic_ref<int32_t>(words_[kSharesWord + missing]).store(share, std::memory_order_relaxed);
  }
}

}  // namespace zi
