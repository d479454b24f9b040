// sample: several blocks draw the token of a row, in phases that follow one another in the stream. Settings are data, so all
// phases are launched, and rows that need none of one leave it at once.
#include <algorithm>
#include <cmath>

#include "cuda/overlap.h"
#include "cuda/run.h"
#include "cuda/sample_row.h"
#include "cuda/shapes.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = kSampleThreads;

__global__ void __launch_bounds__(kThreads) Clear(const SampleArguments a) {
  Begin();
  const SampleRow row(a);
  if (threadIdx.x == 0) row.state = {};
  if (!row.Filters(Filter::kLikeliest) && !row.Filters(Filter::kNucleus)) return;
  uint32_t* words = reinterpret_cast<uint32_t*>(row.histograms);
  for (unsigned i = threadIdx.x; i < 2 * sizeof(SampleHistogram) / sizeof(uint32_t); i += kThreads) words[i] = 0;
}

/// Whether the history lies where it can; reported where not.
__device__ bool HistoryWithin(const SampleRow& row) {
  const int64_t begin = row.draw[kHistoryBegin], count = row.draw[kHistoryCount];
  const bool reports = blockIdx.y == 0;
  if (begin < 0 || count < 0 || begin + count > row.a.history_entries) {
    if (reports && threadIdx.x == 0) Report(row.a.fault, kHistoryOutside, blockIdx.x, begin + count, row.a.history_entries);
    return false;
  }
  for (int64_t i = threadIdx.x; reports && i < count; i += kThreads) {
    const int token = row.a.history[begin + i];
    if (token < 0 || token >= row.a.vocabulary) Report(row.a.fault, kHistoryOutside, blockIdx.x, token, row.a.vocabulary);
  }
  return true;
}

/// Whether the row's mask is there; reported where not.
__device__ bool MaskWithin(const SampleRow& row) {
  const int mask = row.a.masks ? row.a.mask_of[blockIdx.x * row.a.mask_of_stride] : -1;
  if (mask < row.a.mask_rows) return true;
  if (blockIdx.y == 0 && threadIdx.x == 0) Report(row.a.fault, kMaskOutside, blockIdx.x, mask, row.a.mask_rows);
  return false;
}

/// Whether what is added lies where it can, to tokens that there are; reported where not.
__device__ bool AddedWithin(const SampleRow& row) {
  const bool reports = blockIdx.y == 0;
  if (!row.AddedWithin()) {
    const int64_t end = int64_t{row.AddedOf()[0]} + row.AddedOf()[1];
    if (reports && threadIdx.x == 0) Report(row.a.fault, kAddedOutside, blockIdx.x, end, row.a.added_entries);
    return false;
  }
  for (int i = threadIdx.x; reports && i < row.added; i += kThreads) {
    const int token = row.a.added_tokens[row.first_added + i];
    if (token < 0 || token >= row.a.vocabulary) Report(row.a.fault, kAddedOutside, blockIdx.x, token, row.a.vocabulary);
  }
  return true;
}

/// Adds to the logits of a part what is said of single tokens, each of which is named once.
__device__ void AddToPart(const SampleRow& row, int part, float* to) {
  for (int i = threadIdx.x; i < row.added; i += kThreads) {
    const int token = row.a.added_tokens[row.first_added + i];
    if (token < 0 || token >= row.a.vocabulary || token / kSamplePartTokens != part) continue;
    to[token] += row.a.added_values[row.first_added + i];
  }
  __syncthreads();
}

