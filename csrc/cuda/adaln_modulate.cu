// The equations and the cost stand in adaln_modulate.h.
//
// Two paths. Warps: a warp holds a row in registers and reads x once, 16 bytes per thread; for the widths of
// our models. Any: a block per row, element by element, for odd widths and unaligned tensors.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "adaln_modulate.h"
#include "reduce.cuh"
#include "vec.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kThreads = 128;  // four rows in flight per block; more warps only lengthen the tail
constexpr int kWarps = kThreads / kWarp;
constexpr int kAnyOccupancy =
    1;  // else ptxas spills a few registers to reach one block more per multiprocessor
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
  return static_cast<const M*>(m.data) + group / groups * m.batch_stride + group % groups * m.group_stride;
}

// ---- forward ----

template <typename T, typename M, int kPacks>
__global__ __launch_bounds__(kThreads, kAnyOccupancy) void adaln_modulate_warp_fwd_kernel(
    const AdalnShape shape,
    const T* __restrict__ x,                         // [R, D], R = B * F * N
    const Modulation shift, const Modulation scale,  // [B or 1, G, D]
    const float eps,
    T* __restrict__ out,           // [R, D]
    float2* __restrict__ stats) {  // [R]: mean, rstd
  constexpr int kV = kPack<T>;
  const int lane = threadIdx.x % kWarp, width = int(shape.width);
  const int64_t r = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (r >= shape.all_rows()) return;
  float row[kPacks][kV];
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int column = (p * kWarp + lane) * kV;
    if (column < width) {
      load_floats(x + r * width + column, row[p]);
#pragma unroll
      for (int i = 0; i < kV; ++i) sum += row[p][i];
    }
  }
  const float mean = warp_sum(sum) / float(width);
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if ((p * kWarp + lane) * kV < width) {
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        row[p][i] -= mean;
        squares += row[p][i] * row[p][i];
      }
    }
  }
  const float rstd = rsqrtf(warp_sum(squares) / float(width) + eps);
  if (lane == 0) stats[r] = make_float2(mean, rstd);
  const unsigned group = unsigned(r) / unsigned(shape.rows);
  const M* gain_row = modulation_row<M>(shape, scale, group);
  const M* shift_row = modulation_row<M>(shape, shift, group);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int column = (p * kWarp + lane) * kV;
    if (column < width) {
      float gain[kV], offset[kV];
      load_floats(gain_row + column, gain);
      load_floats(shift_row + column, offset);
#pragma unroll
      for (int i = 0; i < kV; ++i) row[p][i] = row[p][i] * rstd * (1.0f + gain[i]) + offset[i];
      store_floats(out + r * width + column, row[p]);
    }
  }
}

template <typename T, typename M>
__global__ __launch_bounds__(kThreads) void adaln_modulate_any_fwd_kernel(
    const AdalnShape shape,
    const T* __restrict__ x,                         // [R, D]
    const Modulation shift, const Modulation scale,  // [B or 1, G, D]
    const float eps,
    T* __restrict__ out,           // [R, D]
    float2* __restrict__ stats) {  // [R]: mean, rstd
  __shared__ float warp_sums[kWarps];
  const int64_t r = blockIdx.x;
  const T* row = x + r * shape.width;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < shape.width; i += kThreads) sum += to_float(row[i]);
  const float mean = block_sum<kThreads>(sum, warp_sums) / float(shape.width);
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < shape.width; i += kThreads) {
    const float centred = to_float(row[i]) - mean;
    squares += centred * centred;
  }
  const float rstd = rsqrtf(block_sum<kThreads>(squares, warp_sums) / float(shape.width) + eps);
  if (threadIdx.x == 0) stats[r] = make_float2(mean, rstd);
  const unsigned group = unsigned(r) / unsigned(shape.rows);
  const M* gain = modulation_row<M>(shape, scale, group);
  const M* offset = modulation_row<M>(shape, shift, group);
  for (int64_t i = threadIdx.x; i < shape.width; i += kThreads) {
    const float xhat = (to_float(row[i]) - mean) * rstd;
    out[r * shape.width + i] = from_float<T>(xhat * (1.0f + to_float(gain[i])) + to_float(offset[i]));
  }
}

