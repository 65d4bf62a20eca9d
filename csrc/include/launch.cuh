// The two things that CUDA's language extensions say and C++ has no word for, each in one place: a launch and
// the shared memory that it brings. tests/emulator runs kernels on the host by giving these two another
// meaning.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace pavdit::cuda {

// kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...). Errors: cudaGetLastError.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int64_t threads, size_t shared_bytes,
            cudaStream_t stream, const Arguments&... arguments) {
#if defined(PAVDIT_EMULATOR)
  emulator::launch(unsigned(blocks), unsigned(threads), shared_bytes,
                   [&] { kernel(Parameters(arguments)...); });
#else
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
#endif
}

// The shared_bytes of the launch, aligned for 16-byte accesses.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(PAVDIT_EMULATOR)
  return static_cast<T*>(emulator::dynamic_shared());
#else
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
#endif
}

}  // namespace pavdit::cuda
