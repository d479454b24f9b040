// What kernels of every device receive: views of memory with everything checked, and one plain struct per operation.
// Plain data only: code in a header shared by instruction sets would be compiled with the flags of one of them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace zi {

class Exchange;
class IoPieces;

enum class DType : uint8_t { kF32, kF16, kBF16, kI32, kU8, kI8, kE4M3, kE8M0 };
constexpr const char* kDTypeNames[] = {"f32", "f16", "bf16", "i32", "u8", "i8", "e4m3", "e8m0"};
/// 0 for what is no type: nothing is reached with it.
constexpr int64_t ElementBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      return 1;
  }
  return 0;
}
/// Neighbours of a cached head that share a scale, where codes have 4 bits and the head's size is a multiple of it.
constexpr int64_t kNibbleGroup = 32;
/// Scales of a cached head of `depth` values; 0 where it is stored as floats, and what is no type of a cache has none.
constexpr int64_t CacheGroups(DType dtype, int64_t depth) {
  switch (dtype) {
    case DType::kE4M3:
    case DType::kI8:
      return 1;
    case DType::kU8:
      return depth % kNibbleGroup == 0 ? depth / kNibbleGroup : 1;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kI32:
    case DType::kE8M0:
      return 0;
  }
  return 0;
}
enum class Activation : uint8_t { kNone, kRelu, kGelu, kGeluTanh, kGeluQuick, kSilu, kRelu2 };
constexpr const char* kActivationNames[] = {"none", "relu", "gelu", "gelu_tanh", "gelu_quick", "silu", "relu2"};

/// What a mixture makes of a router's logits.
enum class RouteScore : uint8_t { kSoftmax, kSigmoid, kSqrtSoftplus };
constexpr const char* kRouteScoreNames[] = {"softmax", "sigmoid", "sqrt_softplus"};

/// A view whose every element lies inside live memory. `data` is null when an optional operand is absent.
struct View {
  uint8_t* data;
  DType dtype;
  int rank;
  int64_t shape[4];
  int64_t strides[4];  // in elements; the innermost is 1
};

/// How matrices are stored; the rows of offload/port/formats.ts, where their parts are described.
enum class WeightFormat : uint8_t { kDense, kDenseIn, kE4M3, kInt8, kPacked8, kPacked4, kFp4, kTable4, kAwq, kGptq, kE4M3In };
constexpr const char* kWeightFormatNames[] = {"dense",   "dense_in", "e4m3",   "int8", "packed8",
                                              "packed4", "fp4",      "table4", "awq",  "gptq", "e4m3_in"};
enum class WeightPart : uint8_t { kCodes, kScales, kZeros, kGlobal, kGroups, kTable, kNestedScales, kNestedTable };
constexpr const char* kWeightPartNames[] = {"codes", "scales", "zeros", "global", "groups", "table", "nestedScales", "nestedTable"};
constexpr int kWeightParts = 8;

/// A matrix [outputs, inputs] as it is stored. The value of row n, input k: with m = n + first_row, r = m / row_group and
/// g = groups[k], or k / input_group where there are no groups, it is (code - zero) * scale[r, g], rounded to `product`, times
/// `factor` where that is not 1, rounded to `type`.
struct Weight {
  WeightFormat format;
  int64_t outputs, inputs;
  int64_t first_row;
  int64_t row_group, input_group;
  DType product, type;
  int bits;
  bool zero_plus_one, global_divides;
  float factor, nested_offset;
  /// By WeightPart; `data` is null where there is no such part.
  View parts[kWeightParts];

  constexpr const View& Part(WeightPart part) const { return parts[static_cast<int>(part)]; }
  constexpr bool dense() const { return format == WeightFormat::kDense || format == WeightFormat::kDenseIn; }
};

/// NO_TOKEN of offload/port/ops.ts: the logits say nothing.
constexpr int kNoToken = -1;

