// Registers adaln_modulate for CUDA.
#include "adaln_modulate.h"

#include <tuple>

#include "adaln_views.h"
#include "stream.h"

namespace pavdit {
namespace {

std::tuple<Tensor, Tensor> adaln_modulate(const Tensor& x_any, const Tensor& shift_any,
                                          const Tensor& scale_any, double eps) {
  const AdalnShape shape = adaln_shape("adaln_modulate", x_any, scale_any);
  check_like(shift_any, scale_any, "adaln_modulate", "shift");
  const DeviceGuard guard(x_any.get_device_index());
  const Tensor x = torch::stable::contiguous(x_any);
  const Tensor shift = with_dense_rows(shift_any), scale = with_dense_rows(scale_any);
  Tensor out = torch::stable::new_empty(x, x.sizes());
  Tensor stats = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), 2}, ScalarType::Float);
  STD_CUDA_CHECK(cuda::adaln_modulate_forward(
      shape, x.const_data_ptr(), modulation(shape, shift), modulation(shape, scale), float(eps),
      out.mutable_data_ptr(), static_cast<float*>(stats.mutable_data_ptr()), current_stream(x)));
  return {out, stats};
}

std::tuple<Tensor, Tensor, Tensor> adaln_modulate_backward(const Tensor& grad_any, const Tensor& x_any,
                                                           const Tensor& scale_any, const Tensor& stats) {
  const AdalnShape shape = adaln_shape("adaln_modulate_backward", x_any, scale_any);
  check_like(grad_any, x_any, "adaln_modulate_backward", "grad");
  check_stats("adaln_modulate_backward", stats, x_any);
  const DeviceGuard guard(x_any.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_any), x = torch::stable::contiguous(x_any);
  const Tensor scale = with_dense_rows(scale_any);
  Tensor dx = torch::stable::new_empty(x, x.sizes());
  Tensor dshift = torch::stable::new_empty(scale, scale.sizes());
  Tensor dscale = torch::stable::new_empty(scale, scale.sizes());
  const int64_t chunks = shape.batch * shape.groups * adaln_chunks(shape, cuda::adaln_rows_per_chunk(shape));
  Tensor partial = torch::stable::new_empty(x, {chunks, 2, shape.width}, ScalarType::Float);
  STD_CUDA_CHECK(cuda::adaln_modulate_backward(
      shape, grad.const_data_ptr(), x.const_data_ptr(), modulation(shape, scale),
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
