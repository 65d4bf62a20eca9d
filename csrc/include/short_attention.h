// Attention over few keys, at most 8, or of a single query. Scores lie as [query][key] here, several queries
// to a vector: kLanes row dots are added up across their lanes in one tree, which leaves them in the lanes of
// one vector, and the softmax of a whole group of queries happens inside a register. Nothing is transposed.
#pragma once

#include "product.h"
#include "rows.h"
#include "vec.h"

namespace pavdit {
namespace {

// ---- shuffles whose indices are functions of the lane ----

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
struct Halves2 {
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
  add_pairs<Halves2, kLanes / 4>(v);
  if constexpr (kLanes >= 8) add_pairs<Quads, kLanes / 8>(v);
  if constexpr (kLanes >= 16) add_pairs<Quads, kLanes / 16>(v);
  return v[0];
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

// ---- row dots ----

// A narrow vector and zeros.
inline Floats load_narrow(const float* p) {
#if defined(__AVX512F__)
  return bit_cast<Floats>(_mm512_zextps256_ps512(_mm256_loadu_ps(p)));
#else
  return read<Floats>(p);  // narrow is whole here
#endif
}

// sums[i kGroup + j] = q_i . k_j, lane by lane, for kLanes / kGroup queries and kKeys <= kGroup keys.
template <int kGroup, int kKeys>
inline __attribute__((always_inline)) Floats row_dots(const float* const* q, const float* const* k,
                                                      int64_t columns) {
  constexpr int kQueries = kLanes / kGroup;
  Floats sums[kLanes] = {};
  const auto add = [&](int64_t i, auto load_columns) __attribute__((always_inline)) {
    Floats query[kQueries];
#pragma GCC unroll 4
    for (int r = 0; r < kQueries; ++r) query[r] = load_columns(q[r] + i);
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      const Floats key = load_columns(k[j] + i);
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) sums[r * kGroup + j] += query[r] * key;
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) add(i, [](const float* p) { return read<Floats>(p); });
  if (i < columns) add(i, load_narrow);
  return lane_sums(sums);
}

// Lanes of hidden keys to 0, the others to weights, for groups of which `keys` lanes are seen.
template <int kGroup>
inline Floats group_softmax(Floats scores, int64_t keys, float scale) {
  const auto seen = (AllLanes::numbers() & uint32_t(kGroup - 1)) < uint32_t(keys);
  scores = seen ? scores : Floats{} - __builtin_inff();
  const Floats weights = exp_of_negative((scores - group_max<kGroup>(scores)) * scale);
  return weights / group_sum<kGroup>(weights);
}

constexpr int64_t kFewKeys = kLanes < 8 ? 4 : 8;

// Calls body(scores, where) for q_i . k_j [query][kGroup], a vector of them at a time.
template <int kKeys, typename Body>
inline __attribute__((always_inline)) void few_dots(int64_t queries, int64_t width, const Rows& q,
                                                    const Rows& k, Body body) {
  constexpr int kGroup = kKeys <= 4 ? 4 : 8, kQueries = kLanes / kGroup;
  const float *keys[kKeys], *rows[kQueries];
#pragma GCC unroll 8
  for (int j = 0; j < kKeys; ++j) keys[j] = k.data + j * k.stride;
  for (int64_t i = 0; i < queries; i += kQueries) {
#pragma GCC unroll 4
    for (int r = 0; r < kQueries; ++r) rows[r] = q.data + (i + r < queries ? i + r : i) * q.stride;
    body(row_dots<kGroup, kKeys>(rows, keys, padded(width, kNarrow)), i * kGroup);
  }
}

// p, [query][4 or 8] of them, 0 for keys that are not there. The dots of all queries come first: the
// exponential is a long chain of operations, and several of them then run beside each other.
template <int kKeys>
void few_weights(int64_t queries, int64_t width, float scale, const Rows& q, const Rows& k, float* weights) {
  constexpr int kGroup = kKeys <= 4 ? 4 : 8;
  few_dots<kKeys>(queries, width, q, k, [&](Floats scores, int64_t i) { write(weights + i, scores); });
#pragma GCC unroll 2
  for (int64_t i = 0; i < queries * kGroup; i += kLanes) {
    write(weights + i, group_softmax<kGroup>(read<Floats>(weights + i), kKeys, scale));
  }
}

// ds beside p.
template <int kKeys>
void few_dweights(int64_t queries, int64_t width, float scale, const Rows& grad, const Rows& v,
                  const float* weights, float* dweights) {
  few_dots<kKeys>(queries, width, grad, v, [&](Floats dots, int64_t i) {
    const Floats p = read<Floats>(weights + i);
    write(dweights + i, p * (dots - group_sum<kKeys <= 4 ? 4 : 8>(p * dots)) * scale);
  });
}

// Calls run(Count<kKeys>{}) with kKeys = keys.
template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

template <typename Run>
inline void with_few(int64_t keys, Run run) {
  switch (keys) {
    case 1:
      return run(Count<1>{});
    case 2:
      return run(Count<2>{});
    case 3:
      return run(Count<3>{});
    case 4:
      return run(Count<4>{});
  }
  if constexpr (kFewKeys == 8) {
    switch (keys) {
      case 5:
        return run(Count<5>{});
      case 6:
        return run(Count<6>{});
      case 7:
        return run(Count<7>{});
      case 8:
        return run(Count<8>{});
    }
  }
}

}  // namespace
}  // namespace pavdit
