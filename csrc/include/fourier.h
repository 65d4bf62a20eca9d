// Fourier transforms of real signals for CPU kernels, one signal per lane. As in vec.h, everything has
// internal linkage and nothing comes from std::.
//
// The signals lie as [sample][lane]. Samples 2p and 2p + 1 are the real and the imaginary part of complex
// point p, so a list of complex numbers lies as [point][2][lane] and needs no copy.
#pragma once

#include "framing.h"
#include "vec.h"

namespace pavdit {
namespace {

struct Complex {
  Floats re, im;
};

inline __attribute__((always_inline)) Complex operator+(Complex a, Complex b) {
  return {a.re + b.re, a.im + b.im};
}
inline __attribute__((always_inline)) Complex operator-(Complex a, Complex b) {
  return {a.re - b.re, a.im - b.im};
}
inline __attribute__((always_inline)) Complex minus_i(Complex a) {
  return {a.im, -a.re};
}
inline __attribute__((always_inline)) Complex load_complex(const float* list, int64_t i) {
  return {read<Floats>(list + 2 * i * kLanes), read<Floats>(list + (2 * i + 1) * kLanes)};
}
inline __attribute__((always_inline)) void store_complex(float* list, int64_t i, Complex v) {
  write(list + 2 * i * kLanes, v.re);
  write(list + (2 * i + 1) * kLanes, v.im);
}

// roots [n_fft, 2]: entry k is exp(-2 pi i k / n_fft).
inline __attribute__((always_inline)) Complex turned(Complex a, const float* roots, int64_t k) {
  const float re = roots[2 * k], im = roots[2 * k + 1];
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}

// By the conjugate of the root.
inline __attribute__((always_inline)) Complex turned_back(Complex a, const float* roots, int64_t k) {
  const float re = roots[2 * k], im = roots[2 * k + 1];
  return {a.re * re + a.im * im, a.im * re - a.re * im};
}

// A square of kLanes vectors transposed: log2(kLanes) times, the first half of the rows is interleaved with
// the second.
inline __attribute__((always_inline)) void interleave(Floats a, Floats b, Floats& low, Floats& high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

inline __attribute__((always_inline)) void transpose_square(Floats (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    Floats turned_rows[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      interleave(rows[i], rows[i + kLanes / 2], turned_rows[2 * i], turned_rows[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = turned_rows[i];
  }
}

// ---- complex FFT in place: decimation in frequency, results in the order of their reversed digits ----

// One pass of radix 4 over parts of `length` points. With kTurn the points come from `source`, turned as
// branch `branch` asks (framing.h); it is the first pass then, of one part.
template <bool kTurn>
inline void radix4_pass(const float* source, float* list, int64_t points, int64_t length, int64_t n_fft,
                        const float* roots, int64_t branch) {
  const int64_t quarter = length / 4, step = n_fft / length;
  for (int64_t j = 0; j < quarter; ++j) {
    for (int64_t first = j; first < points; first += length) {
      Complex in[4];
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const int64_t p = first + q * quarter;
        in[q] = load_complex(kTurn ? source : list, p);
        if (kTurn) in[q] = turned(in[q], roots, 2 * branch * p);
      }
      const Complex even = in[0] + in[2], odd = in[1] + in[3];
      const Complex left = in[0] - in[2], right = minus_i(in[1] - in[3]);
      store_complex(list, first, even + odd);
      if (j == 0) {
        store_complex(list, first + quarter, left + right);
        store_complex(list, first + 2 * quarter, even - odd);
        store_complex(list, first + 3 * quarter, left - right);
      } else {
        store_complex(list, first + quarter, turned(left + right, roots, j * step));
        store_complex(list, first + 2 * quarter, turned(even - odd, roots, 2 * j * step));
        store_complex(list, first + 3 * quarter, turned(left - right, roots, 3 * j * step));
      }
    }
  }
}

// The FFT of `source` [points] turned by a branch, into list [points]; result k stands at reversed[k].
inline void branch_fft(const float* source, float* list, const Pruned& fft, const float* roots,
                       int64_t branch) {
  const int64_t n_fft = 2 * fft.half;
  int64_t length = fft.points;
  if (length >= 4) {
    radix4_pass<true>(source, list, fft.points, length, n_fft, roots, branch);
    length /= 4;
  } else {
    for (int64_t p = 0; p < fft.points; ++p) {
      store_complex(list, p, turned(load_complex(source, p), roots, 2 * branch * p));
    }
  }
  for (; length >= 4; length /= 4) radix4_pass<false>(nullptr, list, fft.points, length, n_fft, roots, 0);
  if (length == 2) {
    for (int64_t p = 0; p < fft.points; p += 2) {
      const Complex a = load_complex(list, p), b = load_complex(list, p + 1);
      store_complex(list, p, a + b);
      store_complex(list, p + 1, a - b);
    }
  }
}

// ---- and back, without the division by the number of points ----

// Undoes radix4_pass. With kTurn it is the last pass, of one part: its results are turned back and added to
// `sum`, branch 0 writes them.
template <bool kTurn>
inline void inverse_radix4_pass(float* list, float* sum, int64_t points, int64_t length, int64_t n_fft,
                                const float* roots, int64_t branch) {
  const int64_t quarter = length / 4, step = n_fft / length;
  const auto put = [&](int64_t p, Complex v) {
    if (!kTurn) return store_complex(list, p, v);
    v = turned_back(v, roots, 2 * branch * p);
    store_complex(sum, p, branch == 0 ? v : load_complex(sum, p) + v);
  };
  for (int64_t j = 0; j < quarter; ++j) {
    for (int64_t first = j; first < points; first += length) {
      Complex in[4];
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        in[q] = load_complex(list, first + q * quarter);
        if (j != 0 && q != 0) in[q] = turned_back(in[q], roots, q * j * step);
      }
      const Complex even = in[0] + in[2], odd = in[1] + in[3];
      const Complex left = in[0] - in[2], right = minus_i(in[1] - in[3]);
      put(first, even + odd);
      put(first + quarter, left - right);
      put(first + 2 * quarter, even - odd);
      put(first + 3 * quarter, left + right);
    }
  }
}

// What the branch `list` [points], in the order that branch_fft leaves, adds to the first points of the
// inverse transform of all branches. Destroys the list.
inline void inverse_branch_fft(float* list, float* sum, const Pruned& fft, const float* roots,
                               int64_t branch) {
  const int64_t n_fft = 2 * fft.half;
  int64_t length = 1;
  if (__builtin_ctzll(uint64_t(fft.points)) % 2 == 1) {  // no power of four
    length = 2;
    for (int64_t p = 0; p < fft.points; p += 2) {
      const Complex a = load_complex(list, p), b = load_complex(list, p + 1);
      store_complex(list, p, a + b);
      store_complex(list, p + 1, a - b);
    }
  }
  if (fft.points < 4) {
    for (int64_t p = 0; p < fft.points; ++p) {
      const Complex v = turned_back(load_complex(list, p), roots, 2 * branch * p);
      store_complex(sum, p, branch == 0 ? v : load_complex(sum, p) + v);
    }
    return;
  }
  for (length *= 4; length < fft.points; length *= 4) {
    inverse_radix4_pass<false>(list, nullptr, fft.points, length, n_fft, roots, 0);
  }
  inverse_radix4_pass<true>(list, sum, fft.points, length, n_fft, roots, branch);
}

// reversed[k]: where result k of a transform of `points` stands. The digits are those of the passes.
inline void reverse_digits(int64_t points, int32_t* reversed) {
  for (int64_t k = 0; k < points; ++k) {
    int64_t rest = k, place = 0, length = points;
    for (; length >= 4; length /= 4, rest /= 4) place += rest % 4 * (length / 4);
    if (length == 2) place += rest;
    reversed[k] = int32_t(place);
  }
}

}  // namespace
}  // namespace pavdit
