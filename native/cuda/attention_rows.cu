// attention of sequences with a few new tokens, over a cache of the type of q and out.
#include "cuda/attention_rows.h"

namespace zi::cuda {
namespace {

template <class T>
void LaunchOneType(const AttentionArguments& a, const rows::Reach& reach, const AttentionWay& way, Run& run) {
  rows::LaunchFloatHeads<rows::OneType<T>, T>(a, reach, way, run);
}

}  // namespace

void rows::HeadTooLarge() { throw std::runtime_error("heads of more than 576 values are not computed on CUDA"); }

AttentionArguments::AttentionArguments(const AttentionOp& op, Fault* faults)
    : out(op.out.data),
      q(op.q.data),
      out_token(op.out.strides[0]),
      out_head(op.out.strides[1]),
      q_token(op.q.strides[0]),
      q_head(op.q.strides[1]),
      keys(op.keys.data),
      values(op.values.data),
      key_page(op.keys.strides[0]),
      key_head(op.keys.strides[1]),
      key_token(op.keys.strides[2]),
      value_page(op.values.strides[0]),
      value_head(op.values.strides[1]),
      value_token(op.values.strides[2]),
      sequences(reinterpret_cast<const int32_t*>(op.sequences.data)),
      pages(reinterpret_cast<const int32_t*>(op.pages.data)),
      positions(reinterpret_cast<const int32_t*>(op.positions.data)),
      sequences_stride(op.sequences.strides[0]),
      slopes(reinterpret_cast<const float*>(op.alibi_slopes.data)),
      sinks(op.sinks),
      sequence_count(static_cast<int>(op.sequences.shape[0])),
      page_entries(static_cast<int>(op.pages.shape[0])),
      page_count(static_cast<int>(op.keys.shape[0])),
      page_tokens(static_cast<int>(op.keys.shape[2])),
      tokens(static_cast<int>(op.q.shape[0])),
      heads(static_cast<int>(op.q.shape[1])),
      kv_heads(static_cast<int>(op.keys.shape[1])),
      depth(static_cast<int>(op.q.shape[2])),
      value_depth(static_cast<int>(op.out.shape[2])),
      scale(op.scale),
      soft_cap(op.soft_cap),
      alibi_rounded(op.alibi_rounded),
      window(static_cast<int>(op.window_tokens)),
      chunk(static_cast<int>(op.chunk_tokens)),
      fault(faults) {}

void LaunchAttentionRows(const AttentionOp& op, const AttentionWay& way, Run& run) {
  const AttentionArguments a(op, run.fault());
  const rows::Reach reach{static_cast<int>(way.most_tokens), way.by_sequence, false};
  switch (op.q.dtype) {
    case DType::kF16:
      return LaunchOneType<__half>(a, reach, way, run);
    case DType::kBF16:
      return LaunchOneType<__nv_bfloat16>(a, reach, way, run);
    case DType::kF32:
      return LaunchOneType<float>(a, reach, way, run);
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  UnknownType(op.q.dtype);
}

}  // namespace zi::cuda
