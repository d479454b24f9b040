// attention of sequences with a few new tokens, over a cache of codes or of another type than q and out: stored bytes are read
// once, and become floats in registers.
#include "cuda/attention_rows.h"
#include "cuda/stored_cache.h"

namespace zi::cuda {
namespace {

using rows::Folded;
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

/// A key's or value's head of codes spread over kLanes lanes, each with 16 bytes.
template <class Codes, int kLanes>
struct CodeHead {
  static constexpr int kWords = 4, kValues = kWords * Codes::kPerWord;
  /// So many keys side by side, in so many steps, as many of which are on their way at once.
  static constexpr int kBeside = 32 / kLanes, kSteps = kLanes, kAhead = kSteps > 8 ? 4 : kSteps;
  /// Blocks of a multiprocessor, such that its loads keep the memory busy.
  static constexpr int kBlocks = 2;

  __device__ static int Index(int i) { return static_cast<int>(threadIdx.x) % kLanes * kValues + i; }

  /// A lane's codes, word by word or byte by byte, of a head that lies anywhere.
  __device__ static uint4 LoadAnywhere(const StoredArguments& a, const uint8_t* codes, int bytes) {
    uint32_t words[kWords] = {};
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      if (a.reach == 4) {
        if (4 * w < bytes) words[w] = *reinterpret_cast<const uint32_t*>(codes + 4 * w);
        continue;
      }
#pragma unroll 1
      for (int i = 0; i < 4 && 4 * w + i < bytes; ++i) words[w] |= static_cast<uint32_t>(codes[4 * w + i]) << 8 * i;
    }
    return {words[0], words[1], words[2], words[3]};
  }
  __device__ static void Widen(const uint4& codes, float (&to)[kValues]) {
    const uint32_t words[kWords] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int w = 0; w < kWords; ++w) Codes::Widen(words[w], to + w * Codes::kPerWord);
  }

  /// Where keys' or values' heads of this warp's 32 keys lie, each known to the lane of its key.
  struct Heads {
    const uint8_t *codes, *scales;
    int64_t at, scale_at;
    unsigned valid;
    /// What this lane's key is multiplied by, where a head has one scale.
    float scale;

    __device__ void FindScale(const StoredArguments& a) {
      const bool mine = valid >> threadIdx.x % 32 & 1;
      scale = mine && a.group >= a.depth ? StoredArguments::ScaleAt(scales, scale_at) : 0.0f;
    }
    __device__ bool Valid(int key) const { return valid >> key & 1; }
    /// What this lane's codes of that key are multiplied by.
    __device__ float ScaleOf(const StoredArguments& a, int key) const {
      const float whole = __shfl_sync(0xffffffffu, scale, key);
      if (a.group >= a.depth) return whole;
      const int64_t first = __shfl_sync(0xffffffffu, scale_at, key);
      return Valid(key) && Index(0) < a.depth ? StoredArguments::ScaleAt(scales, first + Index(0) / a.group) : 0.0f;
    }
    /// This lane's codes of the steps from `step` on; zeros where there are none.
    __device__ void Load(const StoredArguments& a, int step, uint4 (&to)[kAhead]) const {
      const int beside = threadIdx.x % 32 / kLanes, first = threadIdx.x % kLanes * 16;
      const int bytes = a.depth * 4 / Codes::kPerWord - first;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int key = (step + i) * kBeside + beside;
        const uint8_t* const from = codes + __shfl_sync(0xffffffffu, at, key) + first;
        to[i] = uint4{};
        if (!Valid(key) || bytes <= 0) continue;
        to[i] = a.reach == 16 ? *reinterpret_cast<const uint4*>(from) : LoadAnywhere(a, from, bytes);
      }
    }
  };

  /// Folds keys [chunk, chunk + 32) ∩ [begin, end) into this warp's place.
  __device__ static void FoldChunk(const StoredArguments& a, const Task& task, const Reach&, const float (&q)[kValues],
                                   float slope, int chunk, Folded& folded) {
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
    Heads keys{a.keys, a.key_scales, a.KeyAt(page, task.kv_head, offset), a.KeyScaleAt(page, task.kv_head, offset), valid, 0};
    Heads values{a.values, a.value_scales, a.ValueAt(page, task.kv_head, offset),
                 a.ValueScaleAt(page, task.kv_head, offset), valid, 0};
    // The values are on their way while the keys are multiplied.
    uint4 key_codes[kAhead], value_codes[kAhead];
    keys.Load(a, 0, key_codes);
    keys.FindScale(a);
    values.Load(a, 0, value_codes);
    values.FindScale(a);
    float scores[kSteps], maximum = -INFINITY;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step > 0 && step % kAhead == 0) keys.Load(a, step, key_codes);
      float codes[kValues], product = 0;
      Widen(key_codes[step % kAhead], codes);
#pragma unroll
      for (int i = 0; i < kValues; ++i) product = fmaf(q[i], codes[i], product);
      scores[step] = product * keys.ScaleOf(a, step * kBeside + beside);
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
      const float weight = p * values.ScaleOf(a, step * kBeside + beside);
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
      if (d < rows::kMostDepth) folded.sums[warp][d] = sums[i];
    }
  }
};

template <class Codes>
void LaunchCodeHeads(const StoredArguments& a, const Reach& reach, const AttentionWay& way, Run& run) {
  constexpr int kWidth = 4 * Codes::kPerWord;
  if (a.depth <= 64) return rows::LaunchRows<OtherType, CodeHead<Codes, 64 / kWidth>>(a, reach, way, run);
  if (a.depth <= 128) return rows::LaunchRows<OtherType, CodeHead<Codes, 128 / kWidth>>(a, reach, way, run);
  if (a.depth <= 256) return rows::LaunchRows<OtherType, CodeHead<Codes, 256 / kWidth>>(a, reach, way, run);
  rows::HeadTooLarge();
}

template <class T>
void LaunchFloats(const StoredArguments& a, const Reach& reach, const AttentionWay& way, Run& run) {
  rows::LaunchFloatHeads<OtherType, T>(a, reach, way, run);
}

/// The largest of 16, 4 and 1 bytes at whose multiples heads lie, and of which they are whole groups.
int ReachOf(const AttentionOp& op) {
  for (const int64_t bytes : {16, 4}) {
    const bool whole = RowLength(op.keys) * ElementBytes(op.keys.dtype) % bytes == 0;
    if (whole && RowsAligned(op.keys, bytes) && RowsAligned(op.values, bytes)) return static_cast<int>(bytes);
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
