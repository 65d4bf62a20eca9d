// Small matrix products and transposition for CPU kernels, all float32 and in registers. As in vec.h,
// everything has internal linkage and nothing comes from std::.
#pragma once

#include "exponential.h"

namespace pavdit {
namespace {

// Keeps a value in a register: gcc would rather load it again for every use, and loads are what is short.
template <typename V>
inline __attribute__((always_inline)) V held(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

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
};

template <typename V, int kRows, int kColumns>
inline __attribute__((always_inline)) void tile(const Left& a, const Right& b, const Result& out,
                                                int64_t terms, bool add) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  V sums[kRows][kColumns] = {};
  if (add) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; ++c) sums[r][c] = read<V>(out.data + r * out.row + c * lanes);
    }
  }
  for (int64_t t = 0; t < terms; ++t) {
    V factors[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) factors[c] = held(read<V>(b.data + t * b.term + c * lanes));
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
inline __attribute__((always_inline)) void column_block(const Left& left, const Right& b,
                                                        const Result& result, int64_t rows, int64_t terms,
                                                        bool add) {
  Left a = left;
  Result out = result;
  for (; rows >= kRows; rows -= kRows) {
    tile<V, kRows, kColumns>(a, b, out, terms, add);
    a.data += kRows * a.row;
    out.data += kRows * out.row;
  }
  if constexpr (kRows > 1) {
    if (rows > 0) column_block<V, kColumns, kRows / 2>(a, b, out, rows, terms, add);
  }
}

// How `product` reaches its blocks. In long products a block of its own is scheduled best; in short ones the
// calls would cost a third of the time.
struct Long {
  template <typename V, int kColumns>
  static __attribute__((noinline)) void block(const Left& a, const Right& b, const Result& out, int64_t rows,
                                              int64_t terms, bool add) {
    column_block<V, kColumns>(a, b, out, rows, terms, add);
  }
};
struct Short {
  template <typename V, int kColumns>
  static inline __attribute__((always_inline)) void block(const Left& a, const Right& b, const Result& out,
                                                          int64_t rows, int64_t terms, bool add) {
    column_block<V, kColumns>(a, b, out, rows, terms, add);
  }
};

// out[r][c] = sum over t of a[r][t] b[t][c], plus out[r][c] where `add`; `columns` is a multiple of kNarrow.
template <typename Terms = Long>
inline __attribute__((noinline)) void product(const Left& left, const Right& right, const Result& result,
                                              int64_t rows, int64_t terms, int64_t columns,
                                              bool add = false) {
  const Left a = left;
  Right b = right;
  Result out = result;
  const auto advance = [&](int64_t count) {
    b.data += count;
    out.data += count;
    columns -= count;
  };
  for (; columns >= 4 * kLanes; advance(4 * kLanes))
    Terms::template block<Floats, 4>(a, b, out, rows, terms, add);
  switch (columns / kLanes) {
    case 3:
      Terms::template block<Floats, 3>(a, b, out, rows, terms, add);
      advance(3 * kLanes);
      break;
    case 2:
      Terms::template block<Floats, 2>(a, b, out, rows, terms, add);
      advance(2 * kLanes);
      break;
    case 1:
      Terms::template block<Floats, 1>(a, b, out, rows, terms, add);
      advance(kLanes);
      break;
  }
  if (columns > 0) Terms::template block<Narrow, 1>(a, b, out, rows, terms, add);
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

}  // namespace
}  // namespace pavdit
