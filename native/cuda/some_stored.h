// Some tokens, more than a few, times stored weights on compute capability 9.0: codes are read once, become values in registers, and
// are multiplied by inputs that lie in shared memory (wgmma).
//
// A group of four warps takes twice 64 rows of a weight, each warp 16 of each, and all tokens as columns; two of them are a block, whose
// 256 rows are a tile. What copies bring of codes a lane takes itself; inputs were put beforehand (PlaceInputs) as stages take them, so
// that values of weights need not change places, and are brought by a warp of its own. Groups of warps wait for inputs alone, not for
// each other, and make values while the last products run; that they wait for all of these now and then is the compiler's wish. Stages go
// on from one tile to the next: copies for it are under way before the last one's sums are results.
//
// Who multiplies what is said by SomeSplit. The units of inputs of all tiles, one tile after the other, are cut into runs of equal length,
// one for each block or pair of blocks, so that no multiprocessor idles while others have a tile more. A pair takes the same units, of two
// tiles side by side, and each brings one half of their inputs to both. A tile that runs share is finished by the one that began it: to its
// own sums it adds those of the following runs in their order. So results depend on the product's shape and on how many multiprocessors
// there are, and on nothing else. A product of few tiles is shared by the blocks of a cluster instead, whose sums are added in their order.
//
// Nobody waits for ever: a run waits only for later runs, which are blocks of lower index, and those begin first. They hand over the
// first thing that they make. Flags are set to zero by PlaceInputs, which comes before each product, in graphs as well.
#pragma once
#include "cuda/some_inputs.h"

namespace zi::cuda::some {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/// Values of eight codes of a lane's two rows of 64.
struct Eight {
  uint32_t rows[2][4];
};

/// What a lane multiplies of a unit: groups of products, of eight codes after eight, and of each 64 rows.
template <FragmentKind kKind, class T, ScaleForm kForm>
struct Unit {
  static constexpr int kGroups = FragmentSizes<kKind>::kInputs / 8 * kTiers;
  uint4 codes[kLaneRows];
  uint32_t scales[kLaneRows];
  bool halves;
  float factor;

  template <int kGroup>
  __device__ void Expand(Eight& to) const {
    constexpr int kFirst = kGroup % kTiers * 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      ValuesOf<kKind, T, kForm>(scales[kFirst + h], halves, factor).template Expand<kGroup / kTiers>(codes[kFirst + h], to.rows[h]);
    }
  }
};

/// How many units are multiplied before all products are waited for. A loop in which some run on would be compiled so that each is waited
/// for.
template <FragmentKind kKind>
constexpr int kTogether = FragmentSizes<kKind>::kNibbles ? 2 : 4;

/// sums += values · inputs. The products of a group run while values for the next one are made; the last two run on. `behind` is called
/// once those of the units before have ended.
template <int kGroup, FragmentKind kKind, class T, ScaleForm kForm, int kColumns, class Behind>
__device__ inline void MultiplyUnit(const Unit<kKind, T, kForm>& unit, const Eight& values, uint64_t inputs, Sums<kColumns>& sums,
                                    const Behind& behind) {
  constexpr int kEight = kGroup / kTiers, kTier = kGroup % kTiers;
  // Two steps of 16 inputs; four are a matrix.
  constexpr uint64_t kAt = EncodedBytes(kEight / 2 * kColumns * kMatrixInputs * 2 + kEight % 2 * 64);
  const auto& [low, high] = values.rows;
  BeginProducts();
  StartProduct<T>(sums[kTier], {low[0], high[0], low[1], high[1]}, inputs + kAt);
  StartProduct<T>(sums[kTier], {low[2], high[2], low[3], high[3]}, inputs + kAt + EncodedBytes(32));
  EndProducts();
  if constexpr (kGroup == 0) behind();
  if constexpr (kGroup + 1 < Unit<kKind, T, kForm>::kGroups) {
    if constexpr (kGroup > 0) WaitForProductsBut<1>();
    Eight next;
    unit.template Expand<kGroup + 1>(next);
    MultiplyUnit<kGroup + 1, kKind, T, kForm, kColumns>(unit, next, inputs, sums, behind);
  }
}

