// Kernels for the tests of the emulator itself, called through ctypes.
#include <cstring>

#include "launch.cuh"
#include "mma.cuh"
#include "reduce.cuh"

namespace pavdit::cuda {
namespace {

// out[block]: sum of the thread numbers, by a reduction in shared memory; without the barrier it is wrong.
__global__ void sum_kernel(const bool with_barrier, float* out) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = float(threadIdx.x);
  if (with_barrier) __syncthreads();
  if (threadIdx.x % blockDim.x == 0) {
    float sum = 0.0f;
    for (unsigned i = 0; i < blockDim.x; ++i) sum += shared[i];
    out[blockIdx.x] = sum;
  }
}

__global__ void divergent_kernel(float* out) {
  float v = float(threadIdx.x);
  if (threadIdx.x < 16) v = warp_sum(v);
  out[threadIdx.x] = v;
}

// d = a b for a [16, 16], b [16, 8], and a's upper left quarter transposed.
__global__ void mma_kernel(const __nv_bfloat16* a, const __nv_bfloat16* b, float* d, __nv_bfloat16* turned) {
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [](const __nv_bfloat16* first, int step) {
    return pack_pair<__nv_bfloat16>(to_float(first[0]), to_float(first[step]));
  };
  const uint32_t left[4] = {pair(a + g * 16 + 2 * t, 1), pair(a + (g + 8) * 16 + 2 * t, 1),
                            pair(a + g * 16 + 2 * t + 8, 1), pair(a + (g + 8) * 16 + 2 * t + 8, 1)};
  float sums[4] = {};
  mma<__nv_bfloat16>(sums, left, pair(b + 2 * t * 8 + g, 8), pair(b + (2 * t + 8) * 8 + g, 8));
  for (unsigned i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
  const uint32_t quarter = transpose_8x8(left[0]);
  memcpy(turned + g * 8 + 2 * t, &quarter, sizeof(quarter));
}

}  // namespace

extern "C" {

const char* run_sum(bool with_barrier, float* out) {
  launch(sum_kernel, 2, 64, 64 * sizeof(float), nullptr, with_barrier, out);
  return emulator::take_fault();
}

const char* run_divergent(float* out) {
  launch(divergent_kernel, 1, 32, 0, nullptr, out);
  return emulator::take_fault();
}

const char* run_mma(const void* a, const void* b, float* d, void* turned) {
  launch(mma_kernel, 1, 32, 0, nullptr, static_cast<const __nv_bfloat16*>(a),
         static_cast<const __nv_bfloat16*>(b), d, static_cast<__nv_bfloat16*>(turned));
  return emulator::take_fault();
}
}

}  // namespace pavdit::cuda
