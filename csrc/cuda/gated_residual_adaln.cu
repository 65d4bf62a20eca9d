// The equations and the cost stand in gated_residual_adaln.h, the two paths (warps, any) in
// adaln_modulate.cu.
#include "adaln.cuh"
#include "gated_residual_adaln.h"

namespace pavdit::cuda {
namespace {

// ---- forward. gate.data is null where there is none: the same for all threads ----

template <typename T, typename M, int kPacks>
__global__ __launch_bounds__(kThreads, kAnyOccupancy) void gated_residual_adaln_warp_fwd_kernel(
    const AdalnShape shape,
    const T* __restrict__ x,                         // [R, D], R = B * F * N
    const T* __restrict__ y,                         // [R, D]
    const Modulation gate,                           // [B or 1, G', D]
    const Modulation shift, const Modulation scale,  // [B or 1, G, D]
    const float eps,
    T* __restrict__ residual,      // [R, D]
    T* __restrict__ modulated,     // [R, D]
    float2* __restrict__ stats) {  // [R]: mean, rstd
  constexpr int kV = kPack<T>;
  const int lane = threadIdx.x % kWarp, width = int(shape.width);
  const int64_t r = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (r >= shape.all_rows()) return;
  const unsigned group = unsigned(r) / unsigned(shape.rows);
  const M* gate_row = gate.data == nullptr ? nullptr : modulation_row<M>(shape, gate, group);
  float row[kPacks][kV];
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int column = (p * kWarp + lane) * kV;
    if (column < width) {
      float branch[kV];
      load_floats(x + r * width + column, row[p]);
      load_floats(y + r * width + column, branch);
      if (gate_row != nullptr) {
        float factor[kV];
        load_floats(gate_row + column, factor);
#pragma unroll
        for (int i = 0; i < kV; ++i) branch[i] *= factor[i];
      }
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        row[p][i] = to_float(from_float<T>(row[p][i] + branch[i]));  // the norm is of the rounded value
        sum += row[p][i];
      }
      store_floats(residual + r * width + column, row[p]);
    }
  }
  const float2 stat = centre(row, sum, lane, width, eps);
  if (lane == 0) stats[r] = stat;
  store_modulated(row, stat.y, modulation_row<M>(shape, scale, group), modulation_row<M>(shape, shift, group),
                  modulated + r * width, lane, width);
}

template <typename T, typename M>
__global__ __launch_bounds__(kThreads) void gated_residual_adaln_any_fwd_kernel(
    const AdalnShape shape,
    const T* __restrict__ x,                         // [R, D]
    const T* __restrict__ y,                         // [R, D]
    const Modulation gate,                           // [B or 1, G', D]
    const Modulation shift, const Modulation scale,  // [B or 1, G, D]
    const float eps,
    T* residual,                   // [R, D]; read again by the thread that wrote
    T* __restrict__ modulated,     // [R, D]
    float2* __restrict__ stats) {  // [R]: mean, rstd
  __shared__ float warp_sums[kWarps];
  const int64_t r = blockIdx.x;
  const unsigned group = unsigned(r) / unsigned(shape.rows);
  const M* gate_row = gate.data == nullptr ? nullptr : modulation_row<M>(shape, gate, group);
  T* row = residual + r * shape.width;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < shape.width; i += kThreads) {
    const float factor = gate_row == nullptr ? 1.0f : to_float(gate_row[i]);
    const float branch = factor * to_float(y[r * shape.width + i]);
    row[i] = from_float<T>(to_float(x[r * shape.width + i]) + branch);
    sum += to_float(row[i]);
  }
  const float2 stat = modulate_any(static_cast<const T*>(row), sum, modulation_row<M>(shape, scale, group),
                                   modulation_row<M>(shape, shift, group), shape.width, eps, warp_sums,
                                   modulated + r * shape.width);
  if (threadIdx.x == 0) stats[r] = stat;
}

// ---- backward, stage one: dx, dy, and one partial sum per chunk of rows. Block c does chunk c ----