/// A block's sums in its shared memory, for all blocks of its cluster.
template <int kColumns>
__device__ inline void ShowSums(const Sums<kColumns>& sums, float* shared) {
  const int lane = threadIdx.x % 32, row = WarpRow() + lane / 4;
#pragma unroll
  for (int tier = 0; tier < kTiers; ++tier) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        shared[(n * 8 + lane % 4 * 2 + i % 2) * kSumPitch + row + tier * kRowsEach + i / 2 * 8] = sums[tier][n][i];
      }
    }
  }
}
/// Those of a cluster's blocks, added in their order, as results; each block's share.
__device__ inline void AddCluster(const Arguments& a, const Work& work, const float* shared) {
  constexpr int kEights = kBlockRows / 8;
  const int blocks = a.split.cluster;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) + work.rank * kThreads; i < a.results.tokens * kEights; i += blocks * kThreads) {
    const int token = i / kEights, first = i % kEights * 8;
    const int64_t output = work.FirstRow(a) + first;
    float values[8] = {};
    for (int from = 0; from < blocks; ++from) {
      const float* const at = shared + token * kSumPitch + first;
      const float4 low = FourOfCluster(at, from), high = FourOfCluster(at + 4, from);
      values[0] += low.x, values[1] += low.y, values[2] += low.z, values[3] += low.w;
      values[4] += high.x, values[5] += high.y, values[6] += high.z, values[7] += high.w;
    }
    if (output < a.results.outputs) a.results.finish.PutEight(token, output, a.results.outputs, values, a.results.eights);
  }
}

/// The warp has multiplied a stage, which blocks that its inputs are brought to learn.
__device__ inline void Release(uint64_t* read, int sharers) {
  if (sharers > 1) ArriveEverywhere(read, sharers);
  else ArriveWarp(read);
  __syncwarp();
}
/// Groups of four warps begin with as many registers each, and exchange them. Together no more than there are: 168 each.
template <int kCount>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
#endif

