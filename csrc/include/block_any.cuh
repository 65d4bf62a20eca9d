// What block_attention in float32 arithmetic is made of, on the ordinary cores: for float32 itself, of which
// TF32 would keep 10 bits of mantissa, and for the 16-bit rows that are no multiples of 16 bytes.
//
// 32 rows meet 32 others at a time, in shared memory. For scores a thread has two rows by two others and
// reads four columns an access, one access for four products; for sums of rows it has two rows by four
// columns.
#pragma once

#include "block_problems.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kAnyRows = kWarp;  // a lane for every column of a row of scores
constexpr int kAnyThreads = 256;
constexpr int kAnyWarps = kAnyThreads / kWarp;
// Else ptxas spills a few registers to reach one block more per multiprocessor.
constexpr int kAnyOccupancy = 1;
constexpr int kAnyQuad = 4;                 // columns of one access
constexpr int kAnySide = kAnyThreads / 16;  // threads lie 16 by 16 in the products
constexpr int kAnyGroups = kBlockMaxWidth / (kAnyQuad * 16);
constexpr int kSquareStride = kAnyRows + 1;
static_assert(kWarp * kAnyQuad == kBlockMaxWidth, "want a lane for every four columns");
static_assert(kAnyRows == 2 * kAnySide, "want two rows a thread");

// Four neighbouring columns of a row, lane l those from 4 l on; zero beyond the width.
struct AnyRow {
  float v[kAnyQuad] = {};

  template <typename T>
  __device__ __forceinline__ void load(const T* row, int width, bool whole) {  // null: zeros
    const int column = kAnyQuad * (int(threadIdx.x) % kWarp);
    if (row == nullptr || column >= width) return;
    if (sizeof(T) == sizeof(float) && whole) {
      const float4 quad = *reinterpret_cast<const float4*>(row + column);
      v[0] = quad.x, v[1] = quad.y, v[2] = quad.z, v[3] = quad.w;
      return;
    }
#pragma unroll
    for (int i = 0; i < kAnyQuad; ++i) v[i] = column + i < width ? to_float(row[column + i]) : 0.0f;
  }

  template <typename T>
  __device__ __forceinline__ void store(T* row, int width, bool whole) const {
    const int column = kAnyQuad * (int(threadIdx.x) % kWarp);
    if (column >= width) return;
    if (sizeof(T) == sizeof(float) && whole) {
      *reinterpret_cast<float4*>(row + column) = make_float4(v[0], v[1], v[2], v[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < kAnyQuad; ++i) {
      if (column + i < width) row[column + i] = from_float<T>(v[i]);
    }
  }
};

// 32 rows of a tensor, or of sums, in shared memory.
struct AnyTile {
  float* data;  // [32, stride]

  // Eight lanes that read 16 bytes each of eight rows meet no bank twice.
  static __host__ __device__ constexpr int stride(int width) { return (width + 7) / 8 * 8 + kAnyQuad; }

  __device__ __forceinline__ float4& quad(int row, int column, int width) const {
    return *reinterpret_cast<float4*>(data + row * stride(width) + column);
  }
  __device__ __forceinline__ void put(int row, const AnyRow& x, int width) const {
    const int column = kAnyQuad * (int(threadIdx.x) % kWarp);
    if (column < stride(width)) quad(row, column, width) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
  }
  __device__ __forceinline__ AnyRow get(int row, int width) const {
    AnyRow x;
    const int column = kAnyQuad * (int(threadIdx.x) % kWarp);
    if (column >= width) return x;
    const float4 v = quad(row, column, width);
    x.v[0] = v.x, x.v[1] = v.y, x.v[2] = v.z, x.v[3] = v.w;
    return x;
  }
};

// ---- norm and rotation ----

__device__ __forceinline__ float reciprocal_rms(const AnyRow& x, int width, float eps) {
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kAnyQuad; ++i) squares += x.v[i] * x.v[i];
  return rsqrtf(warp_sum(squares) / float(width) + eps);
}

// Turns both pairs by their angles, or back.
__device__ __forceinline__ void rotate_any(const Preparation& how, int token, int width, bool back,
                                           AnyRow& x) {
  const int column = kAnyQuad * (int(threadIdx.x) % kWarp);
#pragma unroll
  for (int i = 0; i < kAnyQuad; i += 2) {
    if (column + i >= width) continue;
    const int64_t at = int64_t(token) * (width / 2) + (column + i) / 2;
    const float cosine = how.cosines[at], sine = back ? -how.sines[at] : how.sines[at];
    const float first = x.v[i], second = x.v[i + 1];
    x.v[i] = first * cosine - second * sine;
    x.v[i + 1] = first * sine + second * cosine;
  }
}

// The norm's weights are 0 beyond the width.
__device__ __forceinline__ void prepare_any(const Preparation& how, int token, int width, AnyRow& x) {
  if (how.weight != nullptr) {
    const float rstd = reciprocal_rms(x, width, how.eps);
    const float* weight = how.weight + kAnyQuad * (int(threadIdx.x) % kWarp);
#pragma unroll
    for (int i = 0; i < kAnyQuad; ++i) x.v[i] *= rstd * weight[i];
  }
  if (how.cosines != nullptr) rotate_any(how, token, width, false, x);
}

// In place in grad; x: the row before `prepare_any`. Adds to dweight, four columns a lane.
__device__ __forceinline__ void prepare_any_backward(const Preparation& how, int token, int width,
                                                     const AnyRow& x, AnyRow& grad, AnyRow& dweight) {
  if (how.cosines != nullptr) rotate_any(how, token, width, true, grad);
  if (how.weight == nullptr) return;
  const float rstd = reciprocal_rms(x, width, how.eps);
  const float* weight = how.weight + kAnyQuad * (int(threadIdx.x) % kWarp);
  float mean = 0.0f;
#pragma unroll
  for (int i = 0; i < kAnyQuad; ++i) {
    dweight.v[i] += grad.v[i] * x.v[i] * rstd;
    grad.v[i] *= weight[i];
    mean += grad.v[i] * x.v[i] * rstd;
  }
  mean = warp_sum(mean) / float(width);
#pragma unroll
  for (int i = 0; i < kAnyQuad; ++i) grad.v[i] = rstd * (grad.v[i] - x.v[i] * rstd * mean);
}

// ---- products of a whole thread block ----

// out[r][c] = a[r] . b[c]
__device__ __forceinline__ void multiply_any(const AnyTile& a, const AnyTile& b, int width,
                                             float* out) {  // [32, 33]
  const int row = int(threadIdx.x) / kAnySide, other = int(threadIdx.x) % kAnySide;
  float sums[2][2] = {};
  for (int column = 0; column < width; column += kAnyQuad) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float4 x = a.quad(row + kAnySide * r, column, width);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float4 y = b.quad(other + kAnySide * c, column, width);
        sums[r][c] += (x.x * y.x + x.y * y.y) + (x.z * y.z + x.w * y.w);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      out[(row + kAnySide * r) * kSquareStride + other + kAnySide * c] = sums[r][c];
    }
  }
}

