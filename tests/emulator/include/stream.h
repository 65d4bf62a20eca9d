// Stands in for csrc/include/stream.h: the registrations of csrc/ops_cuda, for CPU tensors, as ops of the
// library pavdit_emulated.
#pragma once

#include <cuda_runtime_api.h>

#include "checks.h"

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(library, key, m) \
  _STABLE_TORCH_LIBRARY_IMPL(pavdit_emulated, CPU, m, C10_UID)

#undef STD_CUDA_CHECK
#define STD_CUDA_CHECK(...)                                                                        \
  do {                                                                                             \
    const cudaError_t error = __VA_ARGS__;                                                         \
    const std::string fault = emulator::take_fault();                                              \
    STD_TORCH_CHECK(error == cudaSuccess && fault.empty(), "CUDA error ", int(error), " ", fault); \
  } while (false)

namespace pavdit {

struct DeviceGuard {
  explicit DeviceGuard(int) {}
};

inline cudaStream_t current_stream(const Tensor&) {
  return nullptr;
}

}  // namespace pavdit
