// What a device and a thread of its host tell each other in words of page-locked memory, and what the device keeps beside them.
//
// A device asks: its inputs are in host memory, then the pair of a new sequence number and a job is written at once. The host runs the
// job and writes the number back. One job is on its way at a time, so who asks waits for the one before.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define ZI_BOTH __host__ __device__
#else
#define ZI_BOTH
#endif

namespace zi {

/// Places of i32 words in host memory. What one side writes lies apart from what the other does.
enum MailWord : int {
  kAskedWord = 0,  ///< written by the device together with the job behind it
  kJobWord = 1,
  kAsideNowWord = 2,  ///< experts of what is asked
  kSpanWord = 16,  ///< of the last asking: nanoseconds until its results were wanted,
  kCameWord = 17,  ///< and experts that came to the device meanwhile
  kDoneWord = 32,  ///< written by the host: the last number that was asked and is done
  kFailedWord = 33,
  kClosedWord = 34,  ///< nobody answers any more
  kTryWord = 47,     ///< shares follow rates, which stay known by one more or one fewer now and then
  kSharesWord = 48,  ///< of n missing experts the host computes word kSharesWord + n
};
constexpr int kMailWords = kSharesWord + 1024 + 1;

/// Places of i32 words in memory of the device.
enum MailState : int { kAskedState = 0, kTakenState = 1, kAskedAtState = 2, kCameState = 4, kAsideState = 5, kSeenState = 6 };
constexpr int kMailStateWords = 8;

/// Stands in a table of choices where an expert is computed elsewhere: nothing is computed and nothing written here.
constexpr int32_t kElsewhere = INT32_MIN;

/// Calls between two that try another share, and which of them.
constexpr int32_t kTryCalls = 64, kTryMore = 21, kTryFewer = 53;

/// How many of so many missing experts the host computes.
ZI_BOTH inline int32_t ShareOf(int32_t planned, int32_t missing, int32_t calls, bool tries) {
  const int32_t share = planned < 0 ? 0 : planned > missing ? missing : planned;
  if (!tries) return share;
  const int32_t turn = static_cast<int32_t>(static_cast<uint32_t>(calls) % kTryCalls);
  if (turn == kTryMore && share == 0) return 1;
  if (turn == kTryFewer && share == missing) return share - 1;
  return share;
}

}  // namespace zi
