// compress: a block per token, of which those that end a run make its entry; then another kernel brings the states up to date. A
// channel is folded token by token, so that a run that several passes share gives the bits of one that a single pass has.
#include "cuda/math.h"
#include "cuda/overlap.h"
#include "cuda/states.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// Tokens that are loaded before they are folded.
constexpr int kAhead = 8;

struct CompressArguments {
  const float *values, *gates;
  int64_t value_token, value_series, gate_token, gate_series;
  WeightVector bias, norm;
  int64_t bias_stride;
  const float* frequencies;
  int64_t pairs;
  float* entries;
  int64_t entry_slot, entry_row, entry_count;
  float* state;
  int64_t state_slot, state_part, state_row;
  int64_t ratio, series, depth;
  float eps, rotary_scale;
  StateTable table;

  __device__ float& State(const StateRow& row, int64_t part, int64_t which, int64_t channel) const {
    return state[row.slot * state_slot + part * state_part + which * state_row + channel];
  }
};

/// What has been seen of one channel of a run.
struct Seen {
  float largest, sum, weighted;
};

/// One channel in one sequence.
struct ChannelFold {
  const CompressArguments& a;
  const StateRow& row;
  const int64_t channel;

  __device__ Seen Load(int64_t part) const {
    return {a.State(row, part, 0, channel), a.State(row, part, 1, channel), a.State(row, part, 2, channel)};
  }
  __device__ void Save(int64_t part, const Seen& seen) const {
    a.State(row, part, 0, channel) = seen.largest;
    a.State(row, part, 1, channel) = seen.sum;
    a.State(row, part, 2, channel) = seen.weighted;
  }
  __device__ static Seen Nothing() { return {-INFINITY, 0.0f, 0.0f}; }
  __device__ static void Add(Seen& seen, float gate, float value) {
    const float largest = fmaxf(gate, seen.largest);
    const float kept = expf(__fsub_rn(seen.largest, largest)), part = expf(__fsub_rn(gate, largest));
    seen.largest = largest;
    seen.sum = fmaf(seen.sum, kept, part);
    seen.weighted = fmaf(seen.weighted, kept, __fmul_rn(part, value));
  }
  /// Tokens at positions [from, to) of one series; what lies before the first of these tokens is in the state.
  __device__ void Fold(Seen& seen, int64_t which, int64_t from, int64_t to) const {
    int64_t position = max(from, row.start), place = position % a.ratio;
    for (; position < to; position += kAhead) {
      float gates[kAhead], values[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (position + i >= to) break;
        const int64_t token = row.first + position + i - row.start;
        values[i] = a.values[token * a.value_token + which * a.value_series + channel];
        gates[i] = __fadd_rn(a.gates[token * a.gate_token + which * a.gate_series + channel],
                             a.bias.At(place * a.bias_stride + which * a.depth + channel));
        if (++place == a.ratio) place = 0;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (position + i < to) Add(seen, gates[i], values[i]);
      }
    }
  }
  /// What counts for the entry of run `run`, of tokens before position `end`.
  __device__ Seen Entry(int64_t run, int64_t end) const {
    const int64_t begin = run * a.ratio;
    const bool two = a.series == 2;
    const bool none = row.begins || row.start <= (two ? begin - a.ratio : begin);
    Seen seen = none ? Nothing() : Load(two && row.start < begin ? 1 : 0);
    if (two) Fold(seen, 0, begin - a.ratio, min(begin, end));
    Fold(seen, two ? 1 : 0, begin, end);
    return seen;
  }
  /// What counts for the entry behind that, of the first series of run `run`.
  __device__ Seen Next(int64_t run, int64_t end) const {
    const int64_t begin = run * a.ratio;
    Seen seen = row.begins || row.start <= begin ? Nothing() : Load(1);
    Fold(seen, 0, begin, end);
    return seen;
  }
};

