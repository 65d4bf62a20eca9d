// Fourier transforms in registers and shared memory for CUDA kernels. A thread holds 16 complex points of a
// transform; between two passes the points change threads through shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "framing.h"

namespace pavdit::cuda {

constexpr int kHeld = 16;  // complex points of a thread: 32 registers

__device__ __forceinline__ float2 operator+(float2 a, float2 b) {
  return make_float2(a.x + b.x, a.y + b.y);
}
__device__ __forceinline__ float2 operator-(float2 a, float2 b) {
  return make_float2(a.x - b.x, a.y - b.y);
}
__device__ __forceinline__ float2 operator*(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
__device__ __forceinline__ float2 minus_i(float2 a) {
  return make_float2(a.y, -a.x);
}
__device__ __forceinline__ float2 conjugate(float2 a) {
  return make_float2(a.x, -a.y);
}

// In place, results in order.
__device__ __forceinline__ void dft2(float2& a, float2& b) {
  const float2 sum = a + b;
  b = a - b;
  a = sum;
}
__device__ __forceinline__ void dft4(float2& a, float2& b, float2& c, float2& d) {
  const float2 even = a + c, odd = b + d, left = a - c, right = minus_i(b - d);
  a = even + odd;
  b = left + right;
  c = even - odd;
  d = left - right;
}

constexpr float kCos8 = 0.923879532511287f, kSin8 = 0.382683432365090f, kDiagonal = 0.707106781186548f;

// exp(-2 pi i k / 16) for k = 0..9; k is known when the loops around are unrolled.
__device__ __forceinline__ float2 turn16(float2 v, int k) {
  switch (k) {
    case 1:
      return v * make_float2(kCos8, -kSin8);
    case 2:
      return make_float2(kDiagonal * (v.x + v.y), kDiagonal * (v.y - v.x));
    case 3:
      return v * make_float2(kSin8, -kCos8);
    case 4:
      return minus_i(v);
    case 6:
      return make_float2(kDiagonal * (v.y - v.x), -kDiagonal * (v.x + v.y));
    case 9:
      return v * make_float2(-kCos8, kSin8);
    default:
      return v;
  }
}

// The transforms of x[start], x[start + kStride], ..., kRadix of them; what stands where then says result_at.
template <int kRadix, int kStride>
__device__ __forceinline__ void dft(float2 (&x)[kHeld], int start) {
  const auto at = [&](int q) -> float2& { return x[start + q * kStride]; };
  if constexpr (kRadix == 2) {
    dft2(at(0), at(1));
  } else if constexpr (kRadix == 4) {
    dft4(at(0), at(1), at(2), at(3));
  } else if constexpr (kRadix == 8) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dft2(at(i), at(i + 4));
      at(i + 4) = turn16(at(i + 4), 2 * i);
    }
    dft4(at(0), at(1), at(2), at(3));
    dft4(at(4), at(5), at(6), at(7));
  } else {
    static_assert(kRadix == 16, "want a radix of 2, 4, 8 or 16");
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dft4(at(i), at(i + 4), at(i + 8), at(i + 12));
#pragma unroll
      for (int q = 1; q < 4; ++q) at(i + 4 * q) = turn16(at(i + 4 * q), i * q);
    }
#pragma unroll
    for (int q = 0; q < 4; ++q) dft4(at(4 * q), at(4 * q + 1), at(4 * q + 2), at(4 * q + 3));
  }
}

// The result that stands at position p after dft<kRadix>.
template <int kRadix>
__host__ __device__ constexpr int result_at(int p) {
  return kRadix == 8 ? 2 * (p % 4) + p / 4 : kRadix == 16 ? 4 * (p % 4) + p / 4 : p;
}

// ---- the transforms of framing.h's branches, in shared memory ----

constexpr int kFourierThreads = 128;  // at most

// How a block works; all are numbers of elements.
struct FourierPlan {
  int points, branches;  // framing.h
  int at_once;           // columns whose spectra are in shared memory
  int branch_stride;     // float2 from branch to branch of a spectrum
  int threads;

