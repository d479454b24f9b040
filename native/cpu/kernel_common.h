// Shared by all kernels of an instruction set: weight types, rows of views, parallel loops. Include a simd header first.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

namespace zi::ZI_ISA {

/// n values (kWidth or fewer).
inline Vec LoadUpTo(const float* p, int64_t n) { return n >= kWidth ? Load(p) : LoadPartial(p, static_cast<int>(n)); }

// Weights lie at any byte offset, so they are only ever reached through unaligned vector loads.
// A lane takes kInputs of them, kBytes in all. Wide: what scratch of widened weights holds.
struct F32 {
  static constexpr int kBytes = 4, kInputs = 1;
  using Wide = F32;
  static Vec MultiplyAdd(Vec w, Vec x, Vec sum) { return Fma(w, x, sum); }
  static Vec TakeInputs(const float* x, int64_t n) { return LoadUpTo(x, n); }
  static Vec LoadFull(const uint8_t* p) { return Load(reinterpret_cast<const float*>(p)); }
  static Vec LoadFirst(const uint8_t* p, int n) { return LoadPartial(reinterpret_cast<const float*>(p), n); }
};
struct F16 {
  static constexpr int kBytes = 2, kInputs = 1;
  using Wide = F32;
  static Vec MultiplyAdd(Vec w, Vec x, Vec sum) { return Fma(w, x, sum); }
  static Vec TakeInputs(const float* x, int64_t n) { return LoadUpTo(x, n); }
  static Vec LoadFull(const uint8_t* p) { return WidenF16(LoadHalves(p)); }
  static Vec LoadFirst(const uint8_t* p, int n) { return WidenF16(LoadHalvesPartial(p, n)); }
};
struct BF16 {
  static constexpr int kBytes = 2, kInputs = 1;
  using Wide = F32;
  static Vec MultiplyAdd(Vec w, Vec x, Vec sum) { return Fma(w, x, sum); }
  static Vec TakeInputs(const float* x, int64_t n) { return LoadUpTo(x, n); }
  static Vec LoadFull(const uint8_t* p) { return WidenBF16(LoadHalves(p)); }
  static Vec LoadFirst(const uint8_t* p, int n) { return WidenBF16(LoadHalvesPartial(p, n)); }
};

#ifdef ZI_PAIR_PRODUCTS
/// Two bf16 in a lane, as they lie; inputs come as pairs too.
struct BF16Pairs {
  static constexpr int kBytes = 4, kInputs = 2;
  using Wide = BF16Pairs;
  static Vec MultiplyAdd(Vec w, Vec x, Vec sum) { return DotPairs(w, x, sum); }
  static Vec TakeInputs(const float* x, int64_t n) { return RoundPairs(x, n); }
  static Vec LoadFull(const uint8_t* p) { return Load(reinterpret_cast<const float*>(p)); }
  static Vec LoadFirst(const uint8_t* p, int n) { return LoadPartial(reinterpret_cast<const float*>(p), n); }
};
#endif

/// Calls f with the tag of a float type.
template <class F>
inline void WithType(DType dtype, F f) {
  switch (dtype) {
    case DType::kF16:
      return f(F16{});
    case DType::kBF16:
      return f(BF16{});
    case DType::kF32:
      return f(F32{});
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  FailOp("type %d is no type of weights", static_cast<int>(dtype));
}

/// n values (kWidth or fewer) of type W.
template <class W>
inline Vec LoadUpTo(const uint8_t* p, int64_t n) {
  return n >= kWidth ? W::LoadFull(p) : W::LoadFirst(p, static_cast<int>(n));
}
inline void StoreUpTo(float* p, Vec v, int64_t n) {
  if (n >= kWidth) {
    Store(p, v);
  } else {
    StorePartial(p, v, static_cast<int>(n));
  }
}

inline int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t RoundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

/// Start of row (i) or (i, j) of a float view.
inline float* Row(const View& view, int64_t i) {
  return reinterpret_cast<float*>(view.data) + i * view.strides[0];
}
inline float* Row(const View& view, int64_t i, int64_t j) {
  return reinterpret_cast<float*>(view.data) + i * view.strides[0] + j * view.strides[1];
}
inline int32_t Int(const View& view, int64_t i) {
  return reinterpret_cast<const int32_t*>(view.data)[i * view.strides[0]];
}

/// All dimensions but the innermost, taken as one.
inline int64_t RowCount(const View& view) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < view.rank; ++d) rows *= view.shape[d];
  return rows;
}
inline int64_t RowLength(const View& view) { return view.shape[view.rank - 1]; }
inline float* FlatRow(const View& view, int64_t row) {
  int64_t offset = 0;
  for (int d = view.rank - 2; d >= 0; --d) {
    offset += row % view.shape[d] * view.strides[d];
    row /= view.shape[d];
  }
  return reinterpret_cast<float*>(view.data) + offset;
}

