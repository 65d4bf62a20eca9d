// GELU for CPU kernels, in its exact and in its tanh form. As in vec.h, everything has internal linkage and
// nothing comes from std::. NaN stays NaN.
#pragma once

#include "exponential.h"

namespace pavdit {
namespace {

// u / 2 (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) = u sigmoid(w), w twice the argument of tanh.
inline Floats gelu_tanh(Floats u) {
  const Floats w = u * (1.59576912f + 0.0713548163f * (u * u));
  const Floats away = exp_of_negative(w < 0.0f ? w : -w);
  const Floats share = 1.0f / (1.0f + away);
  return u * (w < 0.0f ? away * share : share);
}

// u Phi(u), Phi of the normal distribution. Phi(-|u|) = exp(-u^2 / 2) times a polynomial of 1 / (1 + |u| p),
// the form of Abramowitz and Stegun 7.1.26, here with a term more, which makes it as exact as float32:
// fitted so that the largest error of max(1, |u|) Phi(u) is least, 1.1e-8.
inline Floats gelu_erf(Floats u) {
  const Floats size = u < 0.0f ? -u : u;
  const Floats t = 1.0f / (1.0f + 0.275f * size);
  Floats sum = Floats{} - 0.114165939f;
  sum = sum * t + 0.449166089f;
  sum = sum * t - 0.326391071f;
  sum = sum * t + 0.330221355f;
  sum = sum * t + 0.0435959175f;
  sum = sum * t + 0.117573656f;
  const Floats tail = sum * t * exp_of_negative(u * u * -0.5f);
  return u * (u < 0.0f ? tail : 1.0f - tail);
}

// A function of whole vectors for single columns too, whose other lanes are thrown away.
template <typename Function>
inline __attribute__((always_inline)) Floats lanewise(Function function, Floats v) {
  return function(v);
}
template <typename Function>
inline __attribute__((always_inline)) float lanewise(Function function, float v) {
  return function(Floats{} + v)[0];
}

}  // namespace
}  // namespace pavdit
