// expert_linear for few choices of experts in FP4 with a power of two per 32 inputs, as gpt-oss stores them: a lane reads 32 codes and
// their scale at once, of several rows. Values need no rounding, since bf16 holds them.
#include "cuda/experts.h"
#include "cuda/math.h"
#include "cuda/overlap.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
/// Rows of a warp, and groups of 32 inputs that a lane has on their way of each.
constexpr int kRows = 4, kAhead = 3;
constexpr int kGroup = 32;
/// A group's inputs in shared memory, and room after them, so that eight lanes read different banks.
constexpr int kPitch = kGroup + 4;
constexpr size_t kMostSharedBytes = 48 << 10;

struct Fp4Arguments {
  StoredExperts weights;
  ChoiceTable choices;
  RowView x, out;
  int64_t x_each;  // choices that share a row of x
};

size_t SharedBytes(int64_t inputs) { return static_cast<size_t>(inputs / kGroup) * kPitch * sizeof(float); }

/// Codes j and j + 4 of eight, times 2^-14: a half has the sign and the three bits of a code where it has its own.
template <int j>
__device__ inline float2 CodePair(uint32_t codes) {
  constexpr int kBits = 9 - 4 * j, kSign = 12 - 4 * j;
  const auto moved = [&](int by) { return by >= 0 ? codes << by : codes >> -by; };
  const uint32_t halves = (moved(kBits) & 0x0e000e00u) | (moved(kSign) & 0x80008000u);
  return __half22float2(reinterpret_cast<const __half2&>(halves));
}

template <int j>
__device__ inline float AddPair(uint32_t codes, const float* x, float sum) {
  const float2 pair = CodePair<j>(codes);
  return fmaf(pair.y, x[j + 4], fmaf(pair.x, x[j], sum));
}

/// The sum over eight codes, times 2^-14.
__device__ inline float AddEight(uint32_t codes, const float* x, float sum) {
  return AddPair<3>(codes, x, AddPair<2>(codes, x, AddPair<1>(codes, x, AddPair<0>(codes, x, sum))));
}

__global__ void __launch_bounds__(kThreads) Fp4Dots(const __grid_constant__ Fp4Arguments a) {
  extern __shared__ float inputs[];
  Begin();
  const StoredWeight& like = a.weights.first;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int groups = static_cast<int>(like.groups), outputs = static_cast<int>(like.outputs);
  const int first = (static_cast<int>(blockIdx.x) * kWarps + warp) * kRows;
  for (int64_t choice = blockIdx.y; choice < a.choices.count; choice += gridDim.y) {
    const float* const x = a.x.Row<float>(choice / a.x_each);
    __syncthreads();  // the choice before has been read
    for (int k = static_cast<int>(threadIdx.x) * 4; k < groups * kGroup; k += kThreads * 4) {
      *reinterpret_cast<float4*>(inputs + k / kGroup * kPitch + k % kGroup) = *reinterpret_cast<const float4*>(x + k);
    }
    __syncthreads();
    const int expert = a.choices.Expert(choice);
    if (expert < 0) {
      if (threadIdx.x == 0) a.choices.ReportOutside(choice);
      continue;
    }
    const uint8_t *codes[kRows], *scales[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = min(first + r, outputs - 1);
      codes[r] = a.weights.Part(expert, WeightPart::kCodes) + row * like.code_stride;
      scales[r] = a.weights.Part(expert, WeightPart::kScales) + (row + like.first_row) * like.scale_stride;
    }
    float sums[kRows] = {};
    for (int begin = 0; begin < groups; begin += kAhead * 32) {
      uint4 read[kAhead][kRows];
      uint8_t scale[kAhead][kRows];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int group = begin + u * 32 + lane;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (group < groups) {
            read[u][r] = __ldcs(reinterpret_cast<const uint4*>(codes[r]) + group);
            scale[u][r] = scales[r][group];
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int group = begin + u * 32 + lane;
        if (group >= groups) break;
        float of[kRows] = {};
        const uint32_t* words[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) words[r] = reinterpret_cast<const uint32_t*>(&read[u][r]);
#pragma unroll
        for (int w = 0; w < kGroup / 8; ++w) {
          float in[8];
          GetEight(inputs + group * kPitch + w * 8, in);
#pragma unroll
          for (int r = 0; r < kRows; ++r) of[r] = AddEight(words[r][w], in, of[r]);
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] = fmaf(of[r] * 16384.0f, FromE8M0(scale[u][r]), sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = WarpSum(sums[r]);
      if (lane == r && first + r < outputs) a.out.Put(choice, first + r, sum);
    }
  }
}

}  // namespace

bool IsPlainFp4(const ExpertLinearOp& op) {
  const Weight& weight = op.weight;
  const View &codes = weight.Part(WeightPart::kCodes), &scales = weight.Part(WeightPart::kScales);
  if (weight.format != WeightFormat::kFp4 || scales.dtype != DType::kE8M0 || weight.Part(WeightPart::kGlobal).data) return false;
  if (weight.product == DType::kF16 || weight.type != DType::kBF16 || weight.factor != 1) return false;
  if (weight.input_group != kGroup || weight.row_group != 1 || weight.inputs % kGroup != 0) return false;
  if (codes.strides[0] % 16 != 0 || SharedBytes(weight.inputs) > kMostSharedBytes) return false;
  const uint8_t* const* places = op.parts[static_cast<int>(WeightPart::kCodes)];
  for (int64_t e = 0; e < op.place_count(); ++e) {
    if (reinterpret_cast<uintptr_t>(places[e]) % 16 != 0) return false;
  }
  return true;
}

void LaunchFp4Dots(const ExpertLinearOp& op, const View& x, Run& run) {
  Fp4Arguments a{};
  a.weights = StoredExperts(op, run.fault());
  a.choices = ChoiceTable(op, run.fault());
  a.x = RowView(x);
  a.out = RowView(op.out);
  a.x_each = ChoicesPerRow(op);
  const dim3 grid(Blocks(op.weight.outputs, kWarps * kRows), Blocks(a.choices.count, 1, kMostGridRows));
  OverlappedWith(SharedBytes(op.weight.inputs), Fp4Dots, grid, kThreads, run, a);
}

}  // namespace zi::cuda