// ---- backward, stage one: dx, and one partial sum per chunk of rows. Block c does chunk c ----

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

template <typename T, typename M, int kPacks>
__global__ __launch_bounds__(kThreads, kAnyOccupancy) void adaln_modulate_warp_bwd_kernel(
    const AdalnShape shape, const int64_t rows_per_chunk, const unsigned chunks,
    const T* __restrict__ grad,        // [R, D]
    const T* __restrict__ x,           // [R, D]
    const Modulation scale,            // [B or 1, G, D]
    const float2* __restrict__ stats,  // [R]: mean, rstd
    T* __restrict__ dx,                // [R, D]
    float* __restrict__ partial) {     // [B, G, chunks, 2, D]
  extern __shared__ float sums[];      // [2, D]
  constexpr int kV = kPack<T>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, width = int(shape.width);
  const Rows rows = rows_of_chunk(shape, rows_per_chunk, chunks);
  const M* gain_row = modulation_row<M>(shape, scale, rows.group);
  float dshift[kPacks][kV] = {}, dscale[kPacks][kV] = {};

  for (int64_t r = rows.first + warp; r < rows.last; r += kWarps) {
    const float2 stat = stats[r];
    const float mean = stat.x, rstd = stat.y;
    float h[kPacks][kV], xhat[kPacks][kV];
    float sum_h = 0.0f, sum_h_xhat = 0.0f;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int column = (p * kWarp + lane) * kV;
      if (column < width) {
        float gain[kV];
        load_floats(grad + r * width + column, h[p]);
        load_floats(x + r * width + column, xhat[p]);
        load_floats(gain_row + column, gain);
#pragma unroll
        for (int i = 0; i < kV; ++i) {
          xhat[p][i] = (xhat[p][i] - mean) * rstd;
          dshift[p][i] += h[p][i];
          dscale[p][i] += h[p][i] * xhat[p][i];
          h[p][i] *= 1.0f + gain[i];
          sum_h += h[p][i];
          sum_h_xhat += h[p][i] * xhat[p][i];
        }
      }
    }
    const float mean_h = warp_sum(sum_h) / float(width);
    const float mean_h_xhat = warp_sum(sum_h_xhat) / float(width);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int column = (p * kWarp + lane) * kV;
      if (column < width) {
#pragma unroll
        for (int i = 0; i < kV; ++i) h[p][i] = rstd * (h[p][i] - mean_h - xhat[p][i] * mean_h_xhat);
        store_floats(dx + r * width + column, h[p]);
      }
    }
  }

  // The warps add to shared memory one after the other: the order is fixed.
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int column = (p * kWarp + lane) * kV;
        if (column < width) {
#pragma unroll
          for (int i = 0; i < kV; ++i) {
            sums[column + i] = (turn == 0 ? 0.0f : sums[column + i]) + dshift[p][i];
            sums[width + column + i] = (turn == 0 ? 0.0f : sums[width + column + i]) + dscale[p][i];
          }
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < 2 * width; i += kThreads)
    partial[int64_t(blockIdx.x) * 2 * width + i] = sums[i];
}

