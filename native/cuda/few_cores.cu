// linear for a few tokens with stored weights: their bytes are read once, made values in registers, and multiplied on tensor
// cores, whose sums are f32. Rows of weights are the tensor cores' rows, tokens their columns.
//
// A warp takes the 16 rows of a tile and every eighth unit of inputs: 16 bytes of codes of four lanes. The warps' sums are
// added in their order: an output depends on the weight and its own inputs alone. FewStreamed (few_streamed.h) does so for most;
// FewOnCores, with a block per tile, for what has zeros, scales of a byte, or 4-bit codes of floats.
#include <algorithm>
#include <stdexcept>

#include "cuda/few_parts.h"
#include "cuda/few_stored.h"

namespace zi::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
/// Units that a warp has under way at once.
constexpr int kAhead = 4;
/// As many blocks run at once on a multiprocessor, so that 64 KiB are under way to each.
constexpr int kBlocksEach = 2;
/// Inputs of all tokens, and scales, that wait in shared memory: as much at most, or a round of units.
constexpr int kStagedBytes = 64 << 10;
/// What a kernel gets unasked, beside the sums of its warps.
constexpr size_t kFreeSharedBytes = (48 << 10) - sizeof(float) * kWarps * kRows * kTokens;

struct TileArguments : CoreArguments {
  int segment_units;
  /// Scales of a row in shared memory, where they lie behind so many groups of 16 bytes of inputs.
  int scale_pitch, scales_after;
};

/// What a lane reads of a unit: 16 bytes of two rows.
struct Unit {
  uint4 codes[2];
};

/// Two rows of a weight as a lane sees them.
template <FragmentKind kKind>
class LaneRows {
 public:
  using Sizes = FragmentSizes<kKind>;

  __device__ LaneRows(const Part& part, int64_t first, int64_t inputs)
      : lane_(threadIdx.x % 4), inputs_(static_cast<int>(inputs)) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Rows beyond the last repeat it; their sums are not stored.
      const int64_t row = min(first + threadIdx.x % 32 / 4 + 8 * h, part.weight.outputs - 1);
      codes_[h] = part.weight.Part(WeightPart::kCodes) + row * part.row_bytes + lane_ * 16;
    }
  }
  /// The first input of a unit that this lane takes.
  __device__ int Input(int unit) const { return (unit * 4 + lane_) * Sizes::kInputs; }

  __device__ void Load(int unit, Unit& to) const {
    const bool there = Input(unit) < inputs_;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      to.codes[h] = there ? __ldcs(reinterpret_cast<const uint4*>(codes_[h] + unit * int64_t{64})) : uint4{};
    }
  }

 private:
  const int lane_, inputs_;
  const uint8_t* codes_[2];
};

/// What the groups of inputs from `first` on have of scales, row by row, each made once for all lanes that take it.
template <FragmentKind kKind, class T>
__device__ void StageScales(const Part& part, int64_t first_row, int first, int groups, int pitch, GroupScale<kKind>* staged) {
  const StoredWeight& w = part.weight;
  for (int i = threadIdx.x; i < kRows * groups; i += kThreads) {
    const int row = i / groups, group = i % groups;
    const int64_t m = min(first_row + row, w.outputs - 1) + w.first_row;
    const int64_t scale_row = w.row_group == 1 ? m : m / w.row_group;
    const uint32_t raw = RawScale(w.Part(WeightPart::kScales), w.scale_type, scale_row * w.scale_stride + first + group);
    uint32_t zero = kHasZeros<kKind> ? kNoZero<kKind> : 0;
    if constexpr (kHasZeros<kKind>) {
      const uint8_t* const zeros = w.Part(WeightPart::kZeros);
      if (zeros) zero = ZeroCode<kKind>(zeros, w.zero_stride, scale_row, first + group);
    }
    staged[row * pitch + group] = MakeScale<kKind, T>(w, raw, zero);
  }
}

