// Small matrix products, transposition and the exponential for CPU kernels, all float32 and in registers.
// As in vec.h, everything has internal linkage and nothing comes from std::.
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

// How many vector sums a tile may hold; AVX-512 and NEON have 32 registers, the others 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileSums = 16;
#else
constexpr int kTileSums = 8;
#endif

// The factors and the result of a product: element (row, term) and (term, column), columns contiguous.
struct Left {
  const float* data;
  int64_t row, term;
};
struct Right {
  const float* data;
  int64_t term;
};
struct Result {
  float* data;
  int64_t row;
  bool add = false;  // to what is there already
};

template <typename V, int kRows, int kColumns>
inline __attribute__((always_inline)) void tile(Left a, Right b, Result out, int64_t terms) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  V sums[kRows][kColumns] = {};
  if (out.add) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; ++c) sums[r][c] = read<V>(out.data + r * out.row + c * lanes);
    }
  }
  for (int64_t t = 0; t < terms; ++t) {
    V factors[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) factors[c] = read<V>(b.data + t * b.term + c * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float factor = a.data[r * a.row + t * a.term];
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) sums[r][c] += factor * factors[c];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) write(out.data + r * out.row + c * lanes, sums[r][c]);
  }
}

template <typename V, int kColumns,
          int kRows = (kTileSums / kColumns >= 8   ? 8
                       : kTileSums / kColumns >= 4 ? 4
                                                   : 2)>
void column_block(Left a, Right b, Result out, int64_t rows, int64_t terms) {
  for (; rows >= kRows; rows -= kRows) {
    tile<V, kRows, kColumns>(a, b, out, terms);
    a.data += kRows * a.row;
    out.data += kRows * out.row;
  }
  if constexpr (kRows > 1) {
    if (rows > 0) column_block<V, kColumns, kRows / 2>(a, b, out, rows, terms);
  }
}

// out[r][c] = sum over t of a[r][t] b[t][c]; `columns` is a multiple of kNarrow.
inline void product(Left a, Right b, Result out, int64_t rows, int64_t terms, int64_t columns) {
  const auto advance = [&](int64_t count) {
    b.data += count;
    out.data += count;
    columns -= count;
  };
  for (; columns >= 4 * kLanes; advance(4 * kLanes)) column_block<Floats, 4>(a, b, out, rows, terms);
  switch (columns / kLanes) {
    case 3:
      column_block<Floats, 3>(a, b, out, rows, terms);
      advance(3 * kLanes);
      break;
    case 2:
      column_block<Floats, 2>(a, b, out, rows, terms);
      advance(2 * kLanes);
      break;
    case 1:
      column_block<Floats, 1>(a, b, out, rows, terms);
      advance(kLanes);
      break;
  }
  if (columns > 0) column_block<Narrow, 1>(a, b, out, rows, terms);
}

// to[c][r] = from[r][c]; the rows of `to` are filled up with zeros to `padded_rows`.
inline void transpose(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to,
                      int64_t padded_rows) {
  using Quad = float __attribute__((vector_size(16)));
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float* block = from + r * stride;
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      const Quad row0 = read<Quad>(block + c), row1 = read<Quad>(block + stride + c);
      const Quad row2 = read<Quad>(block + 2 * stride + c), row3 = read<Quad>(block + 3 * stride + c);
      const Quad low01 = __builtin_shufflevector(row0, row1, 0, 4, 1, 5);
      const Quad high01 = __builtin_shufflevector(row0, row1, 2, 6, 3, 7);
      const Quad low23 = __builtin_shufflevector(row2, row3, 0, 4, 1, 5);
      const Quad high23 = __builtin_shufflevector(row2, row3, 2, 6, 3, 7);
      float* corner = to + c * padded_rows + r;
      write(corner, __builtin_shufflevector(low01, low23, 0, 1, 4, 5));
      write(corner + padded_rows, __builtin_shufflevector(low01, low23, 2, 3, 6, 7));
      write(corner + 2 * padded_rows, __builtin_shufflevector(high01, high23, 0, 1, 4, 5));
      write(corner + 3 * padded_rows, __builtin_shufflevector(high01, high23, 2, 3, 6, 7));
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < 4; ++i) to[c * padded_rows + r + i] = block[i * stride + c];
    }
  }
  for (; r < padded_rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * padded_rows + r] = r < rows ? from[r * stride + c] : 0.0f;
  }
}

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
