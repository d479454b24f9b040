// hyper_weights and hyper_mix: a residual of several streams, whose few weights per token decide much and are never vectors.
#pragma once
#include "cpu/kernel_math.h"

namespace zi::ZI_ISA {

/// f(logit · scale[part] + base) of `count` logits from `first` on.
template <class F>
inline void HyperLogits(const HyperWeightsOp& op, int64_t token, int64_t first, int64_t count, int part, float* to, F f) {
  const float* logits = Row(op.logits, token) + first;
  float lanes[kWidth];
  WithType(op.scale.dtype, [&]<class W>(W) { Store(lanes, LoadUpTo<W>(op.scale.data + part * W::kBytes, 1)); });
  const Vec scale = Set(lanes[0]);
  WithType(op.base.dtype, [&]<class W>(W) {
    for (int64_t i = 0; i < count; i += kWidth) {
      const int64_t n = count - i;
      const Vec base = LoadUpTo<W>(op.base.data + (first + i) * W::kBytes, n);
      StoreUpTo(to + i, f(Fma(LoadUpTo(logits + i, n), scale, base)), n);
    }
  });
}

/// Each of `count` sums over n values that lie `step` apart divides them; sums lie `next` apart.
inline void DivideBySums(float* values, int64_t n, int64_t next, int64_t step, float eps) {
  for (int64_t i = 0; i < n; ++i) {
    float sum = eps;
    for (int64_t j = 0; j < n; ++j) sum += values[i * next + j * step];
    for (int64_t j = 0; j < n; ++j) values[i * next + j * step] /= sum;
  }
}

inline void HyperWeightsKernel(const HyperWeightsOp& op, Run& run) {
  const int64_t n = op.gather.shape[1];
  const Vec eps = Set(op.eps);
  ForEach(run, op.gather.shape[0], 40 + n * n * op.iterations, [&](int64_t t) {
    HyperLogits(op, t, 0, n, 0, Row(op.gather, t), [&](Vec x) { return Add(Sigmoid(x), eps); });
    if (!op.mix.data) return;
    HyperLogits(op, t, n, n, 1, Row(op.spread, t), [](Vec x) { return Mul(Set(2.0f), Sigmoid(x)); });
    float mix[kMostStreams * kMostStreams + kWidth];
    HyperLogits(op, t, 2 * n, n * n, 2, mix, [](Vec x) { return x; });
    for (int64_t i = 0; i < n; ++i) {
      float* row = mix + i * n;
      float largest = row[0], sum = 0, parts[kMostStreams + kWidth];
      for (int64_t j = 1; j < n; ++j) largest = row[j] > largest ? row[j] : largest;
      for (int64_t j = 0; j < n; j += kWidth) StoreUpTo(parts + j, Exp(Sub(LoadUpTo(row + j, n - j), Set(largest))), n - j);
      for (int64_t j = 0; j < n; ++j) sum += parts[j];
      for (int64_t j = 0; j < n; ++j) row[j] = parts[j] / sum + op.eps;
    }
    DivideBySums(mix, n, 1, n, op.eps);
    for (int64_t round = 1; round < op.iterations; ++round) {
      DivideBySums(mix, n, n, 1, op.eps);
      DivideBySums(mix, n, 1, n, op.eps);
    }
    for (int64_t i = 0; i < n; ++i) std::memcpy(Row(op.mix, t, i), mix + i * n, static_cast<size_t>(n) * sizeof(float));
  });
}

inline void HyperMixKernel(const HyperMixOp& op, Run& run) {
  const int64_t n = op.x.shape[1], length = op.x.shape[2];
  ForEach(run, op.x.shape[0], length / kWidth * n * n, [&](int64_t t) {
    const float *y = Row(op.y, t), *spread = Row(op.spread, t);
    for (int64_t i = 0; i < length; i += kWidth) {
      const int64_t left = length - i;
      const Vec added = LoadUpTo(y + i, left);
      Vec before[kMostStreams];
      for (int64_t j = 0; j < n; ++j) before[j] = LoadUpTo(Row(op.x, t, j) + i, left);
      for (int64_t j = 0; j < n; ++j) {
        Vec sum = Mul(Set(spread[j]), added);
        for (int64_t from = 0; from < n; ++from) sum = Fma(Set(Row(op.mix, t, from)[j]), before[from], sum);
        StoreUpTo(Row(op.x, t, j) + i, sum, left);
      }
    }
  });
}

}  // namespace zi::ZI_ISA