template <typename T, typename M>
__global__ __launch_bounds__(kThreads) void adaln_modulate_any_bwd_kernel(
    const AdalnShape shape, const int64_t rows_per_chunk, const unsigned chunks,
    const T* __restrict__ grad,        // [R, D]
    const T* __restrict__ x,           // [R, D]
    const Modulation scale,            // [B or 1, G, D]
    const float2* __restrict__ stats,  // [R]: mean, rstd
    T* __restrict__ dx,                // [R, D]
    float* __restrict__ partial) {     // [B, G, chunks, 2, D]
  __shared__ float warp_sums[kWarps];
  const int64_t width = shape.width;
  const Rows rows = rows_of_chunk(shape, rows_per_chunk, chunks);
  const M* gain = modulation_row<M>(shape, scale, rows.group);
  float* dshift = partial + int64_t(blockIdx.x) * 2 * width;  // a thread keeps to its own columns
  float* dscale = dshift + width;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) dshift[i] = dscale[i] = 0.0f;

  for (int64_t r = rows.first; r < rows.last; ++r) {
    const float2 stat = stats[r];
    const float mean = stat.x, rstd = stat.y;
    float sum_h = 0.0f, sum_h_xhat = 0.0f;
    for (int64_t i = threadIdx.x; i < width; i += kThreads) {
      const float g = to_float(grad[r * width + i]), xhat = (to_float(x[r * width + i]) - mean) * rstd;
      const float h = g * (1.0f + to_float(gain[i]));
      dshift[i] += g;
      dscale[i] += g * xhat;
      sum_h += h;
      sum_h_xhat += h * xhat;
    }
    const float mean_h = block_sum<kThreads>(sum_h, warp_sums) / float(width);
    const float mean_h_xhat = block_sum<kThreads>(sum_h_xhat, warp_sums) / float(width);
    for (int64_t i = threadIdx.x; i < width; i += kThreads) {
      const float xhat = (to_float(x[r * width + i]) - mean) * rstd;
      const float h = to_float(grad[r * width + i]) * (1.0f + to_float(gain[i]));
      dx[r * width + i] = from_float<T>(rstd * (h - mean_h - xhat * mean_h_xhat));
    }
  }
}

// ---- backward, stage two: add the partial sums of a group up ----

constexpr int kTile = 32;    // columns of a block: one 128-byte line of float32
constexpr int kSplits = 16;  // threads that share the chunks of a column

