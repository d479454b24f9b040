// gather_rows, token_rows and rotary: work on whole rows picked by index.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

inline void GatherRowsKernel(const GatherRowsOp& op, Run& run) {
  const int64_t tokens = op.out.shape[0], length = op.out.shape[1];
  // Indices are data: checked here, before any row is touched.
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t row = Int(op.rows, t);
    if (row < 0 || row >= op.table.shape[0]) {
      FailOp("row %d of token %ld is outside the table of %ld rows", row, t, op.table.shape[0]);
    }
  }
  const Vec scale = Set(op.scale);
  WithType(op.table.dtype, [&]<class W>(W) {
    ForEach(run, tokens, length / kWidth, [&](int64_t t) {
      const uint8_t* row = op.table.data + Int(op.rows, t) * op.table.strides[0] * W::kBytes;
      float* out = Row(op.out, t);
      for (int64_t i = 0; i < length; i += kWidth) {
        const int64_t n = length - i;
        const Vec value = LoadUpTo<W>(row + i * W::kBytes, n);
        const Vec base = op.accumulate ? LoadUpTo(out + i, n) : Zero();
        StoreUpTo(out + i, Fma(value, scale, base), n);
      }
    });
  });
}

inline void TokenRowsKernel(const TokenRowsOp& op, Run&) {
  for (int64_t r = 0; r < op.tokens.shape[0]; ++r) {
    const int32_t token = Int(op.tokens, r);
    reinterpret_cast<int32_t*>(op.rows.data)[r * op.rows.strides[0]] = token == kNoToken ? 0 : token;
  }
}

inline void RotatePairs(float* x, const float* cosine, const float* sine, int64_t pairs, bool interleaved) {
  if (interleaved) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cosine[i] - b * sine[i];
      x[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
    return;
  }
  for (int64_t i = 0; i < pairs; i += kWidth) {
    const int64_t n = pairs - i;
    const Vec a = LoadUpTo(x + i, n), b = LoadUpTo(x + pairs + i, n);
    const Vec c = LoadUpTo(cosine + i, n), s = LoadUpTo(sine + i, n);
    StoreUpTo(x + i, Fnma(b, s, Mul(a, c)), n);
    StoreUpTo(x + pairs + i, Fma(a, s, Mul(b, c)), n);
  }
}

inline void RotaryKernel(const RotaryOp& op, Run& run) {
  const int64_t heads = op.x.shape[1], pairs = op.inverse_frequencies.shape[0];
  const float* frequencies = reinterpret_cast<const float*>(op.inverse_frequencies.data);
  ForEach(run, op.x.shape[0], pairs * 20 + heads * pairs / kWidth, [&](int64_t t) {
    // One table of cos and sin per token serves all its heads.
    float* cosine = static_cast<float*>(Scratch(ScratchUse::kTile, static_cast<size_t>(pairs) * 2 * sizeof(float)));
    float* sine = cosine + pairs;
    const double position = Int(op.positions, t);
    for (int64_t i = 0; i < pairs; ++i) CosSin(position * frequencies[i], op.scale, cosine + i, sine + i);
    for (int64_t h = 0; h < heads; ++h) RotatePairs(Row(op.x, t, h), cosine, sine, pairs, op.interleaved);
  });
}

}  // namespace zi::ZI_ISA