__global__ void __launch_bounds__(kThreads) MakeEntries(const CompressArguments a) {
  Begin();
  __shared__ float shared[32];
  const int64_t token = blockIdx.x;
  StateRow row;
  if (!a.table.ReadOf(token, row)) return;  // whole blocks
  const int64_t end = row.start + token - row.first + 1, run = end / a.ratio - 1;
  if (end % a.ratio != 0) return;
  if (run >= a.entry_count) {
    if (threadIdx.x == 0) Report(a.table.fault, kStateTokensOutside, token, run, a.entry_count);
    return;
  }
  float* entry = a.entries + row.slot * a.entry_slot + run * a.entry_row;
  float squares = 0;
  for (int64_t d = threadIdx.x; d < a.depth; d += kThreads) {
    const Seen seen = ChannelFold{a, row, d}.Entry(run, end);
    const float mean = seen.weighted / seen.sum;
    entry[d] = mean;
    squares = fmaf(mean, mean, squares);
  }
  squares = BlockSum(squares, shared);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(a.depth) + a.eps);
  const int64_t plain = a.depth - 2 * a.pairs;
  for (int64_t d = threadIdx.x; d < plain; d += kThreads) entry[d] = entry[d] * inverse * a.norm.At(d);
  for (int64_t i = threadIdx.x; i < a.pairs; i += kThreads) {
    const int64_t d = plain + 2 * i;
    double sine, cosine;
    sincos(static_cast<double>(run * a.ratio) * static_cast<double>(a.frequencies[i]), &sine, &cosine);
    const float s = static_cast<float>(sine * a.rotary_scale), c = static_cast<float>(cosine * a.rotary_scale);
    const float x = entry[d] * inverse * a.norm.At(d), y = entry[d + 1] * inverse * a.norm.At(d + 1);
    entry[d] = x * c - y * s;
    entry[d + 1] = y * c + x * s;
  }
}

__global__ void __launch_bounds__(kThreads) KeepOpenRuns(const CompressArguments a) {
  Begin();
  for (int s = blockIdx.y; s < a.table.count; s += gridDim.y) {
    StateRow row;
    if (!a.table.Read(s, row)) return;
    if (row.tokens == 0) continue;
    const int64_t end = row.start + row.tokens, open = end / a.ratio;
    const int64_t d = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (d >= a.depth) continue;
    const ChannelFold fold{a, row, d};
    const Seen entry = fold.Entry(open, end);
    if (a.series == 2) fold.Save(1, fold.Next(open, end));
    fold.Save(0, entry);
  }
}

}  // namespace

void Launch(const CompressOp& op, Run& run) {
  const int64_t tokens = op.values.shape[0], depth = op.values.shape[2];
  if (tokens == 0 || depth == 0 || op.sequences.shape[0] == 0) return;
  const CompressArguments a{reinterpret_cast<const float*>(op.values.data),
                            reinterpret_cast<const float*>(op.gates.data),
                            op.values.strides[0],
                            op.values.strides[1],
                            op.gates.strides[0],
                            op.gates.strides[1],
                            WeightVector(op.bias),
                            WeightVector(op.norm),
                            op.bias.strides[0],
                            reinterpret_cast<const float*>(op.inverse_frequencies.data),
                            op.inverse_frequencies.shape[0],
                            reinterpret_cast<float*>(op.entries.data),
                            op.entries.strides[0],
                            op.entries.strides[1],
                            op.entries.shape[1],
                            reinterpret_cast<float*>(op.state.data),
                            op.state.strides[0],
                            op.state.strides[1],
                            op.state.strides[2],
                            op.bias.shape[0],
                            op.values.shape[1],
                            depth,
                            op.eps,
                            op.rotary_scale,
                            StateTable(op.sequences, op.slots, tokens, op.state.shape[0], run.fault())};
  Overlapped(MakeEntries, Blocks(tokens, 1), kThreads, run, a);
  Overlapped(KeepOpenRuns, dim3(Blocks(depth, kThreads), Blocks(a.table.count, 1, kMostGridRows)), kThreads, run, a);
}

}  // namespace zi::cuda
