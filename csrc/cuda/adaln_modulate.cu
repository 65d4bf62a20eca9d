// The equations and the cost stand in adaln_modulate.h.
//
// Two paths. Warps: a warp holds a row in registers and reads x once, 16 bytes per thread; for the widths of
// our models. Any: a block per row, element by element, for odd widths and unaligned tensors.
#include <algorithm>

#include "adaln.cuh"

namespace pavdit::cuda {
namespace {

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
  const float2 stat = centre(row, sum, lane, width, eps);
  if (lane == 0) stats[r] = stat;
  const unsigned group = unsigned(r) / unsigned(shape.rows);
  store_modulated(row, stat.y, modulation_row<M>(shape, scale, group), modulation_row<M>(shape, shift, group),
                  out + r * width, lane, width);
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
  const unsigned group = unsigned(r) / unsigned(shape.rows);
  const float2 stat =
      modulate_any(row, sum, modulation_row<M>(shape, scale, group), modulation_row<M>(shape, shift, group),
                   shape.width, eps, warp_sums, out + r * shape.width);
  if (threadIdx.x == 0) stats[r] = stat;
}

// ---- backward, stage one: dx, and one partial sum per chunk of rows. Block c does chunk c ----

template <typename T, typename M, int kPacks>
__global__ __launch_bounds__(kThreads, kAnyOccupancy) void adaln_modulate_warp_bwd_kernel(
    const AdalnShape shape, const int64_t rows_per_chunk, const unsigned chunks,
    const T* __restrict__ grad,           // [R, D]
    const T* __restrict__ x,              // [R, D]
    const Modulation scale,               // [B or 1, G, D]
    const float2* __restrict__ stats,     // [R]: mean, rstd
    T* __restrict__ dx,                   // [R, D]
    float* __restrict__ partial) {        // [B, G, chunks, 2, D]
  float* sums = dynamic_shared<float>();  // [2, D]
  constexpr int kV = kPack<T>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, width = int(shape.width);
  const Rows rows = rows_of_chunk(shape, rows_per_chunk, chunks);
  const M* gain_row = modulation_row<M>(shape, scale, rows.group);
  float dsums[2][kPacks][kV] = {};  // dshift, dscale

  for (int64_t r = rows.first + warp; r < rows.last; r += kWarps) {
    const float rstd = stats[r].y;
    float h[kPacks][kV], xhat[kPacks][kV];
    const float2 mean = read_gradient(grad + r * width, x + r * width, gain_row, stats[r], lane, width, h,
                                      xhat, dsums[0], dsums[1]);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int column = (p * kWarp + lane) * kV;
      if (column < width) {
#pragma unroll
        for (int i = 0; i < kV; ++i) h[p][i] = rstd * (h[p][i] - mean.x - xhat[p][i] * mean.y);
        store_floats(dx + r * width + column, h[p]);
      }
    }
  }
  store_partial(dsums, sums, lane, warp, width, partial + int64_t(blockIdx.x) * 2 * width);
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
    const float2 mean =
        read_gradient_any(grad + r * width, x + r * width, gain, stat, width, warp_sums, dshift, dscale);
    for (int64_t i = threadIdx.x; i < width; i += kThreads) {
      const float xhat = (to_float(x[r * width + i]) - stat.x) * stat.y;
      const float h = to_float(grad[r * width + i]) * (1.0f + to_float(gain[i]));
      dx[r * width + i] = from_float<T>(stat.y * (h - mean.x - xhat * mean.y));
    }
  }
}

// ---- backward, stage two: add the partial sums of a group up ----

constexpr int kTile = 32;    // columns of a block: one 128-byte line of float32
constexpr int kSplits = 16;  // threads that share the chunks of a column