template <typename M>
__global__ __launch_bounds__(kTile* kSplits) void adaln_modulate_sum_bwd_kernel(
    const AdalnShape shape, const int64_t chunks, const int64_t copies,
    const float* __restrict__ partial,  // [B, G, chunks, 2, D]
    M* __restrict__ dshift,             // [B or 1, G, D]
    M* __restrict__ dscale) {           // [B or 1, G, D]
  __shared__ float2 split_sums[kSplits][kTile];
  const unsigned tiles = unsigned((shape.width + kTile - 1) / kTile);
  const int64_t m = blockIdx.x / tiles;  // row of dshift and dscale
  const int64_t column = int64_t(blockIdx.x % tiles) * kTile + threadIdx.x % kTile;
  const int split = threadIdx.x / kTile;
  float2 sum = make_float2(0.0f, 0.0f);
  if (column < shape.width) {
    for (int64_t copy = 0; copy < copies; ++copy) {
      const float* source = partial + (m + copy * shape.groups) * chunks * 2 * shape.width + column;
      for (int64_t chunk = split; chunk < chunks; chunk += kSplits) {
        sum.x += source[chunk * 2 * shape.width];
        sum.y += source[chunk * 2 * shape.width + shape.width];
      }
    }
  }
  split_sums[split][threadIdx.x % kTile] = sum;
  __syncthreads();
  if (split == 0 && column < shape.width) {
    for (int other = 1; other < kSplits; ++other) {
      sum.x += split_sums[other][threadIdx.x].x;
      sum.y += split_sums[other][threadIdx.x].y;
    }
    dshift[m * shape.width + column] = from_float<M>(sum.x);
    dscale[m * shape.width + column] = from_float<M>(sum.y);
  }
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

template <typename T, typename M>
void forward(const AdalnShape& shape, const T* x, Modulation shift, Modulation scale, float eps, T* out,
             float2* stats, cudaStream_t stream) {
  const int64_t rows = shape.all_rows();
  const auto by_warps = [&](auto packs) {
    adaln_modulate_warp_fwd_kernel<T, M, packs.value>
        <<<unsigned((rows + kWarps - 1) / kWarps), kThreads, 0, stream>>>(shape, x, shift, scale, eps, out,
                                                                          stats);
  };
  const bool packed =
      shape.width % kPack<T> == 0 && aligned(x) && aligned(out) && packable<M>(shift) && packable<M>(scale);
  if (!packed || !with_packs<T>(shape.width, typename Packs<T>::Forward{}, by_warps)) {
    adaln_modulate_any_fwd_kernel<T, M>
        <<<unsigned(rows), kThreads, 0, stream>>>(shape, x, shift, scale, eps, out, stats);
  }
}

template <typename T, typename M>
void backward(const AdalnShape& shape, const T* grad, const T* x, Modulation scale, const float2* stats,
              T* dx, M* dshift, M* dscale, float* partial, cudaStream_t stream) {
  const int64_t rows_per_chunk = adaln_rows_per_chunk(shape), chunks = adaln_chunks(shape, rows_per_chunk);
  const unsigned blocks = unsigned(shape.batch * shape.groups * chunks);
  if (blocks > 0) {
    const auto by_warps = [&](auto packs) {
      adaln_modulate_warp_bwd_kernel<T, M, packs.value>
          <<<blocks, kThreads, 2 * shape.width * sizeof(float), stream>>>(
              shape, rows_per_chunk, unsigned(chunks), grad, x, scale, stats, dx, partial);
    };
    const bool packed =
        shape.width % kPack<T> == 0 && aligned(grad) && aligned(x) && aligned(dx) && packable<M>(scale);
    if (!packed || !with_packs<T>(shape.width, typename Packs<T>::Backward{}, by_warps)) {
      adaln_modulate_any_bwd_kernel<T, M><<<blocks, kThreads, 0, stream>>>(
          shape, rows_per_chunk, unsigned(chunks), grad, x, scale, stats, dx, partial);
    }
  }
  const int64_t tiles = (shape.width + kTile - 1) / kTile * shape.modulation_batch * shape.groups;
  if (tiles > 0) {
    adaln_modulate_sum_bwd_kernel<M><<<unsigned(tiles), kTile * kSplits, 0, stream>>>(
        shape, chunks, shape.batch / shape.modulation_batch, partial, dshift, dscale);
  }
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

// Enough chunks to fill any device a few times over, and long ones where there are many rows, so that the
// partial sums stay small beside x. A multiple of the warps of a block.
int64_t adaln_rows_per_chunk(const AdalnShape& shape) {
  constexpr int64_t kBlocks = 1024, kLongest = 64;
  const int64_t rows = (shape.all_rows() / kBlocks + kWarps - 1) / kWarps * kWarps;
  return std::clamp<int64_t>(rows, kWarps, kLongest);
}

cudaError_t adaln_modulate_forward(const AdalnShape& shape, const void* x, Modulation shift, Modulation scale,
                                   float eps, void* out, float* stats, cudaStream_t stream) {
  if (shape.all_rows() == 0 || shape.width == 0) return cudaSuccess;
  if (shape.all_rows() > kMaxRows) return cudaErrorInvalidValue;
  with_dtypes(shape, [&](auto* x_type, auto* m_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    using M = std::remove_pointer_t<decltype(m_type)>;
    forward<T, M>(shape, static_cast<const T*>(x), shift, scale, eps, static_cast<T*>(out),
                  reinterpret_cast<float2*>(stats), stream);
  });
  return cudaGetLastError();
}

cudaError_t adaln_modulate_backward(const AdalnShape& shape, const void* grad, const void* x,
                                    Modulation scale, const float* stats, void* dx, void* dshift,
                                    void* dscale, float* partial, cudaStream_t stream) {
  if (shape.width == 0) return cudaSuccess;
  if (shape.all_rows() > kMaxRows) return cudaErrorInvalidValue;
  with_dtypes(shape, [&](auto* x_type, auto* m_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    using M = std::remove_pointer_t<decltype(m_type)>;
    backward<T, M>(shape, static_cast<const T*>(grad), static_cast<const T*>(x), scale,
                   reinterpret_cast<const float2*>(stats), static_cast<T*>(dx), static_cast<M*>(dshift),
                   static_cast<M*>(dscale), partial, stream);
  });
  return cudaGetLastError();
}

}  // namespace pavdit::cuda