/// Inputs of the units from `first` to `end` as lanes take them: groups of eight, those of the four lanes and of all tokens
/// beside each other.
template <FragmentKind kKind, class T>
__device__ void StageInputs(const TileArguments& a, int first, int end, uint4* staged) {
  constexpr int kInputs = FragmentSizes<kKind>::kInputs, kEights = kInputs / 8;
  const int groups = (end - first) * 4 * kEights;
  for (int t = 0; t < a.tokens; ++t) {
    const T* const x = reinterpret_cast<const T*>(a.x) + t * a.x_stride;
    for (int i = threadIdx.x; i < groups; i += kThreads) {
      const int64_t k = static_cast<int64_t>(first) * 4 * kInputs + i * 8;
      const uint4 eight = k < a.inputs ? *reinterpret_cast<const uint4*>(x + k) : uint4{};
      const int unit = i / (4 * kEights), lane = i / kEights % 4, which = i % kEights;
      staged[((unit * kEights + which) * a.tokens + t) * 4 + lane] = Fragments<kKind, T>::Paired(eight);
    }
  }
}

template <FragmentKind kKind, class T, int kEight>
__device__ void MultiplyEights(int tokens, const Unit& unit, const Fragments<kKind, T>& low, const Fragments<kKind, T>& high,
                               const uint4* inputs, float (&sums)[2][4]) {
  if constexpr (kEight < FragmentSizes<kKind>::kInputs / 8) {
    const int token = threadIdx.x % 32 / 4;
    const uint4 x = token < tokens ? inputs[kEight * tokens * 4] : uint4{};
    uint32_t rows[2][4];
    low.template Expand<kEight>(unit.codes[0], rows[0]);
    high.template Expand<kEight>(unit.codes[1], rows[1]);
    MultiplyAdd<T>(sums[0], {rows[0][0], rows[1][0], rows[0][1], rows[1][1]}, x.x, x.y);
    MultiplyAdd<T>(sums[1], {rows[0][2], rows[1][2], rows[0][3], rows[1][3]}, x.z, x.w);
    MultiplyEights<kKind, T, kEight + 1>(tokens, unit, low, high, inputs, sums);
  }
}

template <FragmentKind kKind, class T>
__global__ void __launch_bounds__(kThreads, kBlocksEach) FewOnCores(const __grid_constant__ TileArguments a) {
  extern __shared__ uint4 staged[];
  __shared__ float parts[kWarps][kRows * kTokens];
  const Part& part = PartOf(a, blockIdx.x);
  const int64_t outputs = part.weight.outputs, first = static_cast<int64_t>(blockIdx.x - part.first_block) * kRows;
  if (threadIdx.x < kRows && first + threadIdx.x < outputs) part.Bring(first + threadIdx.x);
  const LaneRows<kKind> rows(part, first, a.inputs);
  Begin();

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Arguments that depend on the part are read here once, not in the loop.
  const int tokens = a.tokens, units = a.units, pitch = a.scale_pitch, shift = part.group_shift;
  const int inputs = static_cast<int>(a.inputs);
  const float factor = part.weight.factor;
  Unit ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (warp + i * kWarps < units) rows.Load(warp + i * kWarps, ahead[i]);
  }
  constexpr int kInputs = FragmentSizes<kKind>::kInputs, kEights = kInputs / 8;
  auto* const scales = reinterpret_cast<GroupScale<kKind>*>(staged + a.scales_after);
  float sums[2][4] = {};
  for (int segment = 0; segment < units; segment += a.segment_units) {
    const int end = min(segment + a.segment_units, units);
    const int first_group = segment * 4 * kInputs >> shift, last_group = (min(end * 4 * kInputs, inputs) - 1) >> shift;
    if (segment > 0) __syncthreads();
    StageInputs<kKind, T>(a, segment, end, staged);
    StageScales<kKind, T>(part, first, first_group, last_group - first_group + 1, pitch, scales);
    __syncthreads();
    // Segments are whole rounds of all warps, so that each unit is where it was put.
    for (int round = segment + warp; round < end; round += kWarps * kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int unit = round + i * kWarps;
        if (unit >= end) break;
        const Unit now = ahead[i];
        if (unit + kWarps * kAhead < units) rows.Load(unit + kWarps * kAhead, ahead[i]);
        // A lane beyond the last input multiplies nothing by zeros.
        const int k = min(rows.Input(unit), inputs - kInputs);
        const GroupScale<kKind>* const low = scales + lane / 4 * pitch + (k >> shift) - first_group;
        const int half = FragmentSizes<kKind>::kScales == 2 ? ((k + 16) >> shift) - (k >> shift) : 0;
        const Fragments<kKind, T> low_row(low[0], low[half], factor);
        const Fragments<kKind, T> high_row(low[8 * pitch], low[8 * pitch + half], factor);
        const uint4* const x = staged + (unit - segment) * kEights * tokens * 4 + lane;
        MultiplyEights<kKind, T, 0>(tokens, now, low_row, high_row, x, sums);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    parts[warp][(lane / 4 + i / 2 * 8) * kTokens + lane % 4 * 2 + i % 2] = sums[0][i] + sums[1][i];
  }
  __syncthreads();
  const int row = threadIdx.x / kTokens, token = threadIdx.x % kTokens;
  if (row >= kRows || token >= a.tokens || first + row >= outputs) return;
  float value = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) value += parts[w][threadIdx.x];
  part.finish.Put(token, first + row, value);
}

