// What the attention kernels share: arguments, finding a token's sequence and a position's page, and scores.
#pragma once
#include "cuda/fault.h"
#include "cuda/math.h"
#include "cuda/views.h"

namespace zi::cuda {

/// What a row's weighted sums are multiplied by. A row that sees nothing gets zeros; where all that it sees is infinitely
/// far, there is no answer.
__device__ inline float InverseOf(float total, bool sees_some) {
  return total != 0 ? 1.0f / total : sees_some ? NAN : 0.0f;
}

/// Called, not inlined: unrolled loops would hold it many times.
static __noinline__ __device__ float Capped(float score, float cap) {
  // The cap would make an ordinary number of an infinite one.
  return fmaf(score, 0.0f, cap * tanhf(score / cap));
}

/// q, keys, values and out are of one type, which the kernels are compiled for.
struct AttentionArguments {
  uint8_t* out;
  const uint8_t* q;
  int64_t out_token, out_head, q_token, q_head;  // strides
  const uint8_t *keys, *values;
  int64_t key_page, key_head, key_token, value_page, value_head, value_token;  // strides
  const int32_t *sequences, *pages, *positions;
  int64_t sequences_stride;
  const float* slopes;
  WeightVector sinks;  // scores that take their share and weigh nothing, a head each; or none
  int sequence_count, page_entries, page_count, page_tokens;
  int tokens, heads, kv_heads;
  int depth, value_depth;  // of a key, of a value
  float scale, soft_cap;
  bool alibi_rounded;
  int window, chunk;
  Fault* fault;

  explicit AttentionArguments(const AttentionOp& op, Fault* faults);

  template <class T>
  __device__ const T* Query(int64_t token, int head) const {
    return reinterpret_cast<const T*>(q) + token * q_token + head * q_head;
  }
  template <class T>
  __device__ T* Out(int64_t token, int head) const {
    return reinterpret_cast<T*>(out) + token * out_token + head * out_head;
  }
  template <class T>
  __device__ const T* Key(int page, int kv_head, int offset) const {
    return reinterpret_cast<const T*>(keys) + page * key_page + kv_head * key_head + offset * key_token;
  }
  template <class T>
  __device__ const T* Value(int page, int kv_head, int offset) const {
    return reinterpret_cast<const T*>(values) + page * value_page + kv_head * value_head + offset * value_token;
  }

  struct Sequence {
    int first, tokens, context, first_page;
  };
  /// False (and reported) when the table's row cannot be.
  __device__ bool ReadSequence(int s, Sequence& sequence) const {
    const int32_t* row = sequences + s * sequences_stride;
    sequence = {row[0], row[1], row[2], row[3]};
    if (sequence.first < 0 || sequence.tokens < 0 || sequence.first + sequence.tokens > tokens) {
      Report(fault, kSequenceOutside, s, sequence.first + sequence.tokens, tokens);
      return false;
    }
    const int needed = (sequence.context + page_tokens - 1) / page_tokens;
    if (sequence.context < 0 || sequence.first_page < 0 || sequence.first_page + needed > page_entries) {
      Report(fault, kSequenceOutside, s, sequence.first_page + needed, page_entries);
      return false;
    }
    return true;
  }
  /// The last sequence whose key is at most `value`, keys rising with s; −1 when there is none.
  template <class F>
  __device__ int LastSequence(int value, F key) const {
    int low = -1, high = sequence_count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (key(middle) <= value) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
  /// Page and offset of a key position, or false (and reported).
  __device__ bool Place(const Sequence& sequence, int position, int& page, int& offset) const {
    const int entry = sequence.first_page + position / page_tokens;
    page = pages[entry];
    offset = position % page_tokens;
    if (page >= 0 && page < page_count) return true;
    Report(fault, kPageOutside, entry, page, page_count);
    return false;
  }
  /// InverseOf, with the head's sink in the softmax; `total` counts in units of what the largest score, `maximum`, weighs.
  __device__ float Inverse(int head, float maximum, float total, bool sees_some) const {
    if (!sinks.data) return InverseOf(total, sees_some);
    const float sink = sinks.At(head), largest = fmaxf(maximum, sink);
    if (largest == -INFINITY) return InverseOf(total, sees_some);
    const float mine = expf(maximum - largest);
    return mine / (total * mine + expf(sink - largest));
  }
  __device__ int FirstKey(int position) const {
    const int first = window > 0 && position >= window ? position - window + 1 : 0;
    return chunk > 0 ? max(first, position - position % chunk) : first;
  }
  __device__ int LastKey(const Sequence& sequence, int position) const {
    return position < sequence.context ? position : sequence.context - 1;
  }
  __device__ static float RoundToBf16(float value) { return __bfloat162float(__float2bfloat16_rn(value)); }
  __device__ float Score(float product, float slope, int key) const {
    float score = product * scale;
    if (slopes && alibi_rounded) {
      score = fmaf(RoundToBf16(slope * RoundToBf16(static_cast<float>(key))), scale, score);
    } else if (slopes) {
      score = fmaf(slope, static_cast<float>(key), score);
    }
    return soft_cap != 0 ? Capped(score, soft_cap) : score;
  }
};

}  // namespace zi::cuda