template <typename T, typename M, int kPacks, bool kGated>
__global__ __launch_bounds__(kThreads, kAnyOccupancy) void gated_residual_adaln_warp_bwd_kernel(
    const AdalnShape shape, const int64_t rows_per_chunk, const unsigned chunks,
    const T* __restrict__ grad_residual,   // [R, D], or null
    const T* __restrict__ grad_modulated,  // [R, D]
    const T* __restrict__ residual,        // [R, D]
    const T* __restrict__ y,               // [R, D]; without a gate unused, as gate and dy
    const Modulation gate,                 // [B or 1, G', D]
    const Modulation scale,                // [B or 1, G, D]
    const float2* __restrict__ stats,      // [R]: mean, rstd
    T* __restrict__ dx,                    // [R, D]
    T* __restrict__ dy,                    // [R, D]
    float* __restrict__ partial) {         // [B, groups, chunks, kSums, D]
  constexpr int kV = kPack<T>, kSums = kGated ? 3 : 2;
  float* sums = dynamic_shared<float>();  // [kSums, D]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, width = int(shape.width);
  const Rows rows = rows_of_chunk(shape, rows_per_chunk, chunks);
  const M* gain_row = modulation_row<M>(shape, scale, rows.group);
  const M* gate_row = kGated ? modulation_row<M>(shape, gate, rows.group) : nullptr;
  float dsums[kSums][kPacks][kV] = {};  // dshift, dscale, dgate

  for (int64_t r = rows.first + warp; r < rows.last; r += kWarps) {
    const float rstd = stats[r].y;
    float h[kPacks][kV], xhat[kPacks][kV];
    const float2 mean = read_gradient(grad_modulated + r * width, residual + r * width, gain_row, stats[r],
                                      lane, width, h, xhat, dsums[0], dsums[1]);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int column = (p * kWarp + lane) * kV;
      if (column < width) {
#pragma unroll
        for (int i = 0; i < kV; ++i) h[p][i] = rstd * (h[p][i] - mean.x - xhat[p][i] * mean.y);
        if (grad_residual != nullptr) {
          float direct[kV];
          load_floats(grad_residual + r * width + column, direct);
#pragma unroll
          for (int i = 0; i < kV; ++i) h[p][i] += direct[i];
        }
        store_floats(dx + r * width + column, h[p]);
        if constexpr (kGated) {
          float values[kV];
          load_floats(y + r * width + column, values);
#pragma unroll
          for (int i = 0; i < kV; ++i) dsums[2][p][i] += h[p][i] * values[i];
          load_floats(gate_row + column, values);
#pragma unroll
          for (int i = 0; i < kV; ++i) values[i] *= h[p][i];
          store_floats(dy + r * width + column, values);
        }
      }
    }
  }
  store_partial(dsums, sums, lane, warp, width, partial + int64_t(blockIdx.x) * kSums * width);
}

template <typename T, typename M, bool kGated>
__global__ __launch_bounds__(kThreads) void gated_residual_adaln_any_bwd_kernel(
    const AdalnShape shape, const int64_t rows_per_chunk, const unsigned chunks,
    const T* __restrict__ grad_residual,   // [R, D], or null
    const T* __restrict__ grad_modulated,  // [R, D]
    const T* __restrict__ residual,        // [R, D]
    const T* __restrict__ y,               // [R, D]; without a gate unused, as gate and dy
    const Modulation gate,                 // [B or 1, G', D]
    const Modulation scale,                // [B or 1, G, D]
    const float2* __restrict__ stats,      // [R]: mean, rstd
    T* __restrict__ dx,                    // [R, D]
    T* __restrict__ dy,                    // [R, D]
    float* __restrict__ partial) {         // [B, groups, chunks, kSums, D]
  constexpr int kSums = kGated ? 3 : 2;
  __shared__ float warp_sums[kWarps];
  const int64_t width = shape.width;
  const Rows rows = rows_of_chunk(shape, rows_per_chunk, chunks);
  const M* gain = modulation_row<M>(shape, scale, rows.group);
  const M* gate_row = kGated ? modulation_row<M>(shape, gate, rows.group) : nullptr;
  float* dshift = partial + int64_t(blockIdx.x) * kSums * width;  // a thread keeps to its own columns
  float *dscale = dshift + width, *dgate = dshift + 2 * width;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    dshift[i] = dscale[i] = 0.0f;
    if constexpr (kGated) dgate[i] = 0.0f;
  }

  for (int64_t r = rows.first; r < rows.last; ++r) {
    const float2 stat = stats[r];
    const float2 mean = read_gradient_any(grad_modulated + r * width, residual + r * width, gain, stat, width,
                                          warp_sums, dshift, dscale);
    for (int64_t i = threadIdx.x; i < width; i += kThreads) {
      const float xhat = (to_float(residual[r * width + i]) - stat.x) * stat.y;
      const float h = to_float(grad_modulated[r * width + i]) * (1.0f + to_float(gain[i]));
      float total = stat.y * (h - mean.x - xhat * mean.y);
      if (grad_residual != nullptr) total += to_float(grad_residual[r * width + i]);
      dx[r * width + i] = from_float<T>(total);
      if constexpr (kGated) {
        dy[r * width + i] = from_float<T>(to_float(gate_row[i]) * total);
        dgate[i] += total * to_float(y[r * width + i]);
      }
    }
  }
}