template <FragmentKind kKind, class T>
void LaunchTyped(TileArguments& a, Run& run) {
  constexpr int kInputs = FragmentSizes<kKind>::kInputs, kRound = kWarps * kAhead;
  int shift = 31;
  for (int i = 0; i < a.count; ++i) shift = std::min(shift, a.parts[i].group_shift);
  const auto scale_pitch = [&](int units) {
    const int64_t groups = ((std::min<int64_t>(int64_t{units} * 4 * kInputs, a.inputs) - 1) >> shift) + 2;
    return static_cast<int>(groups | 1);
  };
  const int unit_bytes = 4 * kInputs * 2 * a.tokens;
  const auto shared_bytes = [&](int units) {
    return static_cast<size_t>(units) * unit_bytes + sizeof(GroupScale<kKind>) * kRows * scale_pitch(units);
  };
  a.segment_units = std::max(kStagedBytes / unit_bytes / kRound * kRound, kRound);
  while (a.segment_units > kRound && shared_bytes(std::min(a.units, a.segment_units)) > kStagedBytes) a.segment_units -= kRound;
  const int units = std::min(a.units, a.segment_units);
  a.scale_pitch = scale_pitch(units);
  a.scales_after = units * unit_bytes / 16;
  const size_t shared = shared_bytes(units);
  const auto kernel = FewOnCores<kKind, T>;
  if (shared > kFreeSharedBytes) {
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), "cudaFuncSetAttribute");
  }
  OverlappedWith(shared, kernel, dim3(a.tiles), kThreads, run, a);
}

template <FragmentKind kKind>
void LaunchKind(const std::vector<LinearOp>& ops, Run& run) {
  TileArguments a{CoreArgumentsOf(ops, 4 * FragmentSizes<kKind>::kInputs, run)};
  return ops.front().weight.type == DType::kF16 ? LaunchTyped<kKind, __half>(a, run) : LaunchTyped<kKind, __nv_bfloat16>(a, run);
}

uint32_t ScaleRowBytes(const Weight& weight) {
  constexpr int64_t kMost = 4096;
  const View& scales = weight.Part(WeightPart::kScales);
  if (!scales.data || weight.row_group != 1 || scales.strides[0] != scales.shape[1]) return 0;
  const int64_t bytes = scales.shape[1] * ElementBytes(scales.dtype);
  return bytes <= kMost && bytes % 16 == 0 && RowsAligned(scales, 16) ? static_cast<uint32_t>(bytes) : 0;
}

