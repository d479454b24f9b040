// Rows of stored weights become values in memory, which products of many tokens read instead.
#include "cuda/few_stored.h"
#include "cuda/overlap.h"
#include "cuda/stored_fragments.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;

struct ExpandArguments {
  StoredWeight weight;
  int64_t first, rows, eights;  // of rows, and of the inputs, the last perhaps with fewer
  uint8_t* to;
  int64_t stride;
};

/// A thread per eight inputs of a row, neighbours beside each other. Rows of `to` begin at multiples of 16 bytes.
template <WeightFormat kFormat, class T>
__global__ void __launch_bounds__(kThreads) Expand(const __grid_constant__ ExpandArguments a) {
  Begin();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.rows * a.eights) return;
  const int64_t row = at / a.eights, k = at % a.eights * 8;
  const Cursor<kFormat> cursor(a.weight, a.first + row);
  T* const to = reinterpret_cast<T*>(a.to) + row * a.stride + k;
  if (k + 8 <= a.weight.inputs) {
    float values[8];
    cursor.LoadEight(k, values);
    PutEight(to, values);
    return;
  }
  for (int64_t i = 0; k + i < a.weight.inputs; ++i) to[i] = Narrow<T>(cursor.At(k + i));
}

/// The same into [K, rows], a lane per row.
template <WeightFormat kFormat, class T>
__global__ void __launch_bounds__(kThreads) ExpandInputMajor(const __grid_constant__ ExpandArguments a) {
  Begin();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.rows * a.eights) return;
  const int64_t row = at % a.rows, k = at / a.rows * 8;
  const Cursor<kFormat> cursor(a.weight, a.first + row);
  T* const to = reinterpret_cast<T*>(a.to) + k * a.stride + row;
  if (k + 8 <= a.weight.inputs) {
    float values[8];
    cursor.LoadEight(k, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i * a.stride] = Narrow<T>(values[i]);
    return;
  }
  for (int64_t i = 0; k + i < a.weight.inputs; ++i) to[i * a.stride] = Narrow<T>(cursor.At(k + i));
}

struct EightsArguments {
  StoredWeight weight;
  int64_t first, row_bytes, stride;
  int eights, row_blocks;  // of a row
  int group_shift;
  uint8_t* to;
};

/// What tensor cores take is made into memory with as few instructions: a thread per eight inputs, some blocks per row.
template <FragmentKind kKind, class T>
__global__ void __launch_bounds__(kThreads) ExpandEights(const __grid_constant__ EightsArguments a) {
  using Sizes = FragmentSizes<kKind>;
  Begin();
  const int in_slab = static_cast<int>(blockIdx.x) / a.row_blocks;
  const int eight = (static_cast<int>(blockIdx.x) % a.row_blocks) * kThreads + static_cast<int>(threadIdx.x);
  if (eight >= a.eights) return;
  const StoredWeight& w = a.weight;
  const int64_t row = a.first + in_slab, m = row + w.first_row;
  const int64_t scale_row = w.row_group == 1 ? m : m / w.row_group;
  const int group = eight * 8 >> a.group_shift;
  const uint8_t* const codes = w.Part(WeightPart::kCodes) + row * a.row_bytes;
  uint4 eight_codes{};
  if constexpr (Sizes::kNibbles) {
    eight_codes.x = __ldcs(reinterpret_cast<const uint32_t*>(codes) + eight);
  } else {
    const uint2 both = __ldcs(reinterpret_cast<const uint2*>(codes) + eight);
    eight_codes.x = both.x, eight_codes.y = both.y;
  }
  const uint32_t scale = RawScale(w.Part(WeightPart::kScales), w.scale_type, scale_row * w.scale_stride + group);
  uint32_t zero = kNoZero<kKind>;
  if constexpr (kHasZeros<kKind>) {
    const uint8_t* const zeros = w.Part(WeightPart::kZeros);
    if (zeros) zero = ZeroCode<kKind>(zeros, w.zero_stride, scale_row, group);
  } else {
    zero = 0;
  }
  uint32_t pairs[4];
  const GroupScale<kKind> made = MakeScale<kKind, T>(w, scale, zero);
  Fragments<kKind, T>(made, made, w.factor).template Expand<0>(eight_codes, pairs);
  reinterpret_cast<uint4*>(reinterpret_cast<T*>(a.to) + in_slab * a.stride)[eight] = Fragments<kKind, T>::InOrder(pairs);
}

