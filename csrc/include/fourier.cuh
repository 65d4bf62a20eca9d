// Fourier transforms in registers and shared memory for CUDA kernels. A thread holds 16 complex points of a
// transform; between two passes the points change threads through shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

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

}  // namespace pavdit::cuda
