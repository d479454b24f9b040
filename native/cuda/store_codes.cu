// kv_store into codes: a warp for each head of a token's keys or values, which finds its scales and writes what is stored.
#include "cuda/overlap.h"
#include "cuda/stored_cache.h"

namespace zi::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
/// Neighbours that a lane has at once, and a warp.
constexpr int kEach = 4, kStride = 32 * kEach;
/// So many blocks keep the memory busy; with more, each has less to do than it takes to start.
constexpr int64_t kBusyBlocks = 4096;
static_assert(kNibbleGroup % kEach == 0 && kStride % kNibbleGroup == 0, "a group's lanes lie side by side in one warp");

struct CodeView {
  uint8_t *codes, *scales;
  int64_t page, head, token, scale_page, scale_head, scale_token;  // strides
  CodeView(const View& view, const View& scale_view)
      : codes(view.data),
        scales(scale_view.data),
        page(view.strides[0]),
        head(view.strides[1]),
        token(view.strides[2]),
        scale_page(scale_view.strides[0]),
        scale_head(scale_view.strides[1]),
        scale_token(scale_view.strides[2]) {}
};

struct StoreCodesArguments {
  RowView k, v;
  CodeView keys, values;
  DType codes;
  const int32_t* slots;
  int64_t slot_count, page_tokens;
  /// Heads of values: none where they lie in keys.
  int heads, value_heads;
  /// Values of a key, and neighbours of it that share a scale; then those of a value.
  int depth, group, value_depth, value_group;
  /// Heads are groups of four, and lie such that these are read, or written, at once.
  bool reads_fours, writes_fours;
  Fault* fault;
};

/// Values d … d + 3 of a row; zeros beyond its end.
__device__ void LoadFour(const StoreCodesArguments& a, const RowView& from, int64_t row, int d, int depth,
                         float (&to)[kEach]) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) to[i] = 0;
  if (d >= depth) return;
  WithType(from.dtype, [&](auto* type) {
    using T = std::decay_t<decltype(*type)>;
    const T* const values = from.Row<T>(row) + d;
    if (a.reads_fours) {
      struct alignas(kEach * sizeof(T)) Four {
        T values[kEach];
      };
      const Four four = *reinterpret_cast<const Four*>(values);
#pragma unroll
      for (int i = 0; i < kEach; ++i) to[i] = Widen(four.values[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (d + i < depth) to[i] = Widen(values[i]);
      }
    }
  });
}

/// Bits of the largest magnitude, which order as numbers do, with infinity and then NaN above all.
__device__ uint32_t MagnitudeOf(const float (&values)[kEach]) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) largest = max(largest, __float_as_uint(values[i]) & 0x7fffffffu);
  return largest;
}

/// Over so many neighbouring lanes.
__device__ uint32_t LargestOf(uint32_t magnitude, int lanes) {
  for (int apart = 1; apart < lanes; apart *= 2) magnitude = max(magnitude, __shfl_xor_sync(0xffffffffu, magnitude, apart));
  return magnitude;
}

__device__ float LargestCode(DType codes) {
  switch (codes) {
    case DType::kE4M3:
      return E4M3Codes::kLargest;
    case DType::kI8:
      return I8Codes::kLargest;
    case DType::kU8:
      return NibbleCodes::kLargest;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kI32:
    case DType::kE8M0:
      break;
  }
  __trap();
}

__device__ __nv_bfloat16 ScaleOf(uint32_t magnitude, DType codes) {
  const bool finite = magnitude < 0x7f800000u;
  return __float2bfloat16_rn(finite ? __uint_as_float(magnitude) / LargestCode(codes) : NAN);
}

/// The code of a value that was divided by its scale, as a byte.
__device__ uint32_t CodeOf(float quotient, DType codes) {
  if (codes == DType::kE4M3) return __nv_cvt_float_to_fp8(quotient, __NV_SATFINITE, __NV_E4M3);
  const float largest = LargestCode(codes), rounded = fminf(fmaxf(rintf(quotient), -largest), largest);
  return static_cast<uint32_t>(static_cast<int>(rounded) + (codes == DType::kU8 ? 8 : 0)) & 0xffu;
}

/// Writes codes of values d … d + 3 of the head that begins there.
__device__ void StoreFour(const StoreCodesArguments& a, uint8_t* head, int d, int depth, const float (&values)[kEach],
                          __nv_bfloat16 rounded_scale) {
  if (d >= depth) return;
  const float scale = __bfloat162float(rounded_scale);
  const bool usable = scale > 0;
  uint32_t codes[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) codes[i] = CodeOf(usable ? values[i] / scale : 0.0f, a.codes);
  if (a.codes == DType::kU8) {
    const uint32_t pairs[2] = {codes[0] | codes[1] << 4, codes[2] | codes[3] << 4};
    if (a.writes_fours) {
      *reinterpret_cast<uint16_t*>(head + d / 2) = static_cast<uint16_t>(pairs[0] | pairs[1] << 8);
      return;
    }
    head[d / 2] = static_cast<uint8_t>(pairs[0]);
    if (d + 2 < depth) head[d / 2 + 1] = static_cast<uint8_t>(pairs[1]);
    return;
  }
  if (a.writes_fours) {
    *reinterpret_cast<uint32_t*>(head + d) = codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24;
    return;
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (d + i < depth) head[d + i] = static_cast<uint8_t>(codes[i]);
  }
}