// ---- launches ----

template <typename T, typename M>
void forward(const AdalnShape& shape, const GatedResidualAdaln& call, cudaStream_t stream) {
  const int64_t rows = shape.all_rows();
  const T *x = static_cast<const T*>(call.x), *y = static_cast<const T*>(call.y);
  T *residual = static_cast<T*>(call.residual), *modulated = static_cast<T*>(call.modulated);
  float2* stats = reinterpret_cast<float2*>(call.stats);
  const auto by_warps = [&](auto packs) {
    launch(gated_residual_adaln_warp_fwd_kernel<T, M, packs.value>, unsigned((rows + kWarps - 1) / kWarps),
           kThreads, 0, stream, shape, x, y, call.gate, call.shift, call.scale, call.eps, residual, modulated,
           stats);
  };
  const bool packed = shape.width % kPack<T> == 0 && aligned(x) && aligned(y) && aligned(residual) &&
                      aligned(modulated) && packable<M>(call.gate) && packable<M>(call.shift) &&
                      packable<M>(call.scale);
  if (!packed || !with_packs<T>(shape.width, typename Packs<T>::Forward{}, by_warps)) {
    launch(gated_residual_adaln_any_fwd_kernel<T, M>, unsigned(rows), kThreads, 0, stream, shape, x, y,
           call.gate, call.shift, call.scale, call.eps, residual, modulated, stats);
  }
}

template <typename T, typename M, bool kGated>
void backward(const AdalnShape& shape, const GatedResidualAdalnBackward& call, cudaStream_t stream) {
  const int64_t rows_per_chunk = adaln_rows_per_chunk(shape), chunks = adaln_chunks(shape, rows_per_chunk);
  const unsigned blocks = unsigned(shape.batch * shape.groups * chunks);
  if (blocks == 0) return;
  const T* grad_residual = static_cast<const T*>(call.grad_residual);
  const T* grad_modulated = static_cast<const T*>(call.grad_modulated);
  const T *residual = static_cast<const T*>(call.residual), *y = static_cast<const T*>(call.y);
  T *dx = static_cast<T*>(call.dx), *dy = static_cast<T*>(call.dy);
  const float2* stats = reinterpret_cast<const float2*>(call.stats);
  const auto by_warps = [&](auto packs) {
    launch(gated_residual_adaln_warp_bwd_kernel<T, M, packs.value, kGated>, blocks, kThreads,
           call.sums() * shape.width * sizeof(float), stream, shape, rows_per_chunk, unsigned(chunks),
           grad_residual, grad_modulated, residual, y, call.gate, call.scale, stats, dx, dy, call.partial);
  };
  // A null pointer counts as aligned.
  const bool packed = shape.width % kPack<T> == 0 && aligned(grad_residual) && aligned(grad_modulated) &&
                      aligned(residual) && aligned(y) && aligned(dx) && aligned(dy) &&
                      packable<M>(call.gate) && packable<M>(call.scale);
  if (!packed || !with_packs<T>(shape.width, typename Packs<T>::Backward{}, by_warps)) {
    launch(gated_residual_adaln_any_bwd_kernel<T, M, kGated>, blocks, kThreads, 0, stream, shape,
           rows_per_chunk, unsigned(chunks), grad_residual, grad_modulated, residual, y, call.gate,
           call.scale, stats, dx, dy, call.partial);
  }
}

}  // namespace

cudaError_t gated_residual_adaln_forward(const AdalnShape& shape, const GatedResidualAdaln& call,
                                         cudaStream_t stream) {
  if (shape.all_rows() == 0 || shape.width == 0) return cudaSuccess;
  if (shape.all_rows() > kMaxRows) return cudaErrorInvalidValue;
  with_dtypes(shape, [&](auto* x_type, auto* m_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    using M = std::remove_pointer_t<decltype(m_type)>;
    forward<T, M>(shape, call, stream);
  });
  return cudaGetLastError();
}

cudaError_t gated_residual_adaln_backward(const AdalnShape& shape, const GatedResidualAdalnBackward& call,
                                          cudaStream_t stream) {
  if (shape.width == 0) return cudaSuccess;
  if (shape.all_rows() > kMaxRows) return cudaErrorInvalidValue;
  with_dtypes(shape, [&](auto* x_type, auto* m_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    using M = std::remove_pointer_t<decltype(m_type)>;
    call.gate.data == nullptr ? backward<T, M, false>(shape, call, stream)
                              : backward<T, M, true>(shape, call, stream);
  });
  return cudaGetLastError();
}

}  // namespace pavdit::cuda