template <typename M>
__global__ __launch_bounds__(kTile* kSplits, kAnyOccupancy) void adaln_modulate_sum_bwd_kernel(
    const PartialSums sums,
    M* __restrict__ first,     // [rows, D]
    M* __restrict__ second) {  // [rows, D], or null
  __shared__ float2 split_sums[kSplits][kTile];
  const unsigned tiles = unsigned((sums.width + kTile - 1) / kTile);
  const int64_t m = blockIdx.x / tiles;  // row of the gradients
  const int64_t column = int64_t(blockIdx.x % tiles) * kTile + threadIdx.x % kTile;
  const int split = threadIdx.x / kTile;
  const int64_t other_sum = second == nullptr ? 0 : sums.width;  // no branch in the loop: that spills
  float2 sum = make_float2(0.0f, 0.0f);
  if (column < sums.width) {
    for (int64_t copy = 0; copy < sums.copies; ++copy) {
      const float* source =
          sums.partial + (copy * sums.rows + m) * sums.chunks * sums.stride + sums.column + column;
      for (int64_t chunk = split; chunk < sums.chunks; chunk += kSplits) {
        sum.x += source[chunk * sums.stride];
        sum.y += source[chunk * sums.stride + other_sum];
      }
    }
  }
  split_sums[split][threadIdx.x % kTile] = sum;
  __syncthreads();
  if (split == 0 && column < sums.width) {
    for (int other = 1; other < kSplits; ++other) {
      sum.x += split_sums[other][threadIdx.x].x;
      sum.y += split_sums[other][threadIdx.x].y;
    }
    first[m * sums.width + column] = from_float<M>(sum.x);
    if (second != nullptr) second[m * sums.width + column] = from_float<M>(sum.y);
  }
}

// ---- launches ----

template <typename T, typename M>
void forward(const AdalnShape& shape, const T* x, Modulation shift, Modulation scale, float eps, T* out,
             float2* stats, cudaStream_t stream) {
  const int64_t rows = shape.all_rows();
  const auto by_warps = [&](auto packs) {
    launch(adaln_modulate_warp_fwd_kernel<T, M, packs.value>, unsigned((rows + kWarps - 1) / kWarps),
           kThreads, 0, stream, shape, x, shift, scale, eps, out, stats);
  };
  const bool packed =
      shape.width % kPack<T> == 0 && aligned(x) && aligned(out) && packable<M>(shift) && packable<M>(scale);
  if (!packed || !with_packs<T>(shape.width, typename Packs<T>::Forward{}, by_warps)) {
    launch(adaln_modulate_any_fwd_kernel<T, M>, unsigned(rows), kThreads, 0, stream, shape, x, shift, scale,
           eps, out, stats);
  }
}

template <typename T, typename M>
void backward(const AdalnShape& shape, const T* grad, const T* x, Modulation scale, const float2* stats,
              T* dx, float* partial, cudaStream_t stream) {
  const int64_t rows_per_chunk = adaln_rows_per_chunk(shape), chunks = adaln_chunks(shape, rows_per_chunk);
  const unsigned blocks = unsigned(shape.batch * shape.groups * chunks);
  if (blocks > 0) {
    const auto by_warps = [&](auto packs) {
      launch(adaln_modulate_warp_bwd_kernel<T, M, packs.value>, blocks, kThreads,
             2 * shape.width * sizeof(float), stream, shape, rows_per_chunk, unsigned(chunks), grad, x, scale,
             stats, dx, partial);
    };
    const bool packed =
        shape.width % kPack<T> == 0 && aligned(grad) && aligned(x) && aligned(dx) && packable<M>(scale);
    if (!packed || !with_packs<T>(shape.width, typename Packs<T>::Backward{}, by_warps)) {
      launch(adaln_modulate_any_bwd_kernel<T, M>, blocks, kThreads, 0, stream, shape, rows_per_chunk,
             unsigned(chunks), grad, x, scale, stats, dx, partial);
    }
  }
}

template <typename M>
void sum_partials(const PartialSums& sums, M* first, M* second, cudaStream_t stream) {
  const int64_t tiles = (sums.width + kTile - 1) / kTile * sums.rows;
  if (tiles == 0) return;
  launch(adaln_modulate_sum_bwd_kernel<M>, unsigned(tiles), kTile * kSplits, 0, stream, sums, first, second);
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
                   reinterpret_cast<const float2*>(stats), static_cast<T*>(dx), partial, stream);
  });
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const int64_t chunks = adaln_chunks(shape, adaln_rows_per_chunk(shape));
  return adaln_sum_partials(partial_sums(shape, scale, partial, chunks, 2, 0), dshift, dscale, stream);
}

cudaError_t adaln_sum_partials(const PartialSums& sums, void* first, void* second, cudaStream_t stream) {
  switch (sums.dtype) {
    case DType::kFloat32:
      sum_partials(sums, static_cast<float*>(first), static_cast<float*>(second), stream);
      break;
    case DType::kBFloat16:
      sum_partials(sums, static_cast<__nv_bfloat16*>(first), static_cast<__nv_bfloat16*>(second), stream);
      break;
    case DType::kFloat16:
      sum_partials(sums, static_cast<__half*>(first), static_cast<__half*>(second), stream);
      break;
  }
  return cudaGetLastError();
}

}  // namespace pavdit::cuda
