// What the CUDA kernels of adaln_modulate and gated_residual_adaln share: the norm of a row, forward and
// backward, by a warp that holds it in registers or by a block that reads it element by element.
#pragma once

#include <type_traits>
#include <utility>

#include "adaln_modulate.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kThreads = 128;  // four rows in flight per block; more warps only lengthen the tail
constexpr int kWarps = kThreads / kWarp;
// Else ptxas spills a few registers to reach one block more per multiprocessor.
constexpr int kAnyOccupancy = 1;
constexpr int64_t kMaxRows = 2147483647;  // blocks along x; row numbers fit 32 bits, which divide faster

// The packs of 16 bytes that a lane holds of one row; a row of D elements needs D / (32 * kPack<T>), rounded
// up.
template <typename T>
struct Packs;
template <>
struct Packs<float> {
  using Forward = std::integer_sequence<int, 1, 2, 3, 6, 9, 16>;  // D = 128 192 384 768 1152, up to 2048
  using Backward = std::integer_sequence<int, 1, 2, 3, 6, 9>;     // its sums take four times the registers
};
template <>
struct Packs<__nv_bfloat16> {
  using Forward = std::integer_sequence<int, 1, 2, 3, 5, 8>;  // D <= 256, 512 (384), 768, 1280 (1152), 2048
  using Backward = std::integer_sequence<int, 1, 2, 3, 5>;
};
template <>
struct Packs<__half> : Packs<__nv_bfloat16> {};

template <typename M>
__device__ __forceinline__ const M* modulation_row(const AdalnShape& shape, const Modulation& m,
                                                   unsigned group) {
  const unsigned groups = unsigned(shape.groups);
  return static_cast<const M*>(m.data) + group / groups * m.batch_stride +
         group % groups / unsigned(m.share) * m.group_stride;
}

// ---- a warp and a row in its registers: pack p of a lane holds the columns from (p * kWarp + lane) * kV on
// ----

// Subtracts the mean from the row, whose sum over the lane's columns is given; returns mean and rstd.
template <int kPacks, int kV>
__device__ __forceinline__ float2 centre(float (&row)[kPacks][kV], float sum, int lane, int width,
                                         float eps) {
  const float about = warp_sum(sum) / float(width);
  float centred = 0.0f, squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if ((p * kWarp + lane) * kV < width) {
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        row[p][i] -= about;
        centred += row[p][i];
        squares += row[p][i] * row[p][i];
      }
    }
  }
  // What rounding left of the mean; beside a mean far above the spread it is not small.
  const float rest = warp_sum(centred) / float(width);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int i = 0; i < kV; ++i) row[p][i] -= rest;
  }
  const float variance = warp_sum(squares) / float(width) - rest * rest;  // below 0 by rounding alone
  return make_float2(about + rest, rsqrtf((variance < 0.0f ? 0.0f : variance) + eps));
}

// out = row * rstd * (1 + scale) + shift, of a centred row.
template <typename T, typename M, int kPacks, int kV>
__device__ __forceinline__ void store_modulated(float (&row)[kPacks][kV], float rstd,
                                                const M* __restrict__ scale,  // [D]
                                                const M* __restrict__ shift,  // [D]
                                                T* __restrict__ out,          // [D]
                                                int lane, int width) {
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int column = (p * kWarp + lane) * kV;
    if (column < width) {
      float gain[kV], offset[kV];
      load_floats(scale + column, gain);
      load_floats(shift + column, offset);
#pragma unroll
      for (int i = 0; i < kV; ++i) row[p][i] = row[p][i] * rstd * (1.0f + gain[i]) + offset[i];
      store_floats(out + column, row[p]);
    }
  }
}

// Reads a row of g and of x, adds their share to the lane's dshift and dscale, leaves h = g * (1 + scale) and
// xhat; returns mean(h) and mean(h * xhat).
template <typename T, typename M, int kPacks, int kV>
__device__ __forceinline__ float2 read_gradient(const T* __restrict__ grad,   // [D]
                                                const T* __restrict__ x,      // [D]
                                                const M* __restrict__ scale,  // [D]
                                                float2 stat, int lane, int width, float (&h)[kPacks][kV],
                                                float (&xhat)[kPacks][kV], float (&dshift)[kPacks][kV],
                                                float (&dscale)[kPacks][kV]) {
  float sum_h = 0.0f, sum_h_xhat = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int column = (p * kWarp + lane) * kV;
    if (column < width) {
      float gain[kV];
      load_floats(grad + column, h[p]);
      load_floats(x + column, xhat[p]);
      load_floats(scale + column, gain);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        xhat[p][i] = (xhat[p][i] - stat.x) * stat.y;
        dshift[p][i] += h[p][i];
        dscale[p][i] += h[p][i] * xhat[p][i];
        h[p][i] *= 1.0f + gain[i];
        sum_h += h[p][i];
        sum_h_xhat += h[p][i] * xhat[p][i];
      }
    }
  }
  return make_float2(warp_sum(sum_h) / float(width), warp_sum(sum_h_xhat) / float(width));
}