struct HeadSize {
  int depth, group;
};
__device__ void StoreHead(const StoreCodesArguments& a, const RowView& from, int64_t row, const HeadSize& size,
                          uint8_t* codes, __nv_bfloat16* scales) {
  const int mine = static_cast<int>(threadIdx.x) % 32 * kEach;
  float values[kEach];
  if (size.group < size.depth) {
    for (int begin = 0; begin < size.depth; begin += kStride) {
      const int d = begin + mine;
      LoadFour(a, from, row, d, size.depth, values);
      const __nv_bfloat16 scale = ScaleOf(LargestOf(MagnitudeOf(values), size.group / kEach), a.codes);
      if (d < size.depth && d % size.group == 0) scales[d / size.group] = scale;
      StoreFour(a, codes, d, size.depth, values, scale);
    }
    return;
  }
  uint32_t magnitude = 0;
  for (int d = mine; d < size.depth; d += kStride) {
    LoadFour(a, from, row, d, size.depth, values);
    magnitude = max(magnitude, MagnitudeOf(values));
  }
  const __nv_bfloat16 scale = ScaleOf(LargestOf(magnitude, 32), a.codes);
  if (mine == 0) *scales = scale;
  for (int d = mine; d < size.depth; d += kStride) {
    LoadFour(a, from, row, d, size.depth, values);
    StoreFour(a, codes, d, size.depth, values, scale);
  }
}

__global__ void __launch_bounds__(kThreads) StoreCodes(const StoreCodesArguments a) {
  Begin();
  const int64_t token = blockIdx.x, slot = a.slots[token];
  if (slot < 0 || slot >= a.slot_count) {
    if (threadIdx.x == 0 && blockIdx.y == 0) Report(a.fault, kSlotOutside, token, slot, a.slot_count);
    return;
  }
  const int64_t page = slot / a.page_tokens, offset = slot % a.page_tokens;
  const int warp = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32), warps = static_cast<int>(gridDim.y) * kWarps;
  for (int i = warp; i < a.heads + a.value_heads; i += warps) {
    const bool key = i < a.heads;
    const int head = key ? i : i - a.heads;
    const CodeView& to = key ? a.keys : a.values;
    uint8_t* const codes = to.codes + page * to.page + head * to.head + offset * to.token;
    auto* const scales = reinterpret_cast<__nv_bfloat16*>(to.scales) + page * to.scale_page + head * to.scale_head +
                         offset * to.scale_token;
    const HeadSize size = key ? HeadSize{a.depth, a.group} : HeadSize{a.value_depth, a.value_group};
    StoreHead(a, key ? a.k : a.v, token * a.heads + head, size, codes, scales);
  }
}

}  // namespace

void LaunchStoreCodes(const KvStoreOp& op, Run& run) {
  const int64_t tokens = op.k.shape[0], heads = op.k.shape[1], depth = op.k.shape[2];
  const int64_t from_bytes = kEach * ElementBytes(op.k.dtype), to_bytes = op.keys.dtype == DType::kU8 ? 2 : 4;
  // Without v the values are a part of what is stored of k.
  const View& v = op.v.data ? op.v : op.k;
  const int64_t value_depth = v.shape[2];
  const bool fours = depth % kEach == 0 && value_depth % kEach == 0;
  const View& value_scales = op.v.data ? op.value_scales : op.key_scales;
  const StoreCodesArguments arguments{
      RowView(op.k),
      RowView(v),
      CodeView(op.keys, op.key_scales),
      CodeView(op.values, op.value_scales),
      op.keys.dtype,
      reinterpret_cast<const int32_t*>(op.slots.data),
      op.keys.shape[0] * op.keys.shape[2],
      op.keys.shape[2],
      static_cast<int>(heads),
      static_cast<int>(op.v.data ? heads : 0),
      static_cast<int>(depth),
      static_cast<int>(depth / op.key_scales.shape[3]),
      static_cast<int>(value_depth),
      static_cast<int>(value_depth / value_scales.shape[3]),
      fours && RowsAligned(op.k, from_bytes) && RowsAligned(v, from_bytes),
      fours && RowsAligned(op.keys, to_bytes) && RowsAligned(op.values, to_bytes),
      run.fault()};
  const unsigned most = Blocks(op.v.data ? 2 * heads : heads, kWarps, kMostGridRows);
  const unsigned enough = Blocks(kBusyBlocks, tokens, most);
  Overlapped(StoreCodes, dim3(static_cast<unsigned>(tokens), enough), kThreads, run, arguments);
}

}  // namespace zi::cuda