template <FragmentKind kKind>
void LaunchEights(const Weight& weight, int64_t first, const View& to, Run& run) {
  const View& codes = weight.Part(WeightPart::kCodes);
  EightsArguments a{};
  a.weight = StoredWeight(weight, run.fault());
  a.first = first;
  a.row_bytes = codes.strides[0] * ElementBytes(codes.dtype);
  a.stride = to.strides[0];
  a.eights = static_cast<int>(weight.inputs / 8);
  a.row_blocks = static_cast<int>(Blocks(a.eights, kThreads));
  a.group_shift = GroupShift(weight);
  a.to = to.data;
  const unsigned blocks = Blocks(to.shape[0] * a.row_blocks, 1);
  if (weight.type == DType::kF16) Overlapped(ExpandEights<kKind, __half>, blocks, kThreads, run, a);
  else Overlapped(ExpandEights<kKind, __nv_bfloat16>, blocks, kThreads, run, a);
}

/// False where single values have to be made.
bool LaunchFast(const Weight& weight, int64_t first, const View& to, Run& run) {
  const auto kind = FragmentsOf(weight);
  if (!kind || to.shape[0] * Blocks(weight.inputs / 8, kThreads) > INT32_MAX) return false;
  switch (*kind) {
    case FragmentKind::kE4M3:
      LaunchEights<FragmentKind::kE4M3>(weight, first, to, run);
      return true;
    case FragmentKind::kInt8:
      LaunchEights<FragmentKind::kInt8>(weight, first, to, run);
      return true;
    case FragmentKind::kPacked8:
      LaunchEights<FragmentKind::kPacked8>(weight, first, to, run);
      return true;
    case FragmentKind::kPacked4:
      LaunchEights<FragmentKind::kPacked4>(weight, first, to, run);
      return true;
    case FragmentKind::kPacked4Exact:
      LaunchEights<FragmentKind::kPacked4Exact>(weight, first, to, run);
      return true;
    case FragmentKind::kFp4:
      LaunchEights<FragmentKind::kFp4>(weight, first, to, run);
      return true;
    case FragmentKind::kValues:
      break;
  }
  return false;
}

template <WeightFormat kFormat, class T>
void LaunchTyped(const ExpandArguments& a, Run& run) {
  const unsigned blocks = Blocks(a.rows * a.eights, kThreads);
  if constexpr (Cursor<kFormat>::kInputMajor) {
    Overlapped(ExpandInputMajor<kFormat, T>, blocks, kThreads, run, a);
  } else {
    Overlapped(Expand<kFormat, T>, blocks, kThreads, run, a);
  }
}

template <WeightFormat kFormat>
void LaunchFormat(const ExpandArguments& a, Run& run) {
  switch (a.weight.type) {
    case DType::kF16:
      return LaunchTyped<kFormat, __half>(a, run);
    case DType::kBF16:
      return LaunchTyped<kFormat, __nv_bfloat16>(a, run);
    case DType::kF32:
      return LaunchTyped<kFormat, float>(a, run);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(a.weight.type);
}

}  // namespace

void LaunchExpand(const Weight& weight, int64_t first, const View& to, Run& run) {
  const int64_t rows = to.shape[ExpandsInputMajor(weight.format) ? 1 : 0];
  const ExpandArguments a{StoredWeight(weight, run.fault()), first, rows, (weight.inputs + 7) / 8, to.data, to.strides[0]};
  if (a.rows * a.eights == 0 || LaunchFast(weight, first, to, run)) return;
  switch (weight.format) {
    case WeightFormat::kE4M3:
      return LaunchFormat<WeightFormat::kE4M3>(a, run);
    case WeightFormat::kInt8:
      return LaunchFormat<WeightFormat::kInt8>(a, run);
    case WeightFormat::kPacked8:
      return LaunchFormat<WeightFormat::kPacked8>(a, run);
    case WeightFormat::kPacked4:
      return LaunchFormat<WeightFormat::kPacked4>(a, run);
    case WeightFormat::kFp4:
      return LaunchFormat<WeightFormat::kFp4>(a, run);
    case WeightFormat::kTable4:
      return LaunchFormat<WeightFormat::kTable4>(a, run);
    case WeightFormat::kAwq:
      return LaunchFormat<WeightFormat::kAwq>(a, run);
    case WeightFormat::kGptq:
      return LaunchFormat<WeightFormat::kGptq>(a, run);
    case WeightFormat::kE4M3In:
      return LaunchFormat<WeightFormat::kE4M3In>(a, run);
    case WeightFormat::kDense:
    case WeightFormat::kDenseIn:
      break;
  }
  UnknownFormat(weight.format);
}

}  // namespace zi::cuda