  FourierPlan(const Framing& framing, int most_columns) {
    const Pruned fft(framing, kHeld);
    const int half = int(fft.half);
    points = int(fft.points);
    branches = int(fft.branches);
    const int fitting = kFourierThreads * kHeld / half;
    at_once = fitting < most_columns ? fitting : most_columns;
    threads = at_once * half / kHeld;
    // 16 neighbouring bins lie in as many branches as there are; this puts them into different banks
    branch_stride = points + points / kHeld + kHeld / (branches < kHeld ? branches : kHeld);
  }

  __host__ __device__ int spectrum_size() const { return at_once * branches * branch_stride; }
  __host__ __device__ int signal_size() const { return at_once * points; }

  // What is left beside passes of radix 16.
  int first_radix() const {
    int first = points;
    while (first > kHeld) first /= kHeld;
    return first;
  }
};

// A padding element after 16, so that 16 threads that are 16 elements apart meet 16 banks.
__device__ __forceinline__ int place(int i) {
  return i + i / kHeld;
}

// Where bin k of a column stands; k from 0 to half, which is 0 again.
__device__ __forceinline__ int bin_place(const FourierPlan& plan, int k) {
  k &= plan.points * plan.branches - 1;
  return k % plan.branches * plan.branch_stride + place(k / plan.branches);
}

// One transform of `points` per branch and column; a thread holds 16 points of one of them. Autosort passes
// (Stockham): the results come in order. signals: [at_once, points], turned as each branch asks; null: the
// spectrum itself is transformed, in place.
template <int kFirst, bool kInPlace>
__device__ __forceinline__ void transform(const FourierPlan& plan, int n_fft, const float2* signals,
                                          const float2* __restrict__ roots, float2* spectrum) {
  const int per_transform = plan.points / kHeld, per_column = plan.branches * per_transform;
  const int column = threadIdx.x / per_column, branch = threadIdx.x % per_column / per_transform;
  const int v = threadIdx.x % per_transform;
  float2* mine = spectrum + (column * plan.branches + branch) * plan.branch_stride;
  float2 x[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int p = v + i * per_transform;
    x[i] = kInPlace ? mine[place(p)] : signals[column * plan.points + p] * roots[2 * branch * p];
  }
  if (kInPlace) __syncthreads();
  constexpr int kTogether = kHeld / kFirst;  // transforms of the first pass
#pragma unroll
  for (int t = 0; t < kTogether; ++t) {
    dft<kFirst, kTogether>(x, t);
#pragma unroll
    for (int q = 0; q < kFirst; ++q) {
      mine[place((v + t * per_transform) * kFirst + result_at<kFirst>(q))] = x[t + q * kTogether];
    }
  }
  for (int done = kFirst; done < plan.points; done *= kHeld) {
    __syncthreads();
    const int k = v % done, step = n_fft / (kHeld * done) * k;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) x[i] = mine[place(v + i * per_transform)];
#pragma unroll
    for (int i = 1; i < kHeld; ++i) x[i] = x[i] * roots[i * step];
    dft<kHeld, 1>(x, 0);
    __syncthreads();
    const int first = (v - k) * kHeld + k;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) mine[place(first + result_at<kHeld>(i) * done)] = x[i];
  }
}

// exp(-2 pi i k / n_fft); the division is exact.
__device__ __forceinline__ float2 root_of_unity(int64_t k, int64_t n_fft) {
  float sine, cosine;
  sincospif(-2.0f * float(k) / float(n_fft), &sine, &cosine);
  return make_float2(cosine, sine);
}

// Calls run(std::integral_constant<int, radix>{}) with the plan's first radix.
template <typename Run>
cudaError_t with_first_radix(const FourierPlan& plan, Run run) {
  switch (plan.first_radix()) {
    case 2:
      return run(std::integral_constant<int, 2>{});
    case 4:
      return run(std::integral_constant<int, 4>{});
    case 8:
      return run(std::integral_constant<int, 8>{});
    default:
      return run(std::integral_constant<int, 16>{});
  }
}

}  // namespace pavdit::cuda
