// The exponential for CPU kernels, of whole vectors and of narrow ones. As in vec.h, everything has internal
// linkage and nothing comes from std::.
#pragma once

#include "vec.h"

namespace pavdit {
namespace {

// For rows that end in the middle of a vector, such as 8 or 24 queries beside vectors of 16.
constexpr int kNarrow = kLanes < 8 ? kLanes : 8;
using Narrow = float __attribute__((vector_size(kNarrow * 4)));

template <bool kWhole>
struct BitsOf {
  using Type = Words;
};
template <>
struct BitsOf<false> {
  using Type = uint32_t __attribute__((vector_size(kNarrow * 4)));
};

// exp(x) for x <= 0 to a unit in the last place or two; 0 below -87, where normal float32 ends. NaN stays.
template <typename V>
inline V exp_of_negative(V x) {
  using Bits = typename BitsOf<sizeof(V) == sizeof(Floats)>::Type;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the lowest bits
  const V shifted = x * 1.44269504f + kRound;
  const V n = shifted - kRound;
  const V r = (x - n * 0x1.62e4p-1f) - n * 1.42860682e-6f;  // ln(2) in two parts: n times the first is exact
  V sum = V{} + 1.0f / 5040;  // Taylor: |r| <= ln(2) / 2, so what is left out is below 6e-9
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const V value = bit_cast<V>(bit_cast<Bits>(sum) + (bit_cast<Bits>(shifted) << 23));
  return x < -87.0f ? V{} : value;
}

}  // namespace
}  // namespace pavdit
