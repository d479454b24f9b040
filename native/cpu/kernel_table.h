// Every kernel of one instruction set, gathered; each per-instruction-set file includes its simd header and then this.
#pragma once
#include "cpu/kernel_attention.h"
#include "cpu/kernel_cache.h"
#include "cpu/kernel_compress.h"
#include "cpu/kernel_conv.h"
#include "cpu/kernel_elementwise.h"
#include "cpu/kernel_expert_block.h"
#include "cpu/kernel_heads.h"
#include "cpu/kernel_hyper.h"
#include "cpu/kernel_linear.h"
#include "cpu/kernel_measure.h"
#include "cpu/kernel_norm.h"
#include "cpu/kernel_partials.h"
#include "cpu/kernel_quantise.h"
#include "cpu/kernel_reduce.h"
#include "cpu/kernel_route.h"
#include "cpu/kernel_rows.h"
#include "cpu/kernel_sample.h"
#include "cpu/kernel_scan.h"
#include "cpu/kernel_window.h"

namespace zi::ZI_ISA {

constexpr Kernels kTable = {
    .gather_rows = GatherRowsKernel,
    .layer_norm = LayerNormKernel,
    .rms_norm = RmsNormKernel,
    .linear = LinearKernel,
    .head_linear = HeadLinearKernel,
    .gated = GatedKernel,
    .add = AddKernel,
    .rotary = RotaryKernel,
    .kv_store = KvStoreKernel,
    .attention = AttentionKernel,
    .argmax = ArgmaxKernel,
    .token_rows = TokenRowsKernel,
    .top_tokens = TopTokensKernel,
    .nll_fold = NllFoldKernel,
    .scale_cap = ScaleCapKernel,
    .position_scale = PositionScaleKernel,
    .clamp = ClampKernel,
    .route = RouteKernel,
    .expert_linear = ExpertLinearKernel,
    .expert_block = ExpertBlockKernel,
    .combine = CombineKernel,
    .expert_bias = ExpertBiasKernel,
    .gated_pairs = GatedPairsKernel,
    .causal_conv = CausalConvKernel,
    .state_scan = StateScanKernel,
    .gated_rms = GatedRmsKernel,
    .compress = CompressKernel,
    .window_attention = WindowAttentionKernel,
    .hyper_weights = HyperWeightsKernel,
    .hyper_mix = HyperMixKernel,
    .gate_sigmoid = GateSigmoidKernel,
    .scale_rows = ScaleRowsKernel,
    .sample = SampleKernel,
    .note_not_finite = NoteNotFiniteKernel,
    .sum_partials = SumPartialsKernel,
    .quantise_row = QuantiseRowKernel,
    .read_all = ReadAll,
    .multiply_add = MultiplyAdd,
};

}  // namespace zi::ZI_ISA
