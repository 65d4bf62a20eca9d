// RMS norm of queries and keys around the tiles of attention.cuh: the weights in shared memory, and the sums
// of their gradients without atomics.
#pragma once

#include "attention.cuh"
#include "dtype.h"

namespace pavdit::cuda {

struct QKNorm {
  const void *q_weight, *k_weight;  // [E], null without norm
  const float *cosines, *sines;     // [tokens, E / 2], null without rotation
  DType dtype;                      // of the weights
  float eps;
};

struct Preparations {
  Preparation q, k;
};

__device__ __forceinline__ float weight_at(const void* weight, DType dtype, int i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(weight)[i];
    case DType::kBFloat16:
      return to_float(static_cast<const __nv_bfloat16*>(weight)[i]);
    default:
      return to_float(static_cast<const __half*>(weight)[i]);
  }
}

// shared: [2, columns], of which width are filled. All threads call it.
__device__ __forceinline__ Preparations preparations(const QKNorm& norm, int width, int columns,
                                                     float* shared) {
  const bool normed = norm.q_weight != nullptr;
  if (normed) {
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      shared[i] = weight_at(norm.q_weight, norm.dtype, i);
      shared[columns + i] = weight_at(norm.k_weight, norm.dtype, i);
    }
    __syncthreads();
  }
  const float inverse_width = 1.0f / float(width);
  return {{normed ? shared : nullptr, norm.cosines, norm.sines, inverse_width, norm.eps},
          {normed ? shared + columns : nullptr, norm.cosines, norm.sines, inverse_width, norm.eps}};
}

// The sums of one tile times `scale` to memory, back through norm and rotation. dweight still lacks `scale`.
template <typename T, int kChunks>
__device__ __forceinline__ void write_gradient(Sums<kChunks>& grad, float scale, const Preparation& how,
                                               const int (&tokens)[2], const T* const (&source)[2], int width,
                                               T* const (&target)[2], float (&dweight)[kChunks]) {
  if (how.weight != nullptr || how.cosines != nullptr) {
    Tile<T, kChunks> x{};
    if (how.weight != nullptr) load_tile(source, width, x);
    prepare_backward(how, tokens, width, x, grad, dweight);
  }
  store_tile(grad, {scale, scale}, target, width);
}

// The block's share of dq_weight and dk_weight, one warp after the other so that the order is fixed.
template <int kChunks>
__device__ __forceinline__ void write_partial(const float (&dq_weight)[kChunks],
                                              const float (&dk_weight)[kChunks], float scale, int width,
                                              float* shared,                  // [2, columns]
                                              float* __restrict__ partial) {  // [2, width], the block's
  constexpr int kColumns = kChunks * kChunkColumns;
  for (int i = threadIdx.x; i < 2 * kColumns; i += blockDim.x) shared[i] = 0.0f;
  for (int turn = 0; turn < int(blockDim.x) / kWarp; ++turn) {
    __syncthreads();
    if (int(threadIdx.x) / kWarp != turn) continue;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = lane_column(c) + lane_row();
      shared[column] += dq_weight[c];
      shared[kColumns + column] += dk_weight[c];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    partial[i] = shared[i] * scale;
    partial[width + i] = shared[kColumns + i] * scale;
  }
}

}  // namespace pavdit::cuda
