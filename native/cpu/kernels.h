// The kernels of one instruction set as a table of functions, and what they may call outside their own files.
#pragma once
#include <atomic>
#include <cstddef>

#include "core/thread_pool.h"
#include "cpu/quantise.h"
#include "ops/operand.h"

namespace zi {

/// Where a kernel runs.
struct Run {
  ThreadPool& pool;
  const CancelFlag& cancel;
};

/// What the ranks of a group have of the values [first, last), counted through the rows of a partial.
struct PartialSpan {
  const uint8_t* const* places;
  int count;
  int64_t first, last;
};

/// Operations on the same choices that follow each other: products of the same inputs, one or two that are alike, with gates and what
/// these let through; the gates; and the product of that. Null stands for what there is not; without `down` nothing but products.
struct ExpertBlock {
  const ExpertLinearOp* products[2];
  const ExpertBiasOp* bias;
  const GatedOp* gated;
  const GatedPairsOp* pairs;
  const ExpertLinearOp* down;
  const ExpertBiasOp* down_bias;
};

struct Kernels {
  void (*gather_rows)(const GatherRowsOp&, Run&);
  void (*layer_norm)(const LayerNormOp&, Run&);
  void (*rms_norm)(const RmsNormOp&, Run&);
  void (*linear)(const LinearOp&, Run&);
  void (*head_linear)(const HeadLinearOp&, Run&);
  void (*gated)(const GatedOp&, Run&);
  void (*add)(const AddOp&, Run&);
  void (*rotary)(const RotaryOp&, Run&);
  void (*kv_store)(const KvStoreOp&, Run&);
  void (*attention)(const AttentionOp&, Run&);
  void (*argmax)(const ArgmaxOp&, Run&);
  void (*token_rows)(const TokenRowsOp&, Run&);
  void (*top_tokens)(const TopTokensOp&, Run&);
  void (*nll_fold)(const NllFoldOp&, Run&);
  void (*scale_cap)(const ScaleCapOp&, Run&);
  void (*position_scale)(const PositionScaleOp&, Run&);
  void (*clamp)(const ClampOp&, Run&);
  void (*route)(const RouteOp&, Run&);
  void (*expert_linear)(const ExpertLinearOp&, Run&);
  /// Null where each of its operations is computed by itself.
  void (*expert_block)(const ExpertBlock&, Run&);
  void (*combine)(const CombineOp&, Run&);
  void (*expert_bias)(const ExpertBiasOp&, Run&);
  void (*gated_pairs)(const GatedPairsOp&, Run&);
  void (*causal_conv)(const CausalConvOp&, Run&);
  void (*state_scan)(const StateScanOp&, Run&);
  void (*gated_rms)(const GatedRmsOp&, Run&);
  void (*compress)(const CompressOp&, Run&);
  void (*window_attention)(const WindowAttentionOp&, Run&);
  void (*hyper_weights)(const HyperWeightsOp&, Run&);
  void (*hyper_mix)(const HyperMixOp&, Run&);
  void (*gate_sigmoid)(const GateSigmoidOp&, Run&);
  void (*scale_rows)(const ScaleRowsOp&, Run&);
  void (*sample)(const SampleOp&, Run&);
  void (*note_not_finite)(const NoteNotFiniteOp&, Run&);
  void (*sum_partials)(const ReduceOp&, const PartialSpan&, Run&);
  /// One row of the job; its loss is added to `loss`.
  void (*quantise_row)(const QuantiseJob& job, int64_t row, QuantiseLoss& loss);
  /// Sum of `count` floats: how fast memory can be read at all.
  float (*read_all)(const float* data, size_t count);
  /// Runs about `steps` rounds of independent multiply-adds and returns how many operations that was.
  double (*multiply_add)(size_t steps, float* sink);
};

const Kernels& KernelsAvx2();
const Kernels& KernelsAvx512();
/// As those of AVX-512, but products with bf16 weights take their inputs as bf16 too.
const Kernels& KernelsAvx512Bf16();
/// As those of AVX-512, but products with bf16 weights are computed on tiles, from inputs as three bf16 that hold them exactly.
const Kernels& KernelsAmx();
/// The same from inputs rounded to one bf16.
const Kernels& KernelsAmxBf16();

/// Ends the operation, and with it the stream, with a sentence (printf format).
[[noreturn]] void FailOp(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// Scratch of the calling thread: 64-byte aligned, kept between calls, contents undefined. Two blocks, because the
/// thread that packs operands for a whole operation also takes part in its tiles.
enum class ScratchUse { kOperation, kTile };
void* Scratch(ScratchUse use, size_t size);

/// cos and sin of an angle in double precision, out of the per-instruction-set files.
void CosSin(double angle, float scale, float* cosine, float* sine);
/// 1 + beta · ln(1 + steps), likewise.
float PositionFactor(double steps, float beta);

/// The step of a recurrence, and what its state is multiplied by; in double precision too. See `state_scan` in
/// offload/port/ops.ts.
struct ScanStep {
  float step, kept;
};
ScanStep StepOf(float raw, float decay, float least, float most);
float SigmoidOf(float x);

}  // namespace zi
