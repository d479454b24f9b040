// expert_linear for few choices of experts whose weights are stored in parts: every choice reads the rows of its own expert
// where they are stored, once. Sums are taken in an order that depends on K, the format and how operands lie.
#include "cuda/dot.h"
#include "cuda/experts.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

struct StoredDotArguments {
  StoredExperts weights;
  ChoiceTable choices;
  RowView x, out;
  int64_t x_each;  // choices that share a row of x
  bool eights;     // of x and of codes can be read at once
};

/// The experts' weights of a choice; none, which is reported, where there is no such expert.
__device__ inline bool FindWeight(const StoredDotArguments& a, int64_t choice, StoredWeight& weight) {
  const int expert = a.choices.Expert(choice);
  if (expert < 0) {
    if (threadIdx.x == 0) a.choices.ReportOutside(choice);
    return false;
  }
  weight = a.weights.Of(expert);
  return true;
}

/// Codes and inputs in eights: thread i takes inputs 8i … 8i+7 of every 1024, of kDotRows rows.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(kDotThreads) EightDots(const __grid_constant__ StoredDotArguments a) {
  static_assert(kDotRows == 4);
  Begin();
  __shared__ float parts[kDotThreads / 32][kDotRows];
  const int64_t outputs = a.weights.first.outputs, inputs = a.weights.first.inputs;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kDotRows;
  // Rows beyond the last repeat it; their sums are not stored.
  const auto row = [&](int r) { return first + r < outputs ? first + r : outputs - 1; };
  for (int64_t choice = blockIdx.y; choice < a.choices.count; choice += gridDim.y) {
    StoredWeight weight;
    if (!FindWeight(a, choice, weight)) continue;
    weight.eights = true;  // as it is: no other way is compiled
    const Cursor<kFormat> rows[kDotRows] = {{weight, row(0)}, {weight, row(1)}, {weight, row(2)}, {weight, row(3)}};
    const float* const x = a.x.Row<float>(choice / a.x_each);
    float sums[kDotRows] = {};
#pragma unroll 2
    for (int64_t k = threadIdx.x * kDotWidth; k < inputs; k += kDotThreads * kDotWidth) {
      float in[kDotWidth], w[kDotRows][kDotWidth];
#pragma unroll
      for (int r = 0; r < kDotRows; ++r) rows[r].LoadEight(k, w[r]);
      GetEight(x + k, in);
#pragma unroll
      for (int r = 0; r < kDotRows; ++r) {
#pragma unroll
        for (int i = 0; i < kDotWidth; ++i) sums[r] = fmaf(w[r][i], in[i], sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kDotRows; ++r) {
      const float sum = WarpSum(sums[r]);
      if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][r] = sum;
    }
    __syncthreads();
    if (threadIdx.x < kDotRows && first + threadIdx.x < outputs) {
      float sum = 0;
      for (int warp = 0; warp < kDotThreads / 32; ++warp) sum += parts[warp][threadIdx.x];
      a.out.Put(choice, first + threadIdx.x, sum);
    }
    __syncthreads();
  }
}

/// Value by value, wherever codes and inputs lie and whatever shares a scale: a row for each warp.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(kDotThreads) ValueDots(const __grid_constant__ StoredDotArguments a) {
  Begin();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kDotThreads / 32) + threadIdx.x / 32;
  for (int64_t choice = blockIdx.y; choice < a.choices.count; choice += gridDim.y) {
    StoredWeight weight;
    if (!FindWeight(a, choice, weight) || row >= weight.outputs) continue;
    const Cursor<kFormat> values(weight, row);
    const float* const x = a.x.Row<float>(choice / a.x_each);
    float sum = 0;
#pragma unroll 1
    for (int64_t k = threadIdx.x % 32; k < weight.inputs; k += 32) sum = fmaf(values.At(k), x[k], sum);
    sum = WarpSum(sum);
    if (threadIdx.x % 32 == 0) a.out.Put(choice, row, sum);
  }
}

constexpr int kColumnWarps = 8;

/// Where codes of neighbouring rows lie beside each other: a row for each lane, eight inputs of every 64 for each warp.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(32 * kColumnWarps) ColumnDots(const __grid_constant__ StoredDotArguments a) {
  Begin();
  __shared__ float parts[kColumnWarps][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t outputs = a.weights.first.outputs, row = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  for (int64_t choice = blockIdx.y; choice < a.choices.count; choice += gridDim.y) {
    StoredWeight weight;
    if (!FindWeight(a, choice, weight)) continue;
    const Cursor<kFormat> values(weight, row < outputs ? row : outputs - 1);
    const float* const x = a.x.Row<float>(choice / a.x_each);
    const int64_t whole = weight.inputs / 8 * 8;
    float sum = 0;
#pragma unroll 1
    for (int64_t k = warp * 8; k < whole; k += kColumnWarps * 8) {
      float w[8];
      values.LoadEight(k, w);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(w[i], x[k + i], sum);
    }
#pragma unroll 1
    for (int64_t k = whole + warp; k < weight.inputs; k += kColumnWarps) sum = fmaf(values.At(k), x[k], sum);
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && row < outputs) {
      float all = 0;
      for (int w = 0; w < kColumnWarps; ++w) all += parts[w][lane];
      a.out.Put(choice, row, all);
    }
    __syncthreads();
  }
}

template <WeightFormat kFormat>
void LaunchFormat(const StoredDotArguments& a, Run& run) {
  const int64_t outputs = a.weights.first.outputs;
  const unsigned choices = Blocks(a.choices.count, 1, kMostGridRows);
  if constexpr (Cursor<kFormat>::kInputMajor) {
    Overlapped(ColumnDots<kFormat>, dim3(Blocks(outputs, 32), choices), 32 * kColumnWarps, run, a);
  } else if (a.eights) {
    Overlapped(EightDots<kFormat>, dim3(Blocks(outputs, kDotRows), choices), kDotThreads, run, a);
  } else {
    Overlapped(ValueDots<kFormat>, dim3(Blocks(outputs, kDotThreads / 32), choices), kDotThreads, run, a);
  }
}

}  // namespace

void LaunchStoredDots(const ExpertLinearOp& op, Run& run) {
  if (LaunchFp4Streamed(op, run)) return;
  const View x = op.x.dtype == DType::kF32 ? op.x : run.inputs().Convert(op.x, DType::kF32, run);
  if (IsPlainFp4(op) && RowsAligned(x, 16)) return LaunchFp4Dots(op, x, run);
  StoredDotArguments a{};
  a.weights = StoredExperts(op, run.fault());
  a.choices = ChoiceTable(op, run.fault());
  a.x = RowView(x);
  a.out = RowView(op.out);
  a.x_each = ChoicesPerRow(op);
  a.eights = a.weights.first.eights && op.weight.inputs % kDotWidth == 0 && RowsAligned(x, 16);
  switch (op.weight.format) {
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
    case WeightFormat::kDenseIn:
      return LaunchFormat<WeightFormat::kDenseIn>(a, run);
    case WeightFormat::kDense:
      break;
  }
  UnknownFormat(op.weight.format);
}

}  // namespace zi::cuda