template <FragmentKind kKind, class T, ScaleForm kForm, int kColumns>
__global__ void __launch_bounds__(kAllThreads, 1) SomeStored(const __grid_constant__ Arguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using S = Stage<kKind, kColumns>;
  extern __shared__ __align__(128) uint8_t unaligned[];
  uint8_t* const bytes = unaligned + (kAlignment - SharedAddress(unaligned) % kAlignment) % kAlignment;
  __shared__ Barriers<S> barriers;
  const Work work(a);
  const int sharers = a.Sharers();
  if (threadIdx.x == kThreads) {
    for (int s = 0; s < S::kStages; ++s) InitBarrier(&barriers.there[s], 1), InitBarrier(&barriers.read[s], kWarps * sharers);
    ShowBarriers();
  }
  __syncwarp();
  MeetCluster();
  if (threadIdx.x >= kThreads) {
    GiveRegisters<24>();
    Begin();
    BringInputs<kKind, kColumns>(a, work, bytes, barriers);
    // Blocks stay until their cluster has no more use of their barriers, stages and sums.
    MeetCluster();
    if (a.split.runs == 0) MeetCluster();
  } else {
    TakeRegisters<240>();
    const auto codes_of = [&](int stage) { return bytes + stage * S::kBytes + S::kInputBytes; };
    LaneCodes<kKind> lane_codes(a, work);
#pragma unroll
    for (int s = 0; s < S::kAhead; ++s) {
      if (s < work.count) lane_codes.Start(a, codes_of(s));
      CommitCopies();
    }
    LaneScales<kKind, kForm> lane_scales(a, work);
    // Those of the next two units, by turns: a loop that handed them on in registers would wait for them at once.
    uint32_t scales[2][kLaneRows];
#pragma unroll
    for (int s = 0; s < 2; ++s) lane_scales.Read(a, scales[s]);
    Begin();
    Unit<kKind, T, kForm> unit;
    unit.halves = a.weight.scale_type == DType::kF16;
    unit.factor = a.weight.factor;
    Eight first;
    Sums<kColumns> sums = {};
    int64_t tile_end = (work.tile + 1) * a.units, first_row = work.FirstRow(a);
    int begun = work.unit, stage = 0, before = S::kStages - 1;
    uint32_t phase = 0;
    // A lane takes only codes that it has copied itself.
    const auto take = [&](int i, uint32_t(&its_scales)[kLaneRows]) {
      WaitForAllCopiesBut<S::kAhead - 1>();
#pragma unroll
      for (int row = 0; row < kLaneRows; ++row) {
        unit.codes[row] = *lane_codes.Codes(codes_of(stage), row);
        unit.scales[row] = its_scales[row];
      }
      lane_scales.Read(a, its_scales);
      if (i + S::kAhead < work.count) lane_codes.Start(a, codes_of(before));
      CommitCopies();
      unit.template Expand<0>(first);
    };
    const auto exchange = [&] {
#pragma unroll
      for (int row = 0; row < kLaneRows; ++row) {
        const uint32_t next = scales[1][row];
        scales[1][row] = scales[0][row], scales[0][row] = next;
      }
    };
    for (int done = 0; done < work.count;) {
      const int count = a.split.runs > 0 ? min(a.units - begun, work.count - done) : work.count, end = done + count;
      take(done, scales[0]);
      // Multiplies the unit that was taken last; products go on. Its stage is `before` then.
      const auto multiply = [&](const auto& behind) {
        Await(&barriers.there[stage], phase);
        MultiplyUnit<0, kKind, T, kForm, kColumns>(unit, first, MatrixAt(bytes + stage * S::kBytes), sums, behind);
        before = stage;
        if (++stage == S::kStages) stage = 0, phase ^= 1;
        ++done;
        WaitForProductsBut<1>();
      };
#pragma unroll 1
      while (done + kTogether<kKind> <= end) {
#pragma unroll
        for (int i = 0; i < kTogether<kKind>; ++i) {
          multiply([&] {
            if (i == 0) return;
            WaitForProductsBut<1>();
            Release(&barriers.read[before], sharers);
          });
          if (i + 1 < kTogether<kKind> || done < end) take(done, scales[(i + 1) % 2]);
        }
        WaitForProductsBut<0>();
        Release(&barriers.read[before], sharers);
      }
      if (done < end) {
#pragma unroll 1
        while (done < end) {
          multiply([] {});
          exchange();
          if (done < end) take(done, scales[0]);
          WaitForProductsBut<0>();
          Release(&barriers.read[before], sharers);
        }
      }
      if (a.split.runs == 0) break;
      if (begun > 0) {
        HandOver<kColumns>(a.parts, a.results.tokens, sums);
      } else {
        for (int run = work.run + 1; count < a.units && run < a.split.runs && a.RunBegin(run) < tile_end; ++run) {
          TakeOver<kColumns>(a.parts, static_cast<int>(blockIdx.x) - (run - work.run) * a.split.cluster, a.results.tokens, sums);
        }
        auto* const turned = reinterpret_cast<float*>(bytes + S::kStages * S::kBytes) + threadIdx.x / 32 * kTurnFloats;
        PutSums<kColumns>(a.results, first_row, sums, turned);
      }
#pragma unroll
      for (int tier = 0; tier < kTiers; ++tier) {
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[tier][n][i] = 0;
        }
      }
      begun = 0;
      tile_end += a.units;
      first_row += Work::RowsApart(a);
    }
    WaitForAllCopiesBut<0>();
    auto* const shared = reinterpret_cast<float*>(bytes);
    if (a.split.runs == 0) {
      // None of these warps reads a stage any more.
      asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
      ShowSums<kColumns>(sums, shared);
    }
    MeetCluster();
    if (a.split.runs == 0) {
      AddCluster(a, work, shared);
      MeetCluster();
    }
  }
#endif
}

}  // namespace zi::cuda::some
