// Sums over a warp and over a block, in a fixed order.
#pragma once

namespace pavdit::cuda {

constexpr int kWarp = 32;

// Every lane gets the sum over the warp.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}

// Every thread gets the sum over the block. shared holds one float per warp; all threads call it.
template <int kThreads>
__device__ __forceinline__ float block_sum(float v, float* shared) {
  static_assert(kThreads % kWarp == 0, "want whole warps");
  v = warp_sum(v);
  __syncthreads();  // the sum before this one may still be read
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = v;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += shared[warp];
  return sum;
}

}  // namespace pavdit::cuda
