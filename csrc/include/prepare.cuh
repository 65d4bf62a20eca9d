// RMS norm and rotation of the rows of a tile, and their gradient.
#pragma once

#include "tile.cuh"

namespace pavdit::cuda {

// What q or k goes through before attention.
struct Preparation {
  const float* weight;   // [columns of all chunks], in shared memory; null: no norm
  const float* cosines;  // [tokens, width / 2], 16-byte aligned; null: no rotation
  const float* sines;
  float inverse_width, eps;

  // Runs f(pair number in the chunk, cosine, sine) over the lane's four pairs of a row.
  template <typename F>
  __device__ __forceinline__ void each_angle(int token, int column, int width, F f) const {
    const int64_t at = int64_t(token) * (width / 2) + column / 2;
    const float4 cosine = *reinterpret_cast<const float4*>(cosines + at);
    const float4 sine = *reinterpret_cast<const float4*>(sines + at);
    f(0, cosine.x, sine.x);
    f(1, cosine.y, sine.y);
    f(2, cosine.z, sine.z);
    f(3, cosine.w, sine.w);
  }
};

// 1 / sqrt(mean(x^2) + eps) of rows g and g + 8.
template <typename T, int kChunks>
__device__ __forceinline__ float2 reciprocal_rms(const Tile<T, kChunks>& x, const Preparation& how) {
  float squares[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = unpack_pair<T>(x.pair[c][half][i]);
        squares[half] += v.x * v.x + v.y * v.y;
      }
    }
    squares[half] = quad_sum(squares[half]);
  }
  return make_float2(rsqrtf(squares[0] * how.inverse_width + how.eps),
                     rsqrtf(squares[1] * how.inverse_width + how.eps));
}

// In place; tokens: of row g and row g + 8, any valid one where the row is zero.
template <typename T, int kChunks>
__device__ __forceinline__ void prepare(const Preparation& how, const int (&tokens)[2], int width,
                                        Tile<T, kChunks>& x) {
  if (how.weight == nullptr && how.cosines == nullptr) return;
  const float2 rstd = how.weight == nullptr ? make_float2(1.0f, 1.0f) : reciprocal_rms(x, how);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = lane_column(c);
    if (column >= width) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = unpack_pair<T>(x.pair[c][half][i]);
        v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
      }
      if (how.weight != nullptr) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= (half == 0 ? rstd.x : rstd.y) * how.weight[column + i];
      }
      if (how.cosines != nullptr) {
        how.each_angle(tokens[half], column, width, [&](int i, float cosine, float sine) {
          const float first = v[2 * i], second = v[2 * i + 1];
          v[2 * i] = first * cosine - second * sine;
          v[2 * i + 1] = first * sine + second * cosine;
        });
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) x.pair[c][half][i] = pack_pair<T>(v[2 * i], v[2 * i + 1]);
    }
  }
}

// Sums v over the eight rows g: the lane keeps number g of its eight columns.
__device__ __forceinline__ float sum_over_rows(float (&v)[8]) {
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 4; step > 0; step /= 2) {  // row bits 4, 2, 1 are lane bits 16, 8, 4
    const bool high = lane & (4 * step);
#pragma unroll
    for (int i = 0; i < step; ++i) {
      const float kept = high ? v[i + step] : v[i], given = high ? v[i] : v[i + step];
      v[i] = kept + __shfl_xor_sync(kAllLanes, given, 4 * step);
    }
  }
  return v[0];
}

// The gradient of `prepare`, in place in grad; x: the tile before it. Adds to dweight, of which the lane
// keeps column lane_column(c) + g of chunk c.
template <typename T, int kChunks>
__device__ __forceinline__ void prepare_backward(const Preparation& how, const int (&tokens)[2], int width,
                                                 const Tile<T, kChunks>& x, Sums<kChunks>& grad,
                                                 float (&dweight)[kChunks]) {
  if (how.cosines != nullptr) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = lane_column(c);
      if (column >= width) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* v = grad.v[c][half];
        how.each_angle(tokens[half], column, width, [&](int i, float cosine, float sine) {
          const float first = v[2 * i], second = v[2 * i + 1];
          v[2 * i] = first * cosine + second * sine;
          v[2 * i + 1] = second * cosine - first * sine;
        });
      }
    }
  }
  if (how.weight == nullptr) return;
  const float2 rstd = reciprocal_rms(x, how);
  float mean[2] = {};  // of h xhat
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = lane_column(c);
    float share[8] = {};
    if (column < width) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float2 pair = unpack_pair<T>(x.pair[c][half][i / 2]);
          const float xhat = (i % 2 == 0 ? pair.x : pair.y) * (half == 0 ? rstd.x : rstd.y);
          share[i] += grad.v[c][half][i] * xhat;
          grad.v[c][half][i] *= how.weight[column + i];
          mean[half] += grad.v[c][half][i] * xhat;
        }
      }
    }
    dweight[c] += sum_over_rows(share);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mean[half] = quad_sum(mean[half]) * how.inverse_width;
    const float of_row = half == 0 ? rstd.x : rstd.y;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 pair = unpack_pair<T>(x.pair[c][half][i / 2]);
        const float xhat = (i % 2 == 0 ? pair.x : pair.y) * of_row;
        grad.v[c][half][i] = of_row * (grad.v[c][half][i] - xhat * mean[half]);
      }
    }
  }
}

}  // namespace pavdit::cuda