// Of rows threadIdx / 16 and 16 more, the columns 4 (threadIdx % 16) .. + 3 and 64 more.
struct AnySums {
  float v[2][kAnyGroups][kAnyQuad] = {};

  // += sum over c of square[r][c] rows[c], or, transposed, of square[c][r].
  __device__ __forceinline__ void add(const float* square, bool transposed, const AnyTile& rows, int width) {
    const int row = int(threadIdx.x) / kAnySide, column = kAnyQuad * (int(threadIdx.x) % kAnySide);
    const int along = transposed ? 1 : kSquareStride, term = transposed ? kSquareStride : 1;
    for (int c = 0; c < kAnyRows; ++c) {
      const float factor[2] = {square[row * along + c * term], square[(row + kAnySide) * along + c * term]};
#pragma unroll
      for (int group = 0; group < kAnyGroups; ++group) {
        const int at = column + group * kAnyQuad * kAnySide;
        if (at >= width) continue;
        const float4 x = rows.quad(c, at, width);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          v[r][group][0] += factor[r] * x.x;
          v[r][group][1] += factor[r] * x.y;
          v[r][group][2] += factor[r] * x.z;
          v[r][group][3] += factor[r] * x.w;
        }
      }
    }
  }

  __device__ __forceinline__ void scale_rows(const float* by) {  // [32]
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float factor = by[int(threadIdx.x) / kAnySide + kAnySide * r];
#pragma unroll
      for (int group = 0; group < kAnyGroups; ++group) {
#pragma unroll
        for (int i = 0; i < kAnyQuad; ++i) v[r][group][i] *= factor;
      }
    }
  }

  __device__ __forceinline__ void put(const AnyTile& rows, int width) const {
    const int row = int(threadIdx.x) / kAnySide, column = kAnyQuad * (int(threadIdx.x) % kAnySide);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int group = 0; group < kAnyGroups; ++group) {
        const int at = column + group * kAnyQuad * kAnySide;
        const float* x = v[r][group];
        if (at < width) rows.quad(row + kAnySide * r, at, width) = make_float4(x[0], x[1], x[2], x[3]);
      }
    }
  }
};

}  // namespace
}  // namespace pavdit::cuda
