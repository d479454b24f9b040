// reduce, when the parts of all ranks lie there: sums in f32, in the order of the ranks.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

/// x (+)= sum for the first n values (kWidth or fewer), in the type of x.
inline void AddSum(uint8_t* x, DType dtype, Vec sum, int64_t n, bool accumulate) {
  WithType(dtype, [&]<class X>(X) {
    if (accumulate) sum = Add(LoadUpTo<X>(x, n), sum);
    if constexpr (X::kBytes == 4) {
      StoreUpTo(reinterpret_cast<float*>(x), sum, n);
    } else {
      float lanes[kWidth];
      Store(lanes, std::is_same_v<X, BF16> ? RoundToBF16(PlainNan(sum)) : sum);
      for (int64_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, lanes + i, sizeof(bits));
        const auto half = std::is_same_v<X, BF16> ? static_cast<uint16_t>(bits >> 16) : static_cast<uint16_t>(_cvtss_sh(lanes[i], 0));
        std::memcpy(x + 2 * i, &half, sizeof(half));
      }
    }
  });
}

inline void SumPartialsKernel(const ReduceOp& op, const PartialSpan& span, Run& run) {
  constexpr int64_t kPiece = 4096;
  const int64_t columns = op.x.shape[1], element = ElementBytes(op.x.dtype), values = span.last - span.first;
  WithType(op.partial.dtype, [&]<class P>(P) {
    ForEach(run, (values + kPiece - 1) / kPiece, kPiece / kWidth * span.count, [&](int64_t piece) {
      const int64_t end = Smaller(span.first + (piece + 1) * kPiece, span.last);
      for (int64_t at = span.first + piece * kPiece; at < end;) {
        const int64_t row = at / columns, column = at % columns, n = Smaller(columns - column, end - at);
        uint8_t* x = op.x.data + (row * op.x.strides[0] + column) * element;
        for (int64_t i = 0; i < n; i += kWidth) {
          const int64_t from = (at - span.first + i) * P::kBytes;
          Vec sum = LoadUpTo<P>(span.places[0] + from, n - i);
          for (int rank = 1; rank < span.count; ++rank) sum = Add(sum, LoadUpTo<P>(span.places[rank] + from, n - i));
          AddSum(x + i * element, op.x.dtype, sum, n - i < kWidth ? n - i : kWidth, op.accumulate);
        }
        at += n;
      }
    });
  });
}

}  // namespace zi::ZI_ISA
