// expert_linear for few choices of experts in FP4 with a power of two per 32 inputs, on an H100: a block per multiprocessor
// takes tile after tile of rows from a ring in shared memory, which copies keep full while its warps multiply.
//
// Tiles are the rows of products on tensor cores, as f16 times 2^-14, which is exact. The four lanes of a row have a group of
// 32 inputs each: columns 2t and 2t + 1 have the inputs of group t and zeros elsewhere, so that a lane's sums are of its own
// group alone, whose scale it applies. Inputs are two f16 each, of which the second has what the first leaves, and share a power
// of two: 22 bits of the largest. Teams of warps take tiles in turn, a warp every so many-th quad of groups of its team's; its inputs
// stay in registers.
#include "cuda/fp4_streamed.h"

#include <algorithm>

#include "cuda/overlap.h"

namespace zi::cuda {
namespace fp4 {
namespace {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// The first bit of each byte, and the others of another word. The compiler makes more of it than this one instruction.
__device__ inline uint32_t SignsAnd(uint32_t signs, uint32_t others) {
  uint32_t both;
  asm("lop3.b32 %0, %1, %2, 0x80808080, 0xe4;" : "=r"(both) : "r"(signs), "r"(others));
  return both;
}
/// Eight codes as four pairs of f16, times 2^-14: pair j has codes j and j + 4.
__device__ inline void ExpandCodes(uint32_t codes, uint32_t (&pairs)[4]) {
  // In each byte the sign and, three bits lower than in the codes, what follows it; the other bits are taken away last.
  constexpr uint32_t kBits = 0x8e008e00u;
  const uint32_t odd = SignsAnd(codes, codes >> 3), even = SignsAnd(codes << 4, codes << 1);
  pairs[0] = even << 8 & kBits;
  pairs[1] = odd << 8 & kBits;
  pairs[2] = even & kBits;
  pairs[3] = odd & kBits;
}

/// A quad of two rows, times inputs: sums of a lane's own group.
__device__ inline void MultiplyQuad(const uint4& upper, const uint4& lower, const uint32_t (&halves)[kGroup / 2], float (&sums)[2]) {
  const uint32_t *const of_upper = &upper.x, *const of_lower = &lower.x;
  float of[2][4] = {};
#pragma unroll
  for (int w = 0; w < kGroup / 8; ++w) {
    uint32_t u[4], l[4];
    ExpandCodes(of_upper[w], u);
    ExpandCodes(of_lower[w], l);
    MultiplyAdd<__half>(of[0], {u[0], l[0], u[1], l[1]}, halves[4 * w], halves[4 * w + 1]);
    MultiplyAdd<__half>(of[1], {u[2], l[2], u[3], l[3]}, halves[4 * w + 2], halves[4 * w + 3]);
  }
  sums[0] = (of[0][0] + of[1][0]) + (of[0][1] + of[1][1]);
  sums[1] = (of[0][2] + of[1][2]) + (of[0][3] + of[1][3]);
}

/// Where the tile lies that a lane's stage takes next.
struct NextTile {
  const uint8_t *codes = nullptr, *scales = nullptr;

