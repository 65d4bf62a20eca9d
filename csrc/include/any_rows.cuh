// Attention by float32 arithmetic for rows of every type, width and alignment: a warp has one row that looks,
// whose columns lane, lane + 32, ... are in the lane's registers; the rows looked at lie in shared memory.
#pragma once

#include "prepare.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace pavdit::cuda {

constexpr int kAnyColumns = 4;  // of a lane: widths up to 128

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}

struct AnyRow {
  float v[kAnyColumns];

  // f(value, column)
  template <typename F>
  __device__ __forceinline__ void each(int width, F f) {
#pragma unroll
    for (int c = 0; c < kAnyColumns; ++c) {
      const int column = kWarp * c + int(threadIdx.x) % kWarp;
      if (column < width) f(v[c], column);
    }
  }
};

// Zeros for null.
template <typename T>
__device__ __forceinline__ AnyRow load_any(const T* row, int width) {
  AnyRow x{};
  if (row != nullptr) x.each(width, [&](float& v, int column) { v = to_float(row[column]); });
  return x;
}

template <typename T>
__device__ __forceinline__ void store_any(AnyRow x, int width, T* row) {
  x.each(width, [&](float v, int column) { row[column] = from_float<T>(v); });
}

__device__ __forceinline__ float reciprocal_rms(AnyRow x, int width, const Preparation& how) {
  float squares = 0.0f;
  x.each(width, [&](float v, int) { squares += v * v; });
  return rsqrtf(warp_sum(squares) * how.inverse_width + how.eps);
}

// Turns every pair of columns by its angle, or back.
__device__ __forceinline__ void rotate_any(const Preparation& how, int token, int width, bool back,
                                           AnyRow& x) {
  const int lane = int(threadIdx.x) % kWarp;
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) {
    const float other = __shfl_xor_sync(kAllLanes, x.v[c], 1);
    const int column = kWarp * c + lane;
    if (column < width) {
      const int64_t at = int64_t(token) * (width / 2) + column / 2;
      const float sine = (column % 2 == 0) != back ? -how.sines[at] : how.sines[at];
      x.v[c] = x.v[c] * how.cosines[at] + other * sine;
    }
  }
}

__device__ __forceinline__ void prepare_any(const Preparation& how, int token, int width, AnyRow& x) {
  if (how.weight != nullptr) {
    const float rstd = reciprocal_rms(x, width, how);
    x.each(width, [&](float& v, int column) { v *= rstd * how.weight[column]; });
  }
  if (how.cosines != nullptr) rotate_any(how, token, width, false, x);
}

// In place in grad; x: the row before `prepare_any`.
template <typename T>
__device__ __forceinline__ void prepare_any_backward(const Preparation& how, int token, int width,
                                                     const T* x_row, AnyRow& grad, AnyRow& dweight) {
  if (how.cosines != nullptr) rotate_any(how, token, width, true, grad);
  if (how.weight == nullptr) return;
  const AnyRow x = load_any(x_row, width);
  const float rstd = reciprocal_rms(x, width, how);
  float mean = 0.0f;
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) {
    const int column = kWarp * c + int(threadIdx.x) % kWarp;
    if (column < width) {
      dweight.v[c] += grad.v[c] * x.v[c] * rstd;
      grad.v[c] *= how.weight[column];
      mean += grad.v[c] * x.v[c] * rstd;
    }
  }
  mean = warp_sum(mean) * how.inverse_width;
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) grad.v[c] = rstd * (grad.v[c] - x.v[c] * rstd * mean);
}

__device__ __forceinline__ void put(AnyRow x, int stride, float* row) {
  x.each(stride, [&](float v, int column) { row[column] = v; });
}

// Number `lane + 32 i` of the result is row `lane + 32 i` of rows times own, for rows below `count`.
template <int kRows>
__device__ __forceinline__ void dots(const float* own, const float* rows, int count, int stride, int width,
                                     float (&result)[kRows]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int row = kWarp * i + int(threadIdx.x) % kWarp;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < count) {
      for (int column = 0; column < width; column += 4) {
        const float4 a = *reinterpret_cast<const float4*>(own + column);
        const float4 b = *reinterpret_cast<const float4*>(rows + row * stride + column);
        sum.x += a.x * b.x, sum.y += a.y * b.y, sum.z += a.z * b.z, sum.w += a.w * b.w;
      }
    }
    result[i] = (sum.x + sum.y) + (sum.z + sum.w);
  }
}

// Sum over rows below `count` of factor times row: odd and even rows apart, which halves the chain of
// roundings.
__device__ __forceinline__ AnyRow weighted_sum(const float* factors, const float* rows, int count, int stride,
                                               int width) {
  AnyRow even{}, odd{};
  for (int row = 0; row < count; row += 2) {
    const float factor = factors[row];
    even.each(width, [&](float& v, int column) { v += factor * rows[row * stride + column]; });
    if (row + 1 < count) {
      const float next = factors[row + 1];
      odd.each(width, [&](float& v, int column) { v += next * rows[(row + 1) * stride + column]; });
    }
  }
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) even.v[c] += odd.v[c];
  return even;
}

// f(i, row) for the lane's rows below `count`.
template <int kRows, typename F>
__device__ __forceinline__ void each_row(int count, F f) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int row = kWarp * i + int(threadIdx.x) % kWarp;
    if (row < count) f(i, row);
  }
}

// Scores to weights; returns the log of the sum of their exponentials, infinite where nothing is seen.
template <int kRows>
__device__ __forceinline__ float softmax_any(const float* seen, int count, float scale,
                                             float (&weights)[kRows]) {
  float top = -INFINITY, sum = 0.0f;
  each_row<kRows>(count, [&](int i, int row) {
    weights[i] = seen[row] != 0.0f ? weights[i] * scale : -INFINITY;
    top = fmaxf(top, weights[i]);
  });
  top = warp_max(top);
  if (top == -INFINITY) top = 0.0f;
  each_row<kRows>(count, [&](int i, int) {
    weights[i] = expf(weights[i] - top);
    sum += weights[i];
  });
  sum = warp_sum(sum);
  const float share = sum == 0.0f ? 0.0f : 1.0f / sum;
  each_row<kRows>(count, [&](int i, int) { weights[i] *= share; });
  return sum == 0.0f ? INFINITY : top + logf(sum);
}

}  // namespace pavdit::cuda
