// exp, tanh, erfc and the activations on vectors, all to about 1e-7 relative.
#pragma once
#include "cpu/kernel_common.h"

namespace zi::ZI_ISA {

/// e^x; 0 below −87.3 (where results would be denormal), saturates at e^88. NaN stays NaN.
inline Vec Exp(Vec x) {
  const Vec lowest = Set(-87.3f);
  const Vec clamped = Max(lowest, Min(Set(88.0f), x));
  // x = n·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts, the first with few enough bits that n·part is exact.
  const Vec n = RoundNearest(Mul(clamped, Set(1.44269504f)));
  Vec r = Fnma(n, Set(0.693359375f), clamped);
  r = Fnma(n, Set(-2.12194440e-4f), r);
  // Taylor to r⁷: the remainder is below 6e-9.
  Vec p = Set(1.0f / 5040);
  p = Fma(p, r, Set(1.0f / 720));
  p = Fma(p, r, Set(1.0f / 120));
  p = Fma(p, r, Set(1.0f / 24));
  p = Fma(p, r, Set(1.0f / 6));
  p = Fma(p, r, Set(0.5f));
  p = Fma(p, r, Set(1.0f));
  p = Fma(p, r, Set(1.0f));
  return SelectLess(x, lowest, Zero(), Mul(p, PowerOfTwo(n)));
}

inline Vec Sigmoid(Vec x) { return Div(Set(1.0f), Add(Set(1.0f), Exp(Sub(Zero(), x)))); }

/// Continued fraction of tanh near 0 (relative error 2e-12 below 0.625), 1 − 2 / (e^2x + 1) beyond.
inline Vec Tanh(Vec x) {
  const Vec a = Abs(x);
  const Vec s = Mul(x, x);
  const Vec top = Mul(a, Fma(s, Fma(s, Set(21.0f), Set(1260.0f)), Set(10395.0f)));
  const Vec bottom = Fma(s, Fma(s, Add(s, Set(210.0f)), Set(4725.0f)), Set(10395.0f));
  const Vec near = Div(top, bottom);
  const Vec far = Sub(Set(1.0f), Div(Set(2.0f), Add(Exp(Add(a, a)), Set(1.0f))));
  return CopySign(SelectLess(a, Set(0.625f), near, far), x);
}

/// erfc(z) for z ≥ 0 as t·exp(P(t) − z²) with t = 1 / (1 + z/2); P is a Chebyshev fit of degree 9 with error 5e-8.
inline Vec ErfcPositive(Vec z) {
  const Vec t = Div(Set(1.0f), Fma(z, Set(0.5f), Set(1.0f)));
  Vec p = Set(0.148046053975f);
  p = Fma(p, t, Set(-0.697536590715f));
  p = Fma(p, t, Set(1.19532767457f));
  p = Fma(p, t, Set(-0.746469894702f));
  p = Fma(p, t, Set(-0.0398663175512f));
  p = Fma(p, t, Set(-0.0195080034994f));
  p = Fma(p, t, Set(0.0413959641948f));
  p = Fma(p, t, Set(0.385283633586f));
  p = Fma(p, t, Set(0.99878245955f));
  p = Fma(p, t, Set(-1.26545493018f));
  return Mul(t, Exp(Fnma(z, z, p)));
}

/// x · Φ(x). For negative x from erfc directly, so that the tail does not cancel.
inline Vec Gelu(Vec x) {
  const Vec half = Mul(Set(0.5f), ErfcPositive(Mul(Abs(x), Set(0.707106781f))));
  return Mul(x, SelectLess(x, Zero(), half, Sub(Set(1.0f), half)));
}

/// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), written as x · sigmoid(2u), which does not cancel.
inline Vec GeluTanh(Vec x) {
  const Vec cube = Mul(Mul(x, x), x);
  return Mul(x, Sigmoid(Mul(Set(1.59576912f), Fma(cube, Set(0.044715f), x))));
}

inline Vec Activate(Activation activation, Vec x) {
  switch (activation) {
    case Activation::kRelu:
      return Max(Zero(), x);
    case Activation::kRelu2:
      return Mul(Max(Zero(), x), Max(Zero(), x));
    case Activation::kGelu:
      return Gelu(x);
    case Activation::kGeluTanh:
      return GeluTanh(x);
    case Activation::kGeluQuick:
      return Mul(x, Sigmoid(Mul(Set(1.702f), x)));
    case Activation::kSilu:
      return Mul(x, Sigmoid(x));
    case Activation::kNone:
      return x;
  }
  FailOp("%d is no activation", static_cast<int>(activation));
}

}  // namespace zi::ZI_ISA