/// Logits of a part, those of the history moved away from being chosen, others changed as is said, and none but those that may be.
__device__ void ChangePart(const SampleRow& row, int part) {
  const float* from = row.Given();
  float* to = row.Changed();
  row.ForPart(from, part, [&](int token, float logit) { to[token] = row.MayDraw(token) ? logit : -INFINITY; });
  __syncthreads();
  const float penalty = row.settings[kPenalty];
  const int32_t* history = row.a.history + row.draw[kHistoryBegin];
  for (int i = threadIdx.x; row.Penalizes() && i < row.draw[kHistoryCount]; i += kThreads) {
    const int token = history[i];
    if (token < 0 || token >= row.a.vocabulary || token / kSamplePartTokens != part || !row.MayDraw(token)) continue;
    // From the original, so that a token that occurs twice is penalized once.
    const float logit = from[token];
    to[token] = logit > 0 ? logit / penalty : logit * penalty;
  }
  __syncthreads();
  if (row.added > 0) AddToPart(row, part, to);
}

/// The likeliest token, and whether there is anything to draw: where not, the row's token is written.
__global__ void __launch_bounds__(kThreads) FindLikeliest(const SampleArguments a) {
  Begin();
  const SampleRow row(a);
  if (!HistoryWithin(row) || !AddedWithin(row) || !MaskWithin(row)) return;
  float nothing = 0;
  TokenKey best = 0;
  for (int part = blockIdx.y; part < a.parts; part += gridDim.y) {
    if (row.Changes()) {
      ChangePart(row, part);
      row.ForPart(row.Changed(), part, [&](int token, float logit) { best = max(best, Key(logit, token)); });
    }
    row.ForPart(row.Given(), part, [&](int token, float logit) {
      nothing += logit * 0.0f;  // NaN once one is no finite number
      if (!row.Changes()) best = max(best, Key(logit, token));
    });
  }
  best = WarpMax(best);
  if (threadIdx.x % 32 == 0) atomicMax(&row.state.best, best);
  if (__syncthreads_or(nothing != 0) && threadIdx.x == 0) atomicOr(&row.state.not_finite, 1u);
  if (!IsLast(row.state) || threadIdx.x != 0) return;
  const TokenKey likeliest = __ldcg(&row.state.best);
  const float maximum = LogitOf(likeliest);
  if (__ldcg(&row.state.not_finite)) return row.Put(kNoToken);
  if (row.settings[kTemperature] == 0 || maximum == -INFINITY) return row.Put(TokenOf(likeliest));
  row.state.maximum = maximum;
  row.state.draws = 1;
}

constexpr int kLevels = 3;
/// Where a digit begins. The last one takes a known bit in, which is the same for all that are looked at.
__device__ int ShiftOf(int level) { return level == 0 ? 21 : level == 1 ? 10 : 0; }

/// How many tokens have a digit, and what they weigh: in halves, because adding 64 bits in shared memory takes a loop.
struct BlockHistogram {
  uint32_t counts[kSampleDigits], low[kSampleDigits], high[kSampleDigits];
  static constexpr int kHalf = 20;

  __device__ void Clear() {
    for (int d = threadIdx.x; d < kSampleDigits; d += kThreads) counts[d] = low[d] = high[d] = 0;
  }
  __device__ void Add(int digit, SampleCount weight) {
    const uint32_t lower = static_cast<uint32_t>(weight) & ((1u << kHalf) - 1), upper = static_cast<uint32_t>(weight >> kHalf);
    atomicAdd(&counts[digit], 1u);
    if (lower) atomicAdd(&low[digit], lower);
    if (upper) atomicAdd(&high[digit], upper);
  }
  /// Adds all to `to`, and is empty again.
  __device__ void MoveTo(SampleHistogram& to) {
    for (int d = threadIdx.x; d < kSampleDigits; d += kThreads) {
      if (!counts[d]) continue;
      atomicAdd(&to.counts[d], counts[d]);
      const SampleCount weight = (SampleCount{high[d]} << kHalf) + low[d];
      if (weight) atomicAdd(&to.weights[d], weight);
      counts[d] = low[d] = high[d] = 0;
    }
  }
};
static_assert(kSamplePartTokens <= 1 << (32 - BlockHistogram::kHalf));