/// Puts the values of each `block` (32 or 64; 0: as they are) in another order: first those at multiples of block / kWidth, then
/// those after them, and so on. So a lane has neighbours, as it does of short codes that were loaded together.
inline void ReorderBlocks(float* values, int64_t length, int64_t block) {
#ifdef ZI_NIBBLE_BLOCKS
  const Ints evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), odds = Or(evens, SetInts(1));
  const auto split = [&](Vec& a, Vec& b) {
    const Vec even = _mm512_permutex2var_ps(a, evens, b);
    b = _mm512_permutex2var_ps(a, odds, b);
    a = even;
  };
  for (float* end = values + length; block > 0 && values < end; values += block) {
    Vec a = Load(values), b = Load(values + kWidth);
    split(a, b);
    if (block == 4 * kWidth) {
      Vec c = Load(values + 2 * kWidth), d = Load(values + 3 * kWidth);
      split(c, d);
      split(a, c);
      split(b, d);
      Store(values + 2 * kWidth, c);
      Store(values + 3 * kWidth, d);
    }
    Store(values, a);
    Store(values + kWidth, b);
  }
#endif
}

/// Puts the 32 values of each vector of pairs in another order: first those at multiples of 4, then those after them, and so on. So
/// each quarter has what 16 bytes of codes of 4 bits hold at the same places of their words.
inline void ReorderPairs([[maybe_unused]] float* pairs, [[maybe_unused]] int64_t length) {
#ifdef ZI_PAIR_BLOCKS
  constexpr auto at = [](int lane) { return lane % 4 * 8 + lane / 4 + ((lane % 4 * 8 + lane / 4 + 4) << 16); };
  const Ints places = _mm512_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11), at(12),
                                        at(13), at(14), at(15));
  for (int64_t i = 0; i < length; i += kWidth) {
    Store(pairs + i, FloatsOf(_mm512_permutexvar_epi16(places, _mm512_castps_si512(Load(pairs + i)))));
  }
#endif
}

/// f(i) for all i < count. `work` is the rough cost of one item in simple vector operations: chunks are made large enough to be worth
/// handing to another thread.
template <class F>
inline ThreadPool::Phase PhaseOf(int64_t count, int64_t work, F& f) {
  constexpr int64_t kChunkWork = 4096;
  const auto body = [](void* context, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) (*static_cast<F*>(context))(static_cast<int64_t>(i));
  };
  return {static_cast<size_t>(count), static_cast<size_t>(Larger(1, kChunkWork / Larger(1, work))), body,
          const_cast<void*>(static_cast<const void*>(&f))};
}

/// The same in parallel; small operations stay on the calling thread.
template <class F>
inline void ForEach(Run& run, int64_t count, int64_t work, F f) {
  const ThreadPool::Phase phase = PhaseOf(count, work, f);
  run.pool.ParallelPhases(&phase, 1, run.cancel);
}

}  // namespace zi::ZI_ISA
