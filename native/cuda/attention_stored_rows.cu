// attention of sequences with a few new tokens, over a cache of codes or of another type than q and out: stored bytes are read
// once, and become floats in registers.
#include "cuda/attention_rows.h"
#include "cuda/stored_cache.h"

namespace zi::cuda {
namespace {

using rows::Reach;
using rows::Task;

/// How q comes and out goes where they are of another type than the cache. Once for a block, so asking the type costs little.
struct OtherType {
  using Arguments = StoredArguments;
  template <class Head>
  __device__ static void LoadQuery(const Arguments& a, const Task& task, float (&q)[Head::kValues]) {
    WithType(a.activations, [&](auto* type) {
      using T = std::decay_t<decltype(*type)>;
      const T* const head = a.Query<T>(task.token, task.head);
#pragma unroll
      for (int i = 0; i < Head::kValues; ++i) q[i] = Head::Index(i) < a.depth ? Widen(head[Head::Index(i)]) : 0.0f;
    });
  }
  __device__ static void Put(const Arguments& a, const Task& task, int d, float value) {
    PutAs(a.out, a.activations, task.token * a.out_token + task.head * a.out_head + d, value);
  }
};

/// A key's or value's head of codes spread over kLanes lanes, each with sixteen values.
template <class Codes, int kLanes>
struct CodeHead {
  static constexpr int kDepth = rows::kUsualDepth;
  static constexpr int kValues = 16, kWords = kValues / Codes::kPerWord, kBytes = 4 * kWords;
  /// So many keys side by side, in so many steps, of which some are on their way at once.
  static constexpr int kBeside = 32 / kLanes, kSteps = kLanes, kAhead = kSteps > 4 ? 16 / kWords : 4;
  /// Blocks of a multiprocessor: while some wait for memory others compute.
  static constexpr int kBlocks = kLanes > 8 ? 2 : 3;
  /// The most scales that a head has: codes of 8 bits have one.
  static constexpr int kScales = Codes::kPerWord == 8 ? kLanes * kValues / kNibbleGroup : 1, kScaleWords = (kScales + 1) / 2;

  __device__ static int Index(int i) { return static_cast<int>(threadIdx.x) % kLanes * kValues + i; }

  struct alignas(kBytes) Group {
    uint32_t words[kWords];
  };
  /// A lane's codes, word by word or byte by byte, of a head that lies anywhere.
  __device__ static Group LoadAnywhere(const StoredArguments& a, const uint8_t* codes, int bytes) {
    Group group{};
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      if (a.reach >= 4) {
        if (4 * w < bytes) group.words[w] = *reinterpret_cast<const uint32_t*>(codes + 4 * w);
        continue;
      }
#pragma unroll 1
      for (int i = 0; i < 4 && 4 * w + i < bytes; ++i) group.words[w] |= static_cast<uint32_t>(codes[4 * w + i]) << 8 * i;
    }
    return group;
  }
  __device__ static void Widen(const Group& codes, float (&to)[kValues]) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) Codes::Widen(codes.words[w], to + w * Codes::kPerWord);
  }

  /// Where keys' or values' heads of this warp's 32 keys lie, and what their codes are multiplied by, each known to the lane
  /// of its key.
  struct Heads {
    const uint8_t* codes;
    int64_t at;
    unsigned valid;
    int depth, group;  // of a head; of what shares a scale
    uint32_t scales[kScaleWords] = {};  // pairs of bf16, the first in the lower half

    __device__ Heads(const uint8_t* codes, int64_t at, unsigned valid, int depth, int group)
        : codes(codes), at(at), valid(valid), depth(depth), group(group) {}
    __device__ bool Valid(int key) const { return valid >> key & 1; }
    __device__ void LoadScales(const uint8_t* from, int64_t from_at) {
      const uint16_t* const mine = reinterpret_cast<const uint16_t*>(from) + from_at;
#pragma unroll
      for (int g = 0; g < kScales; ++g) {
        if (Valid(threadIdx.x % 32) && g * group < depth) scales[g / 2] |= static_cast<uint32_t>(mine[g]) << g % 2 * 16;
      }
    }
    /// What this lane's codes of that key are multiplied by.
    __device__ float ScaleOf(int key) const {
      const int mine = kScales > 1 && group < depth ? Index(0) / group : 0;
      uint32_t pair = 0;
#pragma unroll
      for (int w = 0; w < kScaleWords; ++w) {
        const uint32_t word = __shfl_sync(0xffffffffu, scales[w], key);
        if (w == mine / 2) pair = word;
      }
      return __uint_as_float(mine % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }
    /// This lane's codes of the steps from `step` on; zeros where there are none.
    __device__ void Load(const StoredArguments& a, int step, Group (&to)[kAhead]) const {
      const int beside = threadIdx.x % 32 / kLanes, first = threadIdx.x % kLanes * kBytes;
      const int bytes = depth * 4 / Codes::kPerWord - first;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int key = (step + i) * kBeside + beside;
        const uint8_t* const from = codes + __shfl_sync(0xffffffffu, at, key) + first;
        to[i] = Group{};
        if (!Valid(key) || bytes <= 0) continue;
        to[i] = a.reach >= kBytes ? *reinterpret_cast<const Group*>(from) : LoadAnywhere(a, from, bytes);
      }
    }
  };

  /// Folds keys [chunk, chunk + 32) ∩ [begin, end) into this warp's place.
  __device__ static void FoldChunk(const StoredArguments& a, const Task& task, const Reach&, const float (&q)[kValues],
                                   float slope, int chunk, rows::Folded<kDepth>& folded) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, beside = lane / kLanes;
    // Each lane looks up the place of one key.
    int page = 0, offset = 0;
    const int mine = chunk + lane;
    const bool usable = mine >= task.begin && mine < task.end && a.Place(task.sequence, mine, page, offset);
    const unsigned valid = __ballot_sync(0xffffffffu, usable);
    if (valid == 0) {
      if (lane == 0) folded.maximum[warp] = -INFINITY, folded.total[warp] = 0;
      return;
    }
    Heads keys(a.keys, a.KeyAt(page, task.kv_head, offset), valid, a.depth, a.group);
    Heads values(a.values, a.ValueAt(page, task.kv_head, offset), valid, a.value_depth, a.value_group);
    // The values are on their way while the keys are multiplied.
    Group key_codes[kAhead], value_codes[kAhead];
    keys.Load(a, 0, key_codes);
    values.Load(a, 0, value_codes);
    keys.LoadScales(a.key_scales, a.KeyScaleAt(page, task.kv_head, offset));
    values.LoadScales(a.value_scales, a.ValueScaleAt(page, task.kv_head, offset));
    float scores[kSteps], maximum = -INFINITY;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step > 0 && step % kAhead == 0) keys.Load(a, step, key_codes);
      float codes[kValues], product = 0;
      Widen(key_codes[step % kAhead], codes);