/// From the highest digit down, that of the token with which enough is there. Called by all threads of one block.
__device__ void ChooseDigit(const SampleRow& row, const SampleHistogram& from, Filter filter, int level, SampleCount* shared) {
  constexpr int kEach = kSampleDigits / kThreads;
  const SampleState was = row.state;
  const int shift = ShiftOf(level), top = kSampleDigits - 1 - static_cast<int>(threadIdx.x) * kEach;
  SampleCount counts[kEach], weights[kEach], count = 0, weight = 0, all_count, all_weight;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    counts[j] = __ldcg(&from.counts[top - j]), weights[j] = __ldcg(&from.weights[top - j]);
    count += counts[j], weight += weights[j];
  }
  SampleCount count_before = Scan(count, shared, all_count) - count;
  SampleCount weight_before = Scan(weight, shared, all_weight) - weight;
  SampleCount wanted = was.wanted;
  if (level == 0 && filter == Filter::kLikeliest) wanted = static_cast<SampleCount>(row.draw[kTopK]);
  if (level == 0 && filter == Filter::kNucleus) {
    const SampleCount left = was.left ? was.left : all_weight;
    // The likeliest token stays in any case.
    wanted = max(__double2ull_ru(static_cast<double>(left) * static_cast<double>(row.settings[kTopP])), SampleCount{1});
  }
  const bool counting = filter == Filter::kLikeliest;
  const SampleCount before = counting ? count_before : weight_before, mine = counting ? count : weight;
  if (before < wanted && wanted <= before + mine) {
    // The first digit at which enough is there; loops of a known length keep both arrays in registers.
    int digit = top;
    SampleCount at_count = counts[0], at_weight = weights[0];
#pragma unroll
    for (int j = 1; j < kEach; ++j) {
      if ((counting ? count_before + at_count : weight_before + at_weight) >= wanted) break;
      count_before += at_count, weight_before += at_weight;
      at_count = counts[j], at_weight = weights[j], digit = top - j;
    }
    SampleState& state = row.state;
    state.prefix = (level == 0 ? 0 : was.prefix) | static_cast<uint32_t>(digit) << shift;
    state.wanted = wanted - (counting ? count_before : weight_before);
    state.higher = (level == 0 ? 0 : was.higher) + weight_before;
    if (level == kLevels - 1) {
      // Equal logits weigh the same.
      const SampleCount each = at_weight / at_count;
      state.ties = counting ? at_count : (state.wanted + each - 1) / each;
      if (counting) state.floor = state.prefix, state.left = state.higher + at_weight;
    }
  }
  __syncthreads();
}

/// Finds one digit of the cut below which a filter takes tokens away. At level 0 the first of the row's filters.
__global__ void __launch_bounds__(kThreads, 2) Narrow(const SampleArguments a, Filter filter, int level) {
  Begin();
  const SampleRow row(a);
  if (level == 0 && !row.Filters(filter)) filter = Filter::kNucleus;
  if (!row.state.draws || !row.Filters(filter)) return;
  __shared__ BlockHistogram histogram;
  __shared__ SampleCount shared[kThreads / 32];
  histogram.Clear();
  __syncthreads();
  SampleHistogram& to = row.histograms[level > 0];
  const Weights weights(row, a.filter_units);
  const uint32_t prefix = row.state.prefix, floor = row.state.floor;
  const int shift = ShiftOf(level), known = level == 0 ? 0 : ShiftOf(level - 1);
  const float* logits = row.Logits();
  for (int part = blockIdx.y; part < a.parts; part += gridDim.y) {
    bool any = false;
    row.ForPart(logits, part, [&](int, float logit) {
      const uint32_t rank = Rank(logit);
      if (rank < floor || (level > 0 && rank >> known != prefix >> known)) return;
      histogram.Add(static_cast<int>(rank >> shift) & (kSampleDigits - 1), weights.Units(weights.Of(logit)));
      any = true;
    });
    if (!__syncthreads_or(any)) continue;
    histogram.MoveTo(to);
    __syncthreads();
  }
  if (!IsLast(row.state)) return;
  ChooseDigit(row, to, filter, level, shared);
  if (level == 0) return;
  for (int d = threadIdx.x; d < kSampleDigits; d += kThreads) to.counts[d] = 0, to.weights[d] = 0;
  // The first digit of the nucleus is among those that were counted before.
  if (level == kLevels - 1 && filter == Filter::kLikeliest && row.Filters(Filter::kNucleus)) {
    ChooseDigit(row, row.histograms[0], Filter::kNucleus, 0, shared);
  }
}

