// Sums and maxima across the lanes of vectors, for CPU kernels. Internal linkage for the reason that vec.h
// gives.
#pragma once

#include "vec.h"

namespace pavdit {
namespace {

template <int... kLane>
struct Lanes {
  // Lane l of the result is lane Source::of(l) of a, or of b from kLanes on.
  template <typename Source>
  static Floats shuffle(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, Source::of(kLane)...);
  }
  static constexpr Words numbers() { return Words{kLane...}; }
};

template <int kCount, int... kLane>
struct LanesBelow : LanesBelow<kCount - 1, kCount - 1, kLane...> {};
template <int... kLane>
struct LanesBelow<0, kLane...> {
  using Type = Lanes<kLane...>;
};
using AllLanes = LanesBelow<kLanes>::Type;

// Lanes whose number has the bit kDistance come from b, the others from a: each from its own place, or from
// its partner's, kDistance away.
template <int kDistance>
struct Own {
  static constexpr int of(int lane) { return (lane & kDistance) != 0 ? kLanes + lane : lane; }
};
template <int kDistance>
struct Partner {
  static constexpr int of(int lane) {
    return (lane & kDistance) != 0 ? kLanes + lane - kDistance : lane + kDistance;
  }
};

// Of every quad (a0, a1, a2, a3), (b0, b1, b2, b3): (a0, a2, b0, b2), or (a1, a3, b1, b3) where kOdd.
template <bool kOdd>
struct Paired {
  static constexpr int of(int lane) { return lane % 4 / 2 * kLanes + lane / 4 * 4 + lane % 2 * 2 + kOdd; }
};

template <int kDistance>
struct Swapped {
  static constexpr int of(int lane) { return lane ^ kDistance; }
};

// v[i] = the sum of both selections from v[2 i] and v[2 i + 1].
template <typename First, typename Second, int kCount>
inline __attribute__((always_inline)) void add_pairs(Floats* v) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    v[i] =
        AllLanes::shuffle<First>(v[2 * i], v[2 * i + 1]) + AllLanes::shuffle<Second>(v[2 * i], v[2 * i + 1]);
  }
}

// Lane l of the result is the sum over all lanes of v[l], of kLanes vectors. Overwrites v. One of the two
// selections of a step is a blend where it can be: these run beside the shuffles.
inline __attribute__((always_inline)) Floats lane_sums(Floats* v) {
  add_pairs<Own<2>, Partner<2>, kLanes / 2>(v);
  add_pairs<Paired<false>, Paired<true>, kLanes / 4>(v);
  if constexpr (kLanes >= 8) add_pairs<Own<4>, Partner<4>, kLanes / 8>(v);
  if constexpr (kLanes >= 16) add_pairs<Own<8>, Partner<8>, kLanes / 16>(v);
  return v[0];
}

template <typename V>
inline V first_lanes(Floats v) {
  if constexpr (sizeof(V) == sizeof(Floats)) {
    return v;
  } else {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  }
}

// A narrow vector and zeros.
inline Floats load_narrow(const float* p) {
#if defined(__AVX512F__)
  return bit_cast<Floats>(_mm512_zextps256_ps512(_mm256_loadu_ps(p)));
#else
  return read<Floats>(p);  // narrow is whole here
#endif
}

inline Floats larger(Floats a, Floats b) {
  return a > b ? a : b;
}

// Every lane gets the largest, or the sum, of its group of kGroup lanes.
template <int kGroup>
inline Floats group_max(Floats v) {
  v = larger(v, AllLanes::shuffle<Swapped<1>>(v, v));
  v = larger(v, AllLanes::shuffle<Swapped<2>>(v, v));
  if constexpr (kGroup >= 8) v = larger(v, AllLanes::shuffle<Swapped<4>>(v, v));
  if constexpr (kGroup >= 16) v = larger(v, AllLanes::shuffle<Swapped<8>>(v, v));
  return v;
}

template <int kGroup>
inline Floats group_sum(Floats v) {
  v += AllLanes::shuffle<Swapped<1>>(v, v);
  v += AllLanes::shuffle<Swapped<2>>(v, v);
  if constexpr (kGroup >= 8) v += AllLanes::shuffle<Swapped<4>>(v, v);
  if constexpr (kGroup >= 16) v += AllLanes::shuffle<Swapped<8>>(v, v);
  return v;
}

}  // namespace
}  // namespace pavdit
