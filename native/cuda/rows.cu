// gather_rows, rotary and kv_store: rows picked by index. Tables may lie in page-locked host memory.
#include "cuda/run.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void GatherRows(RowView out, const uint8_t* table, DType dtype, int64_t table_rows, int64_t table_stride,
                           const int32_t* rows, int64_t columns, bool accumulate, float scale, Fault* fault) {
  const int64_t token = blockIdx.x, row = rows[token];
  if (row < 0 || row >= table_rows) {
    if (threadIdx.x == 0) Report(fault, kRowOutside, token, row, table_rows);
    return;
  }
  const WeightVector values(table + row * table_stride * (dtype == DType::kF32 ? 4 : 2), dtype);
  float* to = out.Row(token);
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
    const float value = values.At(i) * scale;
    to[i] = accumulate ? to[i] + value : value;
  }
}

__global__ void Rotary(RowView x, const int32_t* positions, const float* frequencies, int64_t tokens, int64_t heads,
                       int64_t pairs, bool interleaved, float scale) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= tokens * pairs) return;
  const int64_t token = at / pairs, i = at % pairs;
  // In double: positions of 10⁵ leave a float no digits of the angle.
  double sine, cosine;
  sincos(static_cast<double>(positions[token]) * static_cast<double>(frequencies[i]), &sine, &cosine);
  const float c = static_cast<float>(cosine * scale), s = static_cast<float>(sine * scale);
  const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + pairs;
  for (int64_t head = 0; head < heads; ++head) {
    float* values = x.Row(token * heads + head);
    const float a = values[first], b = values[second];
    values[first] = a * c - b * s;
    values[second] = b * c + a * s;
  }
}

struct CacheView {
  float* data;
  int64_t page_stride, head_stride, token_stride;
  explicit CacheView(const View& view)
      : data(reinterpret_cast<float*>(view.data)),
        page_stride(view.strides[0]),
        head_stride(view.strides[1]),
        token_stride(view.strides[2]) {}
};

__global__ void KvStore(RowView k, RowView v, CacheView keys, CacheView values, const int32_t* slots, int64_t slot_count,
                        int64_t page_tokens, int64_t heads, int64_t depth, Fault* fault) {
  const int64_t token = blockIdx.x, slot = slots[token];
  if (slot < 0 || slot >= slot_count) {
    if (threadIdx.x == 0) Report(fault, kSlotOutside, token, slot, slot_count);
    return;
  }
  const int64_t page = slot / page_tokens, offset = slot % page_tokens;
  for (int64_t i = threadIdx.x; i < heads * depth; i += kThreads) {
    const int64_t head = i / depth, d = i % depth;
    keys.data[page * keys.page_stride + head * keys.head_stride + offset * keys.token_stride + d] =
        k.Row(token * heads + head)[d];
    values.data[page * values.page_stride + head * values.head_stride + offset * values.token_stride + d] =
        v.Row(token * heads + head)[d];
  }
}

const int32_t* Ints(const View& view) { return reinterpret_cast<const int32_t*>(view.data); }

}  // namespace

void Launch(const GatherRowsOp& op, Run& run) {
  const int64_t tokens = op.out.shape[0], columns = op.out.shape[1];
  if (tokens == 0 || columns == 0) return;
  GatherRows<<<Blocks(tokens, 1), kThreads, 0, run.stream>>>(RowView(op.out), op.table.data, op.table.dtype,
                                                             op.table.shape[0], op.table.strides[0], Ints(op.rows),
                                                             columns, op.accumulate, op.scale, run.fault);
}

void Launch(const RotaryOp& op, Run& run) {
  const int64_t tokens = op.x.shape[0], heads = op.x.shape[1], pairs = op.inverse_frequencies.shape[0];
  if (tokens * heads * pairs == 0) return;
  Rotary<<<Blocks(tokens * pairs, kThreads), kThreads, 0, run.stream>>>(
      RowView(op.x), Ints(op.positions), reinterpret_cast<const float*>(op.inverse_frequencies.data), tokens, heads,
      pairs, op.interleaved, op.scale);
}

void Launch(const KvStoreOp& op, Run& run) {
  const int64_t tokens = op.k.shape[0], heads = op.k.shape[1], depth = op.k.shape[2];
  if (tokens * heads * depth == 0) return;
  KvStore<<<Blocks(tokens, 1), kThreads, 0, run.stream>>>(RowView(op.k), RowView(op.v), CacheView(op.keys),
                                                          CacheView(op.values), Ints(op.slots),
                                                          op.keys.shape[0] * op.keys.shape[2], op.keys.shape[2], heads,
                                                          depth, run.fault);
}

}  // namespace zi::cuda