  __device__ void Find(const StreamArguments& a, int tile) {
    const int choice = tile / a.tiles_each, row = (tile - choice * a.tiles_each) * kRows;
    const int expert = a.choices.Expert(choice);
    codes = nullptr;
    if (expert < 0) {
      if (row == 0) a.choices.ReportOutside(choice);
      return;
    }
    codes = a.weights.Part(expert, WeightPart::kCodes) + row * a.weights.first.code_stride;
    scales = a.weights.Part(expert, WeightPart::kScales) + (row + a.weights.first.first_row) * a.groups;
  }
  /// Whether there is an expert.
  __device__ bool Bring(int groups, uint8_t* to, uint64_t* full) const {
    if (!codes) {
      Arrive(full);
      return false;
    }
    const int code_bytes = CodeBytes(groups), scale_bytes = kRows * groups;
    ExpectBytes(full, code_bytes + scale_bytes);
    BringOnce(to, codes, code_bytes, full);
    BringOnce(to + code_bytes, scales, scale_bytes, full);
    return true;
  }
};

/// The warp that fills stages, each by a lane of its own, and stores what the others leave there.
template <class Shared>
__device__ inline void FillRing(const StreamArguments& a, const Ring& ring) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  NextTile next;
  bool there = false;
  const auto find = [&](int i) {
    if (lane < a.stages && i < ring.count) next.Find(a, ring.first + i);
  };
  const auto bring = [&] { there = next.Bring(a.groups, ring.stages + lane * StageBytes(a.groups), ring.full + lane); };
  find(lane);
  // The first first: it is what warps wait for.
  for (int s = 0; s < min(a.stages, ring.count); ++s) {
    if (lane == s) bring();
    __syncwarp();
  }
  find(lane + a.stages);
  Turn turn(a, ring, 0);
  for (int i = 0; i < ring.count; ++i, turn.Next(a, 1)) {
    Await(ring.done + turn.stage, turn.parity);
    float sum = 0;
#pragma unroll
    for (int w = 0; w < Shared::kTeam; ++w) sum += ring.SumsOf(turn.stage, w)[lane % kRows];
    const bool stores = __shfl_sync(0xffffffffu, there, turn.stage) && lane < kRows;
    if (lane == turn.stage && i + a.stages < ring.count) bring();
    if (stores) a.out.Put(turn.choice, turn.tile * kRows + lane, sum);
    if (lane == turn.stage) find(i + 2 * a.stages);
  }
}

template <class X, class Shared>
__device__ inline void MultiplyTiles(const StreamArguments& a, const Ring& ring) {
  constexpr int kTeam = Shared::kTeam, kQuads = Shared::kQuads;
  const int team = static_cast<int>(threadIdx.x) / 32 / kTeam, warp = static_cast<int>(threadIdx.x) / 32 % kTeam;
  const int lane = static_cast<int>(threadIdx.x) % 32, t = lane % 4, g = lane / 4;
  // Rows that one access reads lie apart, so that rows of 16 bytes times an odd number of pairs meet different banks.
  const int row = (g & 4) | (g & 1) << 1 | (g & 2) >> 1;
  const int groups = a.groups, row_bytes = groups * (kGroup / 2), first = warp * kQuad + t;
  const uint8_t* const all_codes = ring.stages + row * row_bytes + first * (kGroup / 2);
  const uint8_t* const all_scales = ring.stages + CodeBytes(groups) + row * groups + first;
  uint32_t halves[kQuads][kGroup / 2];
  float factors[kQuads];
  int choice = -1;
  int64_t taken = -1;
  Turn turn(a, ring, team);
  Inputs<X, Shared> inputs(a, ring);
  if (team < ring.count) inputs.Ask(turn.choice / a.x_each);
  for (int i = team; i < ring.count; i += Shared::kTeams, turn.Next(a, Shared::kTeams)) {
    if (turn.choice != choice) {
      choice = turn.choice;
      const int64_t from = choice / a.x_each;
      if (from != taken) {
        taken = from;
        inputs.Take(from, halves, factors);
      }
    }
    const int offset = turn.stage * StageBytes(groups);
    const uint8_t *const codes = all_codes + offset, *const scales = all_scales + offset;
    Await(ring.full + turn.stage, turn.parity);
    float upper = 0, lower = 0;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      // What lies behind the last group meets inputs of zero.
      const int group = q * kTeam * kQuad;
      if ((warp + q * kTeam) * kQuad >= groups) break;
      const bool there = first + group < groups;
      const float upper_scale = there ? ring.scales[scales[group]] : 0.0f;
      const float lower_scale = there ? ring.scales[scales[8 * groups + group]] : 0.0f;
      float sums[2];
      MultiplyQuad(*reinterpret_cast<const uint4*>(codes + group * (kGroup / 2)),
                   *reinterpret_cast<const uint4*>(codes + 8 * row_bytes + group * (kGroup / 2)), halves[q], sums);
      upper = fmaf(sums[0] * factors[q], upper_scale, upper);
      lower = fmaf(sums[1] * factors[q], lower_scale, lower);
    }
#pragma unroll
    for (int by = 1; by < 4; by *= 2) {
      upper += __shfl_xor_sync(0xffffffffu, upper, by);
      lower += __shfl_xor_sync(0xffffffffu, lower, by);
    }
    if (t == 0) {
      float* const sums = ring.SumsOf(turn.stage, warp);
      sums[row] = upper;
      sums[row + 8] = lower;
    }
    ArriveWarp(ring.done + turn.stage);
  }
  WaitForAllCopiesBut<0>();
}

#endif

template <class X, class Shared>
__global__ void __launch_bounds__(kThreads, 1) Fp4Streamed(const __grid_constant__ StreamArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(kStageStep) uint8_t shared[];
  const Ring ring(a, Shared::kQuads, shared);
  if (threadIdx.x == 0) {
    for (int s = 0; s < a.stages; ++s) {
      InitBarrier(ring.full + s, 1);
      InitBarrier(ring.done + s, Shared::kTeam);
    }
    ShowBarriers();
  }
  if (threadIdx.x < kScaleValues) ring.scales[threadIdx.x] = FromE8M0(static_cast<uint8_t>(threadIdx.x));
  __syncthreads();
  Begin();
  if (threadIdx.x / 32 == kWarps) FillRing<Shared>(a, ring);
  else MultiplyTiles<X, Shared>(a, ring);
#endif
}

template <class X, class Shared>
void LaunchShared(const StreamArguments& a, Run& run) {
  const auto kernel = Fp4Streamed<X, Shared>;
  const int shared = SharedBytes<Shared>(a.groups, a.stages);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "cudaFuncSetAttribute");
  const dim3 grid(static_cast<unsigned>(std::min(run.multiprocessors(), a.tiles)));
  OverlappedWith(static_cast<size_t>(shared), kernel, grid, kThreads, run, a);
}