#pragma unroll
      for (int i = 0; i < kValues; ++i) product = fmaf(q[i], codes[i], product);
      scores[step] = product * keys.ScaleOf(step * kBeside + beside);
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      float product = scores[step];
#pragma unroll
      for (int apart = kLanes / 2; apart > 0; apart /= 2) product += __shfl_xor_sync(0xffffffffu, product, apart);
      const int key = step * kBeside + beside;
      scores[step] = valid >> key & 1 ? a.Score(product, slope, chunk + key) : -INFINITY;
      maximum = fmaxf(maximum, scores[step]);
    }
    maximum = WarpMax(maximum);
    float total = 0, sums[kValues] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step > 0 && step % kAhead == 0) values.Load(a, step, value_codes);
      float codes[kValues];
      Widen(value_codes[step % kAhead], codes);
      const float p = scores[step] == -INFINITY ? 0.0f : expf(scores[step] - maximum);
      total += p;
      const float weight = p * values.ScaleOf(step * kBeside + beside);
#pragma unroll
      for (int i = 0; i < kValues; ++i) sums[i] = fmaf(weight, codes[i], sums[i]);
    }
#pragma unroll
    for (int apart = kLanes; apart < 32; apart *= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, apart);
#pragma unroll
      for (int i = 0; i < kValues; ++i) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], apart);
    }
    if (lane == 0) folded.maximum[warp] = maximum, folded.total[warp] = total;
    if (beside != 0) return;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int d = Index(i);
      if (d < kDepth) folded.sums[warp][d] = sums[i];
    }
  }
};

/// Wide heads of codes, value by value: what is seldom.
struct WideHead {
  static constexpr int kDepth = rows::kMostDepth, kValues = kDepth / 32, kBlocks = 0;

  __device__ static int Index(int i) { return i * 32 + static_cast<int>(threadIdx.x) % 32; }

