// Implements cuda/sum_rows.h: a block pushes its row and holds it while it waits for the others', beside the residual's, so that what
// follows the meeting reads nothing but what has come.
#include "cuda/sum_rows.h"

#include "cuda/hidden_norm.h"
#include "cuda/shapes.h"
#include "cuda/sum_ranks.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

constexpr int kRowThreads = 512;
/// Groups of eight that a thread has of a row, at most.
constexpr int kFewGroups = 2, kMostGroups = 4;

struct RowSumArguments {
  SumArguments sum;
  int groups;  // of a row
  HiddenNorm norm;
  void* out;  // null where nothing is normed
  int64_t out_stride;
};

/// Eight neighbours that lie anywhere. Called, not inlined: few need them.
__noinline__ __device__ void GetAnywhere(const float* from, float (&to)[8]) {
  for (int i = 0; i < 8; ++i) to[i] = from[i];
}
__noinline__ __device__ void PutAnywhere(float* to, const float (&from)[8]) {
  for (int i = 0; i < 8; ++i) to[i] = from[i];
}
template <class P>
__noinline__ __device__ Group<P, 8> OwnAnywhere(const P* from) {
  Group<P, 8> own;
  for (int i = 0; i < 8; ++i) own.values[i] = from[i];
  return own;
}

/// P: the partials' type. W: the type of the norm's weight and result.
template <class P, class W, int kGroups>
__global__ void __launch_bounds__(kRowThreads, 2) SumRows(const __grid_constant__ RowSumArguments arguments) {
  const SumArguments& a = arguments.sum;
  __shared__ float shared[kGroups * kRowThreads / 32];
  Begin();
  const uint32_t epoch = BeginEpoch(a), parity = epoch & 1;
  const int count = a.layout.count, row = static_cast<int>(blockIdx.x);
  // As pushed: in their order in all rows, however far these lie apart.
  const int64_t first = int64_t{row} * arguments.groups;
  const auto at = [](int g) { return static_cast<int>(threadIdx.x) + g * kRowThreads; };
  Group<P, 8> own[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (at(g) >= arguments.groups) continue;
    const P* const from = a.partial.Row<P>(row) + 8 * at(g);
    own[g] = a.aligned ? *reinterpret_cast<const Group<P, 8>*>(from) : OwnAnywhere(from);
  }
  for (int to = 0; to < count; ++to) {
    if (to == a.rank) continue;
    uint8_t* const slot = a.inbox[to] + a.layout.SlotOf(parity, a.rank, to);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (at(g) < arguments.groups) Put(slot + (first + at(g)) * sizeof own[g], own[g]);
    }
  }
  float* const residual = a.x.Row<float>(row);
  float x[kGroups][8];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (float& value : x[g]) value = 0;
    if (!a.accumulate || at(g) >= arguments.groups) continue;
    const float* const from = residual + 8 * at(g);
    if (a.aligned) GetEight(from, x[g]);
    else GetAnywhere(from, x[g]);
  }
  Meet(a, 0, epoch);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (at(g) >= arguments.groups) continue;
    float sum[8];
    for (int from = 0; from < count; ++from) {
      const uint8_t* slot = a.inbox[a.rank] + a.layout.SlotOf(parity, from, a.rank) + (first + at(g)) * sizeof own[g];
      AddTo(sum, from == a.rank ? own[g] : TakePushed<P, 8>(slot), from == 0);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) x[g][i] = a.accumulate ? x[g][i] + sum[i] : sum[i];
    float* const to = residual + 8 * at(g);
    if (a.aligned) PutEight(to, x[g]);
    else PutAnywhere(to, x[g]);
  }
  EndEpoch(a, epoch);
  if (!arguments.out) return;
  const HiddenNorm& norm = arguments.norm;
  const int warps = (arguments.groups + 31) / 32;
  const auto length = static_cast<float>(8 * arguments.groups);
  float sums[kGroups], mean = 0;
  if (norm.centers) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      sums[g] = 0;
      for (const float value : x[g]) sums[g] += value;
    }
    mean = RowSum<kRowThreads>(sums, warps, shared) / length;
  }
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    sums[g] = 0;
    if (at(g) >= arguments.groups) continue;
    for (const float value : x[g]) sums[g] = fmaf(value - mean, value - mean, sums[g]);
  }
  const float inverse = 1.0f / sqrtf(RowSum<kRowThreads>(sums, warps, shared) / length + norm.eps);
  auto* const out = static_cast<uint4*>(arguments.out) + row * arguments.out_stride / 8;
  const auto *weights = static_cast<const W*>(norm.weight), *biases = static_cast<const W*>(norm.bias);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (at(g) >= arguments.groups) continue;
    const int i = 8 * at(g);
    out[at(g)] = NormedEight(x[g], mean, inverse, weights + i, biases ? biases + i : nullptr, norm.weight_offset);
  }
}

