// Implements cpu/host_part.h.
#include "cpu/host_part.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>

#include "core/clock.h"
#include "ops/mailbox.h"

namespace zi {
namespace {

int32_t* Words(const View& view) { return reinterpret_cast<int32_t*>(view.data); }
float* RowOf(const View& view, int64_t row) { return reinterpret_cast<float*>(view.data) + row * view.strides[0]; }
int32_t Load(const Mail& mail, MailWord word) {
  return std::atomic_ref<int32_t>(Words(mail.words)[word]).load(std::memory_order_acquire);
}
void Store(const Mail& mail, MailWord word, int32_t value) {
  std::atomic_ref<int32_t>(Words(mail.words)[word]).store(value, std::memory_order_release);
}
int64_t NowNs() { return static_cast<int64_t>(NowMs() * 1e6); }
int64_t& AskedAt(const Mail& mail) { return *reinterpret_cast<int64_t*>(Words(mail.state) + kAskedAtState); }
/// A read takes at least as long.
constexpr auto kNap = std::chrono::microseconds(20);
constexpr int kTurnsAwake = 2000;

int32_t Capped(int64_t ns) {
  return static_cast<int32_t>(std::clamp<int64_t>(ns, 0, std::numeric_limits<int32_t>::max()));
}

}  // namespace

void CopyRows(const View& from, const View& to) {
  for (int64_t row = 0; row < to.shape[0]; ++row) {
    std::memcpy(RowOf(to, row), RowOf(from, row), static_cast<size_t>(to.shape[1]) * sizeof(float));
  }
}

int32_t PlannedShare(const Mail& mail, int32_t missing, int32_t calls) {
  if (missing == 0) return 0;
  const auto word = static_cast<MailWord>(kSharesWord + missing);
  return ShareOf(Load(mail, word), missing, calls, IsBalanced(mail));
}

bool IsBalanced(const Mail& mail) { return Load(mail, kTryWord) != 0; }

void NoteAsked(const Mail& mail, int32_t came, int32_t aside) {
  AskedAt(mail) = NowNs();
  Words(mail.state)[kCameState] = came;
  Words(mail.state)[kAsideState] = aside;
  Store(mail, kAsideNowWord, aside);
}

void Ask(const Mail& mail, int64_t job) {
  const auto sequence = static_cast<uint32_t>(++Words(mail.state)[kAskedState]);
  const uint64_t both = static_cast<uint64_t>(job) << 32 | sequence;
  std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(Words(mail.words) + kAskedWord)).store(both, std::memory_order_release);
}

void AwaitHost(const Mail& mail, const CancelFlag& cancel) {
  const int32_t asked = Words(mail.state)[kAskedState];
  if (Words(mail.state)[kTakenState] == asked) return;
  for (int turn = 1; Load(mail, kDoneWord) != asked; ++turn) {
    if (cancel) return;
    if (Load(mail, kClosedWord) != 0) throw std::runtime_error("the processor was stopped before it had done its part");
    _mm_pause();
    if (turn % 256 == 0) std::this_thread::yield();
  }
  Words(mail.state)[kTakenState] = asked;
  if (Load(mail, kFailedWord) != 0) throw std::runtime_error("the processor failed in its part");
}

void AwaitWord(const Mail& mail, const int32_t* word, int32_t value, const CancelFlag& cancel) {
  const std::atomic_ref<int32_t> there(*const_cast<int32_t*>(word));
  for (int turn = 1; there.load(std::memory_order_acquire) != value; ++turn) {
    if (cancel) return;
    if (Load(mail, kFailedWord) != 0) throw std::runtime_error("the processor failed in its part");
    if (Load(mail, kClosedWord) != 0) throw std::runtime_error("the processor was stopped before it had done its part");
    if (turn < kTurnsAwake) {
      _mm_pause();
    } else {
      std::this_thread::sleep_for(kNap);
    }
  }
}

void AskHost(const AskHostOp& op, Run& run) {
  AwaitHost(op.mail, run.cancel);
  CopyRows(op.from, op.to);
  NoteAsked(op.mail, 0, 0);
  Ask(op.mail, op.job);
}

void TakeHost(const TakeHostOp& op, Run& run) {
  const int64_t begin = NowNs();
  AwaitHost(op.mail, run.cancel);
  Store(op.mail, kSpanWord, Capped(begin - AskedAt(op.mail)));
  Store(op.mail, kCameWord, Words(op.mail.state)[kCameState]);
  for (int64_t row = 0; row < op.out.shape[0]; ++row) {
    if (op.choices.data) {
      const int64_t each = op.choices.shape[1];
      if (Words(op.choices)[row / each * op.choices.strides[0] + row % each] != kElsewhere) continue;
    }
    std::memcpy(RowOf(op.out, row), RowOf(op.from, row), static_cast<size_t>(op.out.shape[1]) * sizeof(float));
  }
}

}  // namespace zi
