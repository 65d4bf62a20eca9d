// Registers multiscale_temporal_attention for CUDA.
#include "multiscale_temporal_attention.h"

#include <optional>
#include <tuple>

#include "multiscale_views.h"
#include "stream.h"

namespace pavdit {
namespace {

std::tuple<Tensor, Tensor, Tensor> multiscale_temporal_attention(const Tensor& qkv_any) {
  const MultiscaleShape shape = multiscale_shape(qkv_any, kMultiscaleCudaMaxFrames);
  const DeviceGuard guard(qkv_any.get_device_index());
  const Tensor qkv = with_dense_rows(qkv_any);
  const std::array<Tensor, kRates> results = multiscale_results(shape, qkv);
  const MultiscaleOutputs out = multiscale_outputs(results);
  STD_CUDA_CHECK(
      cuda::multiscale_temporal_attention_forward(shape, multiscale_inputs(qkv), out, current_stream(qkv)));
  return {results[0], results[1], results[2]};
}

Tensor multiscale_temporal_attention_backward(const std::optional<Tensor>& grad_full,
                                              const std::optional<Tensor>& grad_half,
                                              const std::optional<Tensor>& grad_quarter,
                                              const Tensor& qkv_any) {
  const MultiscaleShape shape = multiscale_shape(qkv_any, kMultiscaleCudaMaxFrames);
  const DeviceGuard guard(qkv_any.get_device_index());
  const Tensor qkv = with_dense_rows(qkv_any);
  const ThreeRates grads = multiscale_grads(shape, qkv, {grad_full, grad_half, grad_quarter});
  const Tensor dqkv = torch::stable::new_empty(qkv, qkv.sizes());
  const MultiscaleGradients gradients = multiscale_gradients(grads, dqkv);
  STD_CUDA_CHECK(cuda::multiscale_temporal_attention_backward(shape, multiscale_inputs(qkv), gradients,
                                                              current_stream(qkv)));
  return dqkv;
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CUDA, m) {
  m.impl("multiscale_temporal_attention", TORCH_BOX(&pavdit::multiscale_temporal_attention));
  m.impl("multiscale_temporal_attention_backward",
         TORCH_BOX(&pavdit::multiscale_temporal_attention_backward));
}
