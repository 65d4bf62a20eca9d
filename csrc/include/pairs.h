// Rows two vectors at a time, for kernels that convert every value of a 16-bit row once.
//
// A 32-bit word of bfloat16 memory holds two columns. As a pair, its vector of words becomes the even columns
// (shifted up) and the odd ones (masked), and back: without the shuffles that widening and narrowing columns
// in their order take. A row of float32 that meets such pairs is put into their order by `in_pairs`.
// Internal linkage for the reason that vec.h gives.
#pragma once

#include "vec.h"

namespace pavdit {
namespace {

struct Pair {
  Floats first, second;
};

inline Pair operator+(Pair a, Pair b) {
  return {a.first + b.first, a.second + b.second};
}
inline Pair operator*(Pair a, Pair b) {
  return {a.first * b.first, a.second * b.second};
}
inline Pair operator-(Pair a, float b) {
  return {a.first - b, a.second - b};
}
inline Pair operator*(Pair a, float b) {
  return {a.first * b, a.second * b};
}

constexpr int kPair = 2 * kLanes;

// Whether a pair of T is the even and the odd columns, or else the columns of two vectors.
template <typename T>
constexpr bool kEvenAndOdd = false;
#if !defined(__AVX512BF16__)  // its instruction narrows columns in their order
template <>
constexpr bool kEvenAndOdd<BFloat16> = true;
#endif

// ---- load<Pair>(p) and store(p, pair) ----

template <>
inline Pair load<Pair>(const float* p) {
  return {load<Floats>(p), load<Floats>(p + kLanes)};
}

template <>
inline Pair load<Pair>(const Float16* p) {
  return {load<Floats>(p), load<Floats>(p + kLanes)};
}

template <>
inline Pair load<Pair>(const BFloat16* p) {
  if constexpr (!kEvenAndOdd<BFloat16>) return {load<Floats>(p), load<Floats>(p + kLanes)};
  const Words words = read<Words>(p);
  return {bit_cast<Floats>(words << 16), bit_cast<Floats>(words & 0xffff0000u)};
}

template <typename T>
inline void store(T* p, Pair v) {
  if constexpr (!kEvenAndOdd<T>) {
    store(p, v.first);
    store(p + kLanes, v.second);
  } else {
    // Without a look for NaN: those of arithmetic are quiet, and with the lower half empty, as it is in one
    // that comes from bfloat16 or from `in_pairs`, rounding leaves them NaN.
    const Words even = bfloat16_rounded(bit_cast<Words>(v.first));
    const Words odd = bfloat16_rounded(bit_cast<Words>(v.second));
    write(p, (even >> 16) | (odd & 0xffff0000u));
  }
}

// ---- loops and sums over the columns of a row ----

// As over_columns, with V = Pair while whole pairs are left.
template <typename Body>
inline __attribute__((always_inline)) void over_pairs(int64_t width, Body body) {
  int64_t column = 0;
  for (; column + 2 * kPair <= width; column += 2 * kPair) {
    body(Pair{}, 0, column);
    body(Pair{}, 2, column + kPair);
  }
  if (column + kPair <= width) {
    body(Pair{}, 0, column);
    column += kPair;
  }
  if (column + kLanes <= width) {
    body(Floats{}, 0, column);
    column += kLanes;
  }
  for (; column < width; ++column) body(float{}, 0, column);
}

// Asks for the cache lines of the columns that a V has from p on, as a hint that may point anywhere.
template <typename V, typename T>
inline __attribute__((always_inline)) void fetch(V, const T* p) {
  constexpr int kLine = 64, kBytes = int(sizeof(V) / sizeof(float) * sizeof(T));
  for (int i = 0; i < kBytes; i += kLine) __builtin_prefetch(reinterpret_cast<const char*>(p) + i);
}

struct PairSum : Sum {
  using Sum::add;
  void add(int slot, Pair v) {
    add(slot, v.first);
    add(slot + 1, v.second);
  }
};

// Puts a row of float32 into the order that the columns of T have in pairs, in place, and every NaN into the
// form that a pair of T can store.
template <typename T>
inline void in_pairs(int64_t width, float* row) {
  if constexpr (!kEvenAndOdd<T>) return;
  for (int64_t i = 0; i + kPair <= width; i += kPair) {
    float columns[kPair];
    for (int lane = 0; lane < kPair; ++lane) {
      columns[lane] = row[i + lane] != row[i + lane] ? __builtin_nanf("") : row[i + lane];
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      row[i + lane] = columns[2 * lane];
      row[i + kLanes + lane] = columns[2 * lane + 1];
    }
  }
}

}  // namespace
}  // namespace pavdit