int64_t ScaleStrideBytes(const Weight& weight) {
  const View& scales = weight.Part(WeightPart::kScales);
  return scales.strides[0] * ElementBytes(scales.dtype);
}

/// As many bytes of a row's scales as a copy may take at a time.
int ScaleStep(const Weight& weight, int row_bytes) {
  const View& scales = weight.Part(WeightPart::kScales);
  for (const int step : {16, 4}) {
    if (row_bytes % step == 0 && RowsAligned(scales, step)) return step;
  }
  return static_cast<int>(ElementBytes(scales.dtype));
}

Part PartOf(const LinearOp& op, unsigned first_tile, Run& run) {
  const Weight& w = op.weight;
  const View& codes = w.Part(WeightPart::kCodes);
  Part part{};
  part.finish = Finish(op);
  part.first_block = first_tile;
  part.row_bytes = codes.strides[0] * ElementBytes(codes.dtype);
  part.code_bytes = codes.shape[1] * ElementBytes(codes.dtype);
  if (w.dense()) {
    part.weight = StoredWeight::OfValues(w);
    return part;
  }
  part.weight = StoredWeight(w, run.fault());
  part.group_shift = GroupShift(w);
  part.scale_bytes = ScaleRowBytes(w);
  part.scale_stride_bytes = ScaleStrideBytes(w);
  part.row_scale_bytes = static_cast<int>(w.Part(WeightPart::kScales).shape[1] * ElementBytes(w.Part(WeightPart::kScales).dtype));
  part.scale_step = ScaleStep(w, part.row_scale_bytes);
  return part;
}

}  // namespace

CoreArguments CoreArgumentsOf(const std::vector<LinearOp>& ops, int unit_inputs, Run& run) {
  const View& x = ops.front().x;
  CoreArguments a{};
  a.tokens = static_cast<int>(x.shape[0]);
  if (a.tokens > kTokens) throw std::logic_error("a kernel for a few tokens is given more");
  a.x = x.data;
  a.x_stride = x.strides[0];
  a.inputs = x.shape[1];
  a.units = static_cast<int>((a.inputs + unit_inputs - 1) / unit_inputs);
  for (const LinearOp& op : ops) {
    a.parts[a.count++] = PartOf(op, a.tiles, run);
    a.tiles += Blocks(op.weight.outputs, kRows);
  }
  const int64_t at_once = std::min<int64_t>(a.tiles, kBlocksEach * run.multiprocessors());
  for (Part& part : a.parts) {
    part.prefetch_bytes = static_cast<uint32_t>(std::min(part.code_bytes, kPrefetchBytes / (at_once * kRows)) / 16 * 16);
  }
  return a;
}

void LaunchFewOnCores(const std::vector<LinearOp>& ops, Run& run) {
  if (LaunchFewStreamed({std::nullopt, ops}, run)) return;
  switch (FragmentsOf(ops.front()).value()) {
    case FragmentKind::kE4M3:
      return LaunchKind<FragmentKind::kE4M3>(ops, run);
    case FragmentKind::kInt8:
      return LaunchKind<FragmentKind::kInt8>(ops, run);
    case FragmentKind::kPacked8:
      return LaunchKind<FragmentKind::kPacked8>(ops, run);
    case FragmentKind::kPacked4:
      return LaunchKind<FragmentKind::kPacked4>(ops, run);
    case FragmentKind::kPacked4Exact:
      return LaunchKind<FragmentKind::kPacked4Exact>(ops, run);
    case FragmentKind::kFp4:
      return LaunchKind<FragmentKind::kFp4>(ops, run);
    case FragmentKind::kValues:
      break;
  }
  throw std::logic_error("values of a few tokens have kernels of their own");
}

}  // namespace zi::cuda
