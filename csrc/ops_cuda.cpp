// Registers the CUDA kernels. Guards the device, checks, allocates from torch's allocator, launches on the
// current stream; the kernels in csrc/cuda see pointers only. Nothing here waits for the device.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <tuple>

#include "checks.h"

namespace pavdit {
namespace {

using torch::stable::accelerator::DeviceGuard;

cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// ---- adaln_modulate ----

std::tuple<Tensor, Tensor> adaln_modulate(const Tensor& x_any, const Tensor& shift_any,
                                          const Tensor& scale_any, double eps) {
  const AdalnShape shape = adaln_shape(x_any, scale_any);
  check_like(shift_any, scale_any, "adaln_modulate", "shift");
  const DeviceGuard guard(x_any.get_device_index());
  const Tensor x = torch::stable::contiguous(x_any);
  const Tensor shift = with_dense_rows(shift_any), scale = with_dense_rows(scale_any);
  Tensor out = torch::stable::new_empty(x, x.sizes());
  Tensor stats = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), 2}, ScalarType::Float);
  STD_CUDA_CHECK(cuda::adaln_modulate_forward(
      shape, x.const_data_ptr(), modulation(shift), modulation(scale), float(eps), out.mutable_data_ptr(),
      static_cast<float*>(stats.mutable_data_ptr()), current_stream(x)));
  return {out, stats};
}

std::tuple<Tensor, Tensor, Tensor> adaln_modulate_backward(const Tensor& grad_any, const Tensor& x_any,
                                                           const Tensor& scale_any, const Tensor& stats) {
  const AdalnShape shape = adaln_shape(x_any, scale_any);
  check_like(grad_any, x_any, "adaln_modulate_backward", "grad");
  check_stats(stats, shape);
  const DeviceGuard guard(x_any.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_any), x = torch::stable::contiguous(x_any);
  const Tensor scale = with_dense_rows(scale_any);
  Tensor dx = torch::stable::new_empty(x, x.sizes());
  Tensor dshift = torch::stable::new_empty(scale, scale.sizes());
  Tensor dscale = torch::stable::new_empty(scale, scale.sizes());
  const int64_t chunks = shape.batch * shape.groups * adaln_chunks(shape, cuda::adaln_rows_per_chunk(shape));
  Tensor partial = torch::stable::new_empty(x, {chunks, 2, shape.width}, ScalarType::Float);
  STD_CUDA_CHECK(cuda::adaln_modulate_backward(
      shape, grad.const_data_ptr(), x.const_data_ptr(), modulation(scale),
      static_cast<const float*>(stats.const_data_ptr()), dx.mutable_data_ptr(), dshift.mutable_data_ptr(),
      dscale.mutable_data_ptr(), static_cast<float*>(partial.mutable_data_ptr()), current_stream(x)));
  return {dx, dshift, dscale};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CUDA, m) {
  m.impl("adaln_modulate", TORCH_BOX(&pavdit::adaln_modulate));
  m.impl("adaln_modulate_backward", TORCH_BOX(&pavdit::adaln_modulate_backward));
}