// Shapes and meanings: offload/port/ops.ts. T tokens, H hidden size, N outputs, K inputs.
struct GatherRowsOp {
  View out, table, rows;
  bool accumulate;
  float scale;
};
struct LayerNormOp {
  View out, x, weight, bias;
  float eps, weight_offset;
};
struct RmsNormOp {
  View out, x, weight;  // weight may be absent
  float eps, weight_offset;
};
struct LinearOp {
  View out, x;
  Weight weight;
  View bias;
  Activation activation;
  bool accumulate;
};
/// Each head has `head_rows` rows of the weight, and takes those from its `first_row` on: as many as out has values of a head,
/// or, transposed, as x has.
struct HeadLinearOp {
  View out, x;
  Weight weight;
  int64_t head_rows, first_row;
  bool transposed;
};
/// LinearOp with a weight that is stored as its values: [N, K], or [K, N] when input_major.
struct DenseLinearOp {
  View out, x, weight, bias;
  bool input_major;
  Activation activation;
  bool accumulate;
};
DenseLinearOp DenseOf(const LinearOp& op);
struct GatedOp {
  View out, gate, up;
  Activation activation;
  /// 0 where there is none.
  float limit;
  /// The active gate is limited, not what it is made of.
  bool limit_after;
};
struct GateSigmoidOp {
  View x, gate;
};
struct AddOp {
  View out, a, b, factor;
};
struct RotaryOp {
  View x, positions, inverse_frequencies;
  bool interleaved;
  float scale;
};
struct KvStoreOp {
  /// v is absent where values are a part of keys, which `values` is a view of.
  View k, v, keys, values;
  /// Absent where keys and values are floats.
  View key_scales, value_scales;
  View slots;
};
struct AttentionOp {
  View out, q, keys, values;
  View key_scales, value_scales;
  View sequences, pages, positions, alibi_slopes, sinks;
  float scale;
  /// A token sees so many latest positions, and those of its own run of so many; 0 for all.
  int64_t window_tokens, chunk_tokens;
  float soft_cap;
  /// No sequence's context is longer.
  int64_t max_context;
  /// ALiBi's bias is bf16(slope · bf16(position)), and scaled with the product of query and key.
  bool alibi_rounded;
};
struct ArgmaxOp {
  View out, logits;
};
struct TokenRowsOp {
  View rows, tokens;
};
/// A row's likeliest tokens, and their logits.
struct TopTokensOp {
  View tokens, values, logits;
};
struct NllFoldOp {
  View state, logits, targets;
  int64_t first_column;
  bool first;
};
struct NoteNotFiniteOp {
  View found, x;
  int32_t place;
  bool first;
};
struct ScaleCapOp {
  View x;
  float scale, soft_cap;
};
struct PositionScaleOp {
  View x, positions;
  float beta;
  double offset, length;
};
struct ClampOp {
  View x;
  float limit;
};
struct RouteOp {
  View experts, weights, logits;
  /// Any of them may be absent; `rows` is there where `table` is.
  View bias, expert_scale, table, rows;
  RouteScore score;
  int64_t groups, groups_kept, group_best;
  bool normalize;
  float added_to_sum, least_sum, scale, sparse_mixer;
};
/// Kernels sort them with a thread each.
constexpr int64_t kMostExpertsInSlots = 1024;
struct ExpertLinearOp {
  View out, x, experts;
  /// Like those of all experts, but for where their parts lie, and with an index of groups where any expert has one.
  Weight weight;
  /// By WeightPart, then by expert; null for a part that there is not. An expert may lack an index of groups.
  const uint8_t* const* parts[kWeightParts];
  int64_t expert_count;
  /// By expert, where scales are nested.
  const float* nested_offsets;
  /// i32 [expert_count]: the slot that each expert lies in, or -1. Then `parts` are those of the first slot and of the last, and
  /// slots lie `slot_bytes` apart. Without data, every expert has its own place in `parts`.
  View slots;
  int64_t slot_count, slot_bytes;
  /// Where experts come from files: BringExpertsOp::places, in which the weight's parts are columns from `first_part` on, and the pieces
  /// of the layer from `first_piece` on, which may still be on their way. Slots then hold the weight's parts where `places` says.
  View places{};
  int64_t first_part = 0, first_piece = 0;
  IoPieces* files = nullptr;

  bool in_slots() const { return slots.data != nullptr; }
  /// Entries of `parts`.
  int64_t place_count() const { return in_slots() ? 2 : expert_count; }
};
/// The same with weights that are stored as their values, [N, K] each.
struct DenseExpertLinearOp {
  View out, x, experts;
  /// The first expert's matrix; the others are like it and lie at `weights`.
  View weight;
  const uint8_t* const* weights;
  int64_t expert_count;
  /// As with ExpertLinearOp.
  View slots;
  int64_t slot_count, slot_bytes;

  int64_t place_count() const { return slots.data ? 2 : expert_count; }
};
DenseExpertLinearOp DenseOf(const ExpertLinearOp& op);
/// One expert's, whatever its format.
Weight WeightOf(const ExpertLinearOp& op, int64_t expert);
/// How a device asks its host: see ops/mailbox.h.
struct Mail {
  /// i32 [kMailWords] of the host, and i32 [kMailStateWords] of the device.
  View words, state;
};
/// Some of the experts that lie in no slot are computed by the host in the device's place.
struct AsideExperts {
  /// i32 [T, k]: the choices that the device computes, and those that the host does; kElsewhere for the others.
  View here, there;
  /// What the host's job takes, from the device to the host; weights may be absent.
  View x, host_x, weights, host_weights;
  Mail mail;
  int64_t job;