using Kernel = void (*)(RowSumArguments);
template <class W>
Kernel KernelFor(bool floats, bool wide) {
  if (floats) return SumRows<float, W, kFewGroups>;
  return wide ? SumRows<__nv_bfloat16, W, kMostGroups> : SumRows<__nv_bfloat16, W, kFewGroups>;
}
Kernel KernelFor(DType partial, DType normed, bool wide) {
  const bool floats = partial == DType::kF32;
  return normed == DType::kF16 ? KernelFor<__half>(floats, wide) : KernelFor<__nv_bfloat16>(floats, wide);
}

bool GoesByRows(const ReduceOp& op) {
  const auto& exchange = static_cast<const DeviceExchange&>(*op.exchange);
  const int64_t tokens = op.x.shape[0], length = op.x.shape[1];
  // A block is as large as two of those that most_blocks counts.
  if (exchange.count() < 2 || tokens <= kFewTokens || tokens > exchange.most_blocks() / 2) return false;
  const int64_t bytes = tokens * length * ElementBytes(op.partial.dtype);
  const bool floats = op.partial.dtype == DType::kF32;
  if (op.x.dtype != DType::kF32 || (!floats && op.partial.dtype != DType::kBF16)) return false;
  const int64_t most = int64_t{8} * kRowThreads * (floats ? kFewGroups : kMostGroups);
  return length % 8 == 0 && length <= most && bytes <= static_cast<int64_t>(exchange.room());
}

bool Aligned(const View& view) { return reinterpret_cast<uintptr_t>(view.data) % 16 == 0; }

/// Whether the kernel that sums norms as well.
bool Norms(const ReduceOp& sum, const NormOp& norm) {
  const View &x = sum.x, &out = norm.out, &weight = norm.weight;
  if (norm.x.rank != 2 || x.dtype != DType::kF32 || !SamePlace(norm.x, x) || !RowsAligned(x, 16) || !RowsAligned(sum.partial, 16)) return false;
  if (!IsHalf(out.dtype) || !RowsAligned(out, 16) || Overlaps(out, x) || Overlaps(out, sum.partial)) return false;
  if (!weight.data || weight.rank != 1 || weight.dtype != out.dtype || !Aligned(weight)) return false;
  return !norm.bias.data || (norm.bias.dtype == out.dtype && Aligned(norm.bias));
}

std::optional<NormOp> NormOf(const Operation& op) {
  if (const auto* layer = std::get_if<LayerNormOp>(&op)) {
    return NormOp{layer->out, layer->x, layer->weight, layer->bias, layer->eps, layer->weight_offset, true};
  }
  if (const auto* rms = std::get_if<RmsNormOp>(&op)) {
    return NormOp{rms->out, rms->x, rms->weight, View{}, rms->eps, rms->weight_offset, false};
  }
  return std::nullopt;
}

}  // namespace

void PrepareRowSums() {
  cudaFuncAttributes attributes;
  for (const DType partial : {DType::kF32, DType::kBF16}) {
    for (const DType normed : {DType::kF16, DType::kBF16}) {
      for (const bool wide : {false, true}) {
        Check(cudaFuncGetAttributes(&attributes, KernelFor(partial, normed, wide)), "cudaFuncGetAttributes");
      }
    }
  }
}

bool LaunchRowSums(const ReduceOp& op, const NormOp* norm, Run& run) {
  if (!GoesByRows(op)) return false;
  RowSumArguments a{};
  a.sum = ArgumentsOf(op);
  a.groups = static_cast<int>(op.x.shape[1] / 8);
  if (norm) {
    a.norm = HiddenNorm(*norm);
    a.out = norm->out.data;
    a.out_stride = norm->out.strides[0];
  }
  const Kernel kernel = KernelFor(op.partial.dtype, norm ? norm->out.dtype : DType::kBF16, a.groups > kRowThreads * kFewGroups);
  Overlapped(kernel, Blocks(op.x.shape[0], 1), kRowThreads, run, a);
  return true;
}

std::optional<NormedSum> NormedSumAt(const std::vector<Decoded>& operations, size_t first) {
  if (operations.size() - first < kNormedSumOperations) return std::nullopt;
  const auto* sum = std::get_if<ReduceOp>(&operations[first].op);
  const auto norm = NormOf(operations[first + 1].op);
  if (!sum || !norm || !GoesByRows(*sum) || !Norms(*sum, *norm)) return std::nullopt;
  return NormedSum{*sum, *norm};
}

void Launch(const NormedSum& normed, Run& run) {
  run.Flush();
  run.inputs().Forget();
  LaunchRowSums(normed.sum, &normed.norm, run);
}

}  // namespace zi::cuda