// Adds the sums of all warps up in shared memory, one warp after the other so that the order is fixed, and
// writes the block's partial sums.
template <int kSums, int kPacks, int kV>
__device__ __forceinline__ void store_partial(float (&dsums)[kSums][kPacks][kV], float* shared, int lane,
                                              int warp, int width,
                                              float* __restrict__ partial) {  // shared, partial: [kSums, D]
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int column = (p * kWarp + lane) * kV;
        if (column < width) {
#pragma unroll
          for (int s = 0; s < kSums; ++s) {
            float* sums = shared + s * width + column;
#pragma unroll
            for (int i = 0; i < kV; ++i) sums[i] = (turn == 0 ? 0.0f : sums[i]) + dsums[s][p][i];
          }
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kSums * width; i += kThreads) partial[i] = shared[i];
}

// ---- a block and a row in memory ----

// Writes the modulated norm of a row, whose sum over the thread's columns is given; returns mean and rstd. A
// thread reads only columns that it may have written itself.
template <typename T, typename M>
__device__ __forceinline__ float2 modulate_any(const T* row,  // [D]
                                               float sum,
                                               const M* __restrict__ scale,  // [D]
                                               const M* __restrict__ shift,  // [D]
                                               int64_t width, float eps, float* warp_sums,
                                               T* __restrict__ out) {  // [D]
  const float about = block_sum<kThreads>(sum, warp_sums) / float(width);
  float centred = 0.0f, squares = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float value = to_float(row[i]) - about;
    centred += value;
    squares += value * value;
  }
  const float rest = block_sum<kThreads>(centred, warp_sums) / float(width);  // as in `centre`
  const float variance = block_sum<kThreads>(squares, warp_sums) / float(width) - rest * rest;
  const float rstd = rsqrtf((variance < 0.0f ? 0.0f : variance) + eps);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float xhat = (to_float(row[i]) - about - rest) * rstd;
    out[i] = from_float<T>(xhat * (1.0f + to_float(scale[i])) + to_float(shift[i]));
  }
  return make_float2(about + rest, rstd);
}

// As read_gradient, but dshift and dscale lie in memory and nothing of the row is kept.
template <typename T, typename M>
__device__ __forceinline__ float2 read_gradient_any(const T* __restrict__ grad,   // [D]
                                                    const T* __restrict__ x,      // [D]
                                                    const M* __restrict__ scale,  // [D]
                                                    float2 stat, int64_t width, float* warp_sums,
                                                    float* __restrict__ dshift,    // [D]
                                                    float* __restrict__ dscale) {  // [D]
  float sum_h = 0.0f, sum_h_xhat = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float g = to_float(grad[i]), xhat = (to_float(x[i]) - stat.x) * stat.y;
    const float h = g * (1.0f + to_float(scale[i]));
    dshift[i] += g;
    dscale[i] += g * xhat;
    sum_h += h;
    sum_h_xhat += h * xhat;
  }
  const float mean_h = block_sum<kThreads>(sum_h, warp_sums) / float(width);
  return make_float2(mean_h, block_sum<kThreads>(sum_h_xhat, warp_sums) / float(width));
}

// ---- the rows of a block in the backward: block c does chunk c ----

struct Rows {
  unsigned group;
  int64_t first, last;
};

__device__ __forceinline__ Rows rows_of_chunk(const AdalnShape& shape, int64_t rows_per_chunk,
                                              unsigned chunks) {
  const unsigned group = blockIdx.x / chunks;
  const int64_t start = group * shape.rows, first = start + blockIdx.x % chunks * rows_per_chunk;
  return {group, first, min(first + rows_per_chunk, start + shape.rows)};
}

// ---- launches ----

// Calls launch with the smallest count of packs that holds the row; false if none does.
template <typename T, typename Launch, int... kPacks>
bool with_packs(int64_t width, std::integer_sequence<int, kPacks...>, Launch launch) {
  return ((width <= kPacks * kWarp * kPack<T> && (launch(std::integral_constant<int, kPacks>{}), true)) ||
          ...);
}

template <typename M>
bool packable(const Modulation& m) {
  return aligned(m.data) && m.batch_stride % kPack<M> == 0 && m.group_stride % kPack<M> == 0;
}

// Calls run(T*, M*) with null pointers of the types of x and of the modulation.
template <typename Run>
void with_dtypes(const AdalnShape& shape, Run run) {
  const bool wide = shape.modulation_dtype == DType::kFloat32;
  const auto beside = [&](auto* x) { return wide ? run(x, static_cast<float*>(nullptr)) : run(x, x); };
  switch (shape.dtype) {
    case DType::kFloat32:
      return run(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
    case DType::kBFloat16:
      return beside(static_cast<__nv_bfloat16*>(nullptr));
    case DType::kFloat16:
      return beside(static_cast<__half*>(nullptr));
  }
}

}  // namespace
}  // namespace pavdit::cuda