  __device__ static void FoldChunk(const StoredArguments& a, const Task& task, const Reach&, const float (&q)[kValues],
                                   float slope, int chunk, rows::Folded<kDepth>& folded) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int page = 0, offset = 0;
    const int mine = chunk + lane;
    const bool usable = mine >= task.begin && mine < task.end && a.Place(task.sequence, mine, page, offset);
    const unsigned valid = __ballot_sync(0xffffffffu, usable);
    float score = -INFINITY;
    for (int key = 0; key < 32; ++key) {
      if (!(valid >> key & 1)) continue;
      const int from = __shfl_sync(0xffffffffu, page, key), at = __shfl_sync(0xffffffffu, offset, key);
      float product = 0;
      for (int i = 0; i < kValues; ++i) {
        if (Index(i) < a.depth) product = fmaf(q[i], a.KeyValue(from, task.kv_head, at, Index(i)), product);
      }
      product = WarpSum(product);
      if (lane == key) score = a.Score(product, slope, chunk + key);
    }
    const float maximum = WarpMax(score);
    const float p = score == -INFINITY ? 0.0f : expf(score - maximum), total = WarpSum(p);
    float sums[kValues] = {};
    for (int key = 0; key < 32; ++key) {
      if (!(valid >> key & 1)) continue;
      const int from = __shfl_sync(0xffffffffu, page, key), at = __shfl_sync(0xffffffffu, offset, key);
      const float weight = __shfl_sync(0xffffffffu, p, key);
      for (int i = 0; i < kValues; ++i) {
        if (Index(i) < a.value_depth) sums[i] = fmaf(weight, a.ValueValue(from, task.kv_head, at, Index(i)), sums[i]);
      }
    }
    if (lane == 0) folded.maximum[warp] = maximum, folded.total[warp] = total;
    for (int i = 0; i < kValues; ++i) folded.sums[warp][Index(i)] = sums[i];
  }
};

template <class Codes>
void LaunchCodeHeads(const StoredArguments& a, const Reach& reach, const AttentionWay& way, Run& run) {
  const int depth = a.depth > a.value_depth ? a.depth : a.value_depth;
  if (depth <= 64) return rows::LaunchRows<OtherType, CodeHead<Codes, 4>>(a, reach, way, run);
  if (depth <= 128) return rows::LaunchRows<OtherType, CodeHead<Codes, 8>>(a, reach, way, run);
  if (depth <= rows::kUsualDepth) return rows::LaunchRows<OtherType, CodeHead<Codes, 16>>(a, reach, way, run);
  if (depth <= rows::kMostDepth) return rows::LaunchRows<OtherType, WideHead>(a, reach, way, run);
  rows::HeadTooLarge();
}

template <class T>
void LaunchFloats(const StoredArguments& a, const Reach& reach, const AttentionWay& way, Run& run) {
  rows::LaunchFloatHeads<OtherType, T>(a, reach, way, run);
}

/// The largest of 16, 8, 4 and 1 bytes at whose multiples heads lie, and of which they are whole groups.
int ReachOf(const AttentionOp& op) {
  for (const int64_t bytes : {16, 8, 4}) {
    const auto whole = [bytes](const View& cached) { return RowLength(cached) * ElementBytes(cached.dtype) % bytes == 0; };
    if (whole(op.keys) && whole(op.values) && RowsAligned(op.keys, bytes) && RowsAligned(op.values, bytes)) return static_cast<int>(bytes);
  }
  return 1;
}

int64_t Stride(const View& scales, int d) { return scales.data ? scales.strides[d] : 0; }

}  // namespace

StoredArguments::StoredArguments(const AttentionOp& op, Fault* faults)
    : AttentionArguments(op, faults),
      activations(op.q.dtype),
      cache(op.keys.dtype),
      key_scales(op.key_scales.data),
      value_scales(op.value_scales.data),
      key_scale_page(Stride(op.key_scales, 0)),
      key_scale_head(Stride(op.key_scales, 1)),
      key_scale_token(Stride(op.key_scales, 2)),
      value_scale_page(Stride(op.value_scales, 0)),
      value_scale_head(Stride(op.value_scales, 1)),
      value_scale_token(Stride(op.value_scales, 2)),
      group(op.key_scales.data ? depth / static_cast<int>(op.key_scales.shape[3]) : depth),
      value_group(op.value_scales.data ? value_depth / static_cast<int>(op.value_scales.shape[3]) : value_depth),
      reach(ReachOf(op)) {}

void LaunchStoredRows(const AttentionOp& op, const AttentionWay& way, Run& run) {
  const StoredArguments a(op, run.fault());
  const Reach reach{static_cast<int>(way.most_tokens), way.by_sequence, false};
  switch (op.keys.dtype) {
    case DType::kF16:
      return LaunchFloats<__half>(a, reach, way, run);
    case DType::kBF16:
      return LaunchFloats<__nv_bfloat16>(a, reach, way, run);
    case DType::kF32:
      return LaunchFloats<float>(a, reach, way, run);
    case DType::kI8:
      return LaunchCodeHeads<I8Codes>(a, reach, way, run);
    case DType::kE4M3:
      return LaunchCodeHeads<E4M3Codes>(a, reach, way, run);
    case DType::kU8:
      return LaunchCodeHeads<NibbleCodes>(a, reach, way, run);
    case DType::kI32:
    case DType::kE8M0:
      break;
  }
  UnknownType(op.keys.dtype);
}

}  // namespace zi::cuda