/// The item of a row or of a part in which what is wanted of the weights is reached, and what remains to be found in it.
struct Found {
  int item;
  SampleCount wanted, ties;
};

/// Called by all threads of one block; `found` is shared, and says how many ties stay. False where nothing weighs anything.
template <class Item, class W>
__device__ bool Seek(int items, SampleCount tie_weight, Item item, W wanted_of, Found& found, SampleCount* shared) {
  const int each = (items + kThreads - 1) / kThreads, begin = min(items, static_cast<int>(threadIdx.x) * each);
  const int end = min(items, begin + each);
  const SampleCount stay = found.ties;
  const auto kept = [&](const SampleShare& share, SampleCount before) {
    return share.above + tie_weight * (min(before + share.ties, stay) - min(before, stay));
  };
  SampleShare mine{0, 0};
  for (int i = begin; i < end; ++i) {
    const SampleShare share = item(i);
    mine.above += share.above, mine.ties += share.ties;
  }
  SampleCount total;
  SampleCount ties_before = Scan(mine.ties, shared, total) - mine.ties;
  const SampleCount own = kept(mine, ties_before);
  const SampleCount before = Scan(own, shared, total) - own;
  const SampleCount wanted = wanted_of(total);
  if (before <= wanted && wanted < before + own) {
    SampleCount rest = wanted - before;
    for (int i = begin; i < end; ++i) {
      const SampleShare share = item(i);
      const SampleCount weight = kept(share, ties_before);
      if (rest < weight) {
        found = {i, rest, stay - min(ties_before, stay)};
        break;
      }
      rest -= weight, ties_before += share.ties;
    }
  }
  __syncthreads();
  return total > 0;
}

/// The first kept token, in order of ids, whose cumulative weight exceeds a share of the total.
__global__ void __launch_bounds__(kThreads, 2) Draw(const SampleArguments a) {
  Begin();
  const SampleRow row(a);
  if (!row.state.draws) return;
  __shared__ SampleCount shared[kThreads / 32];
  __shared__ Found found;
  const Weights weights(row, a.draw_units);
  const float* logits = row.Logits();
  const float min_p = row.settings[kMinP];
  const uint32_t cut = row.state.prefix;
  const SampleCount tie_weight = cut ? weights.Units(weights.Of(LogitOfRank(cut))) : 0;
  const auto share_of = [&](float logit) {
    const float weight = weights.Of(logit);
    const uint32_t rank = weight < min_p ? 0 : Rank(logit);
    return SampleShare{rank > cut ? weights.Units(weight) : 0, rank == cut && rank > 0};
  };
  for (int part = blockIdx.y; part < a.parts; part += gridDim.y) {
    SampleShare mine{0, 0}, all;
    row.ForPart(logits, part, [&](int, float logit) {
      const SampleShare share = share_of(logit);
      mine.above += share.above, mine.ties += share.ties;
    });
    Scan(mine.above, shared, all.above);
    Scan(mine.ties, shared, all.ties);
    if (threadIdx.x == 0) row.shares[part] = all;
  }
  if (!IsLast(row.state)) return;
  if (threadIdx.x == 0) found = {0, 0, row.state.ties};
  __syncthreads();
  const auto share_at = [&](int part) {
    return SampleShare{__ldcg(&row.shares[part].above), __ldcg(&row.shares[part].ties)};
  };
  const auto random_share = [&](SampleCount total) {
    // total · (bits + ½) / 2^32
    const SampleCount twice = 2 * SampleCount{static_cast<uint32_t>(row.draw[kRandomBits])} + 1;
    return __umul64hi(total, twice) << 31 | total * twice >> 33;
  };
  if (!Seek(a.parts, tie_weight, share_at, random_share, found, shared)) {
    if (threadIdx.x == 0) row.Put(0);
    return;
  }
  const int first = found.item * kSamplePartTokens;
  const SampleCount rest = found.wanted;
  __syncthreads();
  const auto share_of_token = [&](int i) { return share_of(logits[first + i]); };
  const int tokens = min(a.vocabulary - first, kSamplePartTokens);
  Seek(tokens, tie_weight, share_of_token, [&](SampleCount) { return rest; }, found, shared);
  if (threadIdx.x == 0) row.Put(first + found.item);
}

