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

// Every quad (a0, a1, a2, a3), (b0, b1, b2, b3) to (a0, b0, a1, b1), or to (a2, b2, a3, b3) where kUpper.
template <bool kUpper>
struct Interleaved {
  static constexpr int of(int lane) { return lane % 2 * kLanes + lane / 4 * 4 + lane % 4 / 2 + 2 * kUpper; }
};

// To (a0, a1, b0, b1), or to (a2, a3, b2, b3).
template <bool kUpper>
struct Paired {
  static constexpr int of(int lane) { return lane % 4 / 2 * kLanes + lane / 4 * 4 + lane % 2 + 2 * kUpper; }
};

// The even quads of a, then those of b; or the odd ones.
template <bool kOdd>
struct Quads {
  static constexpr int of(int lane) {
    constexpr int kEach = kLanes / 2;
    return lane / kEach * kLanes + (lane % kEach / 4 * 2 + kOdd) * 4 + lane % 4;
  }
};

template <int kDistance>
struct Swapped {
  static constexpr int of(int lane) { return lane ^ kDistance; }
};

// v[i] = the sum of both selections from v[2 i] and v[2 i + 1].
template <template <bool> class Selection, int kCount>
inline __attribute__((always_inline)) void add_pairs(Floats* v) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    v[i] = AllLanes::shuffle<Selection<false>>(v[2 * i], v[2 * i + 1]) +
           AllLanes::shuffle<Selection<true>>(v[2 * i], v[2 * i + 1]);
  }
}

// Lane l of the result is the sum over all lanes of v[l]. Overwrites v.
inline __attribute__((always_inline)) Floats lane_sums(Floats (&v)[kLanes]) {
  add_pairs<Interleaved, kLanes / 2>(v);
  add_pairs<Paired, kLanes / 4>(v);
  if constexpr (kLanes >= 8) add_pairs<Quads, kLanes / 8>(v);
  if constexpr (kLanes >= 16) add_pairs<Quads, kLanes / 16>(v);
  return v[0];
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