template <class X>
void LaunchType(const StreamArguments& a, Run& run) {
  if (a.groups <= Short::kMostGroups) LaunchShared<X, Short>(a, run);
  else LaunchShared<X, Long>(a, run);
}

/// Whether 16 rows of codes, and their scales, are whole pieces of memory that copies take.
bool TilesTogether(const ExpertLinearOp& op) {
  const Weight& weight = op.weight;
  const int64_t groups = weight.inputs / kGroup;
  if (weight.outputs % kRows != 0 || weight.inputs == 0 || op.slot_bytes % 16 != 0) return false;
  if (weight.Part(WeightPart::kCodes).strides[0] != weight.inputs / 2) return false;
  if (weight.Part(WeightPart::kScales).strides[0] != groups || weight.first_row * groups % 16 != 0) return false;
  const uint8_t* const* const scales = op.parts[static_cast<int>(WeightPart::kScales)];
  return std::all_of(scales, scales + op.place_count(), [](const uint8_t* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; });
}

}  // namespace
}  // namespace fp4

bool LaunchFp4Streamed(const ExpertLinearOp& op, Run& run) {
  using namespace fp4;
  const int64_t groups = op.weight.inputs / kGroup, tiles_each = op.weight.outputs / kRows, tiles = tiles_each * op.out.shape[0];
  if (run.generation() != 9 || !IsPlainFp4(op) || !TilesTogether(op) || !RowsAligned(op.x, 16)) return false;
  if ((op.x.dtype != DType::kF32 && op.x.dtype != DType::kBF16) || groups > Long::kMostGroups || tiles > INT32_MAX / 2) return false;
  StreamArguments a{};
  a.groups = static_cast<int>(groups);
  a.stages = kMostStages;
  // A team keeps its stages: ahead of the others it would take what a stage has before for what it waits for.
  while (SharedBytes<Long>(a.groups, a.stages) > run.shared_memory().of_block) a.stages -= Short::kTeams;
  if (a.stages <= 0) return false;
  a.weights = StoredExperts(op, run.fault());
  a.choices = ChoiceTable(op, run.fault());
  a.x = RowView(op.x);
  a.out = RowView(op.out);
  a.x_each = ChoicesPerRow(op);
  a.tiles_each = static_cast<int>(tiles_each);
  a.tiles = static_cast<int>(tiles);
  if (op.x.dtype == DType::kF32) LaunchType<float>(a, run);
  else LaunchType<__nv_bfloat16>(a, run);
  return true;
}

}  // namespace zi::cuda