/// Bits of the largest weight so that those of all tokens together stay below 2^63.
int UnitBits(int64_t vocabulary) {
  int bits = 63;
  while (int64_t{1} << (63 - bits) < vocabulary) --bits;
  return std::min(bits, 62);
}

}  // namespace

void Launch(const SampleOp& op, Run& run) {
  const int64_t rows = op.logits.shape[0], vocabulary = op.logits.shape[1];
  if (rows == 0) return;
  uint8_t* scratch = run.scratch().At(ScratchUse::kPartials, SampleScratch::Bytes(rows, vocabulary));
  const SampleArguments arguments{reinterpret_cast<int32_t*>(op.out.data),
                                  op.out.strides[0],
                                  reinterpret_cast<const float*>(op.logits.data),
                                  op.logits.strides[0],
                                  reinterpret_cast<const float*>(op.settings.data),
                                  op.settings.strides[0],
                                  reinterpret_cast<const int32_t*>(op.draws.data),
                                  op.draws.strides[0],
                                  reinterpret_cast<const int32_t*>(op.history.data),
                                  static_cast<int>(op.history.shape[0]),
                                  static_cast<int>(vocabulary),
                                  static_cast<int>(SampleParts(vocabulary)),
                                  reinterpret_cast<const int32_t*>(op.added_of.data),
                                  op.added_of.strides[0],
                                  reinterpret_cast<const int32_t*>(op.added_tokens.data),
                                  reinterpret_cast<const float*>(op.added_values.data),
                                  static_cast<int>(op.added_tokens.shape[0]),
                                  reinterpret_cast<const int32_t*>(op.mask_of.data),
                                  op.mask_of.strides[0],
                                  reinterpret_cast<const uint32_t*>(op.masks.data),
                                  op.masks.strides[0],
                                  static_cast<int>(op.masks.shape[0]),
                                  std::ldexp(1.0f, std::min(UnitBits(vocabulary), 2 * BlockHistogram::kHalf)),
                                  std::ldexp(1.0f, UnitBits(vocabulary)),
                                  SampleScratch(scratch, rows, vocabulary),
                                  run.fault()};
  // Enough to fill the GPU: more would only have to be started.
  const unsigned blocks = Blocks(int64_t{8} * run.multiprocessors(), rows, kMostGridRows);
  const dim3 grid(Blocks(rows, 1), Blocks(SampleParts(vocabulary), 1, blocks));
  Overlapped(Clear, dim3(grid.x), kThreads, run, arguments);
  Overlapped(FindLikeliest, grid, kThreads, run, arguments);
  for (int level = 0; level < kLevels; ++level) Overlapped(Narrow, grid, kThreads, run, arguments, Filter::kLikeliest, level);
  for (int level = 1; level < kLevels; ++level) Overlapped(Narrow, grid, kThreads, run, arguments, Filter::kNucleus, level);
  Overlapped(Draw, grid, kThreads, run, arguments);
}

}  // namespace zi::cuda