  explicit operator bool() const { return here.data != nullptr; }
};
/// Experts whose home is the drive, and of which some lie in slots of the host: see ops/exchange.h.
struct HostSlots {
  /// u8 [slots, bytes of one] of the host.
  View slots;
  /// i32 of the host: [kAskedHead + kAskedEach · experts], and [experts, kFoundHead + 2 · parts].
  View asked, found;
  Mail mail;
  int64_t job;
  explicit operator bool() const { return slots.data != nullptr; }
};

/// Chosen experts that lie in no slot are copied into some from where they rest: see native/ops/slots.h for who has to leave.
struct BringExpertsOp {
  View experts;
  /// u8 [slots, bytes of one].
  View slots;
  /// u8: where the experts of the layer rest; without data where that is `files`, or `behind` them.
  View home;
  /// i32 [1 + experts, 2 · parts]: in row 0 where a part lies in a slot and its bytes, in row 1 + e where expert e's begins in `home`,
  /// low word and high word. Of files, where it begins in its slot, and a word of no meaning.
  View places;
  /// i32 [all experts of all layers]: the slot that each lies in or -1, and how often it was wanted lately.
  View slot_of, uses;
  /// i32 [slots]: whose expert each holds or -1, and the call that wanted it last.
  View key_of, stamps;
  /// i32 [1]: calls until now.
  View calls;
  /// i32 [3]: chosen experts of the layer that lay in a slot, that were brought into one, and that the host computes.
  View counts;
  /// i32 [1 + 2 · experts]: how many are copied, and expert and slot of each.
  View list;
  /// The layer's first expert among those of all layers; `uses` are halved every so many calls.
  int64_t first_key, age_calls;
  AsideExperts aside;
  /// Experts of all layers, which are begun here and awaited by the products with them.
  IoPieces* files;
  /// Where experts lie that are in no slot of the device, and then those that leave it for them.
  HostSlots behind;

  int64_t expert_count() const { return places.shape[0] - 1; }
  int64_t part_count() const { return places.shape[1] / 2; }
};

struct ExpertBiasOp {
  View x, experts, bias;
};
struct GatedPairsOp {
  View out, x;
  float alpha, limit;
};
struct CombineOp {
  /// Without weights all count as 1.
  View x, y, weights;
  /// Otherwise what x held does not count.
  bool accumulate;
};
struct ScaleRowsOp {
  View x, weights;
};
/// `slots`: where the states of the sequences lie.
struct CausalConvOp {
  View out, x, weight, bias, state, sequences, slots;
  Activation activation;
};
struct StateScanOp {
  View out, q, k, v, step, beta, step_bias, decay, skip, state, sequences, slots;
  float min_step, max_step, norm_eps, query_scale;
};
struct GatedRmsOp {
  View out, x, gate, weight;
  float eps;
  bool gate_first;
};
/// Runs are as long as `bias` has rows.
struct CompressOp {
  View entries, values, gates, bias, norm, inverse_frequencies, state, sequences, slots;
  float eps, rotary_scale;
};
/// Values of a head, at most.
constexpr int64_t kMostWindowDepth = 512;
struct WindowAttentionOp {
  /// entries and sinks may be absent.
  View out, q, k, window, entries, sinks, sequences, slots;
  int64_t ratio;
  float scale;
};
/// Streams of a residual, at most.
constexpr int kMostStreams = 8;
struct HyperWeightsOp {
  /// spread and mix are absent together.
  View gather, spread, mix, logits, base, scale;
  int64_t iterations;
  float eps;
};
struct HyperMixOp {
  View x, y, spread, mix;
};
/// Copies `from` to `to`, which is f32 of the host, and asks for a job.
struct AskHostOp {
  View from, to;
  Mail mail;
  int64_t job;
};
/// Waits until what was asked is done. Then out = from, f32 of the host: all of it, or the rows whose choice is kElsewhere.
struct TakeHostOp {
  View out, from;
  /// i32 [T, k], or absent.
  View choices;
  Mail mail;
};
/// x (+)= the sum of what all ranks of the group have as `partial`, in the order of the ranks.
struct ReduceOp {
  View x, partial;
  /// Null where the operation is only looked at.
  Exchange* exchange;
  bool accumulate;
};
struct SampleOp {
  View out, logits, settings, draws, history;
  View added_of, added_tokens, added_values;  // or null: first entry and their number per row; what is added to the logits of single tokens
  View mask_of, masks;  // or null: which mask a row of logits has, negative for none; 32 tokens a word, a bit for each that may be drawn
};

}  // namespace zi
