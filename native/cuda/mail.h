// The device's side of a mailbox: see ops/mailbox.h.
#pragma once
#include "cuda/fault.h"
#include "ops/mailbox.h"
#include "ops/operand.h"

namespace zi::cuda {

struct MailArguments {
  int32_t *words, *state;
  MailArguments() = default;
  explicit MailArguments(const Mail& mail)
      : words(reinterpret_cast<int32_t*>(mail.words.data)), state(reinterpret_cast<int32_t*>(mail.state.data)) {}
};

#ifdef __CUDACC__
__device__ inline int32_t LoadFromHost(const int32_t* word) {
  int32_t value;
  asm volatile("ld.acquire.sys.global.b32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}
/// Words that say nothing of other memory, so that several are on their way at once.
__device__ inline int32_t PeekAtHost(const int32_t* word) {
  int32_t value;
  asm volatile("ld.relaxed.sys.global.b32 %0, [%1];" : "=r"(value) : "l"(word));
  return value;
}
__device__ inline int32_t LoadFromDevice(const int32_t* word) {
  int32_t value;
  asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}
__device__ inline void StoreToHost(int32_t* word, int32_t value) {
  asm volatile("st.relaxed.sys.global.b32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
__device__ inline int64_t NowNs() {
  int64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

/// Turns between two looks whether anybody answers at all: each word takes a microsecond over the link.
constexpr int kTurnsToClosed = 16;

/// Waits until what was asked is done; one thread of a block may call it, and others read after a barrier.
__device__ inline void AwaitHost(const MailArguments& mail, Fault* fault) {
  static_assert(kFailedWord == kDoneWord + 1 && kDoneWord % 2 == 0, "both are loaded at once");
  const int32_t asked = mail.state[kAskedState];
  if (LoadFromDevice(mail.state + kTakenState) == asked) return;
  for (int turn = 1;; ++turn) {
    uint64_t both;
    asm volatile("ld.acquire.sys.global.b64 %0, [%1];" : "=l"(both) : "l"(mail.words + kDoneWord) : "memory");
    if (static_cast<int32_t>(both) == asked) {
      if (both >> 32 != 0) Report(fault, kHostFailed, asked, 0, 0);
      return;
    }
    if (turn % kTurnsToClosed == 0 && PeekAtHost(mail.words + kClosedWord) != 0) return Report(fault, kHostFailed, asked, 0, 0);
  }
}

/// The same by one thread of each block. The first block alone looks at the host's words: requests of many over the link would leave copies
/// a part of its rate.
__device__ inline void AwaitHostTogether(const MailArguments& mail, Fault* fault) {
  const int32_t asked = mail.state[kAskedState];
  if (blockIdx.x == 0) {
    AwaitHost(mail, fault);
    asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(mail.state + kSeenState), "r"(asked) : "memory");
    return;
  }
  while (LoadFromDevice(mail.state + kSeenState) != asked) __nanosleep(64);
}

/// By one thread, at the time when the device begins its own part: experts that come to it meanwhile, and that the host computes.
__device__ inline void NoteAsked(const MailArguments& mail, int came, int aside) {
  *reinterpret_cast<int64_t*>(mail.state + kAskedAtState) = NowNs();
  mail.state[kCameState] = came;
  mail.state[kAsideState] = aside;
}

/// By one thread, behind a barrier of those that have written what the job takes: what it releases is theirs as well.
__device__ inline void Ask(const MailArguments& mail, int64_t job, int aside) {
  StoreToHost(mail.words + kAsideNowWord, aside);
  const auto sequence = static_cast<uint32_t>(++mail.state[kAskedState]);
  const uint64_t both = static_cast<uint64_t>(job) << 32 | sequence;
  asm volatile("st.release.sys.global.b64 [%0], %1;" ::"l"(mail.words + kAskedWord), "l"(both) : "memory");
}
#endif

}  // namespace zi::cuda
