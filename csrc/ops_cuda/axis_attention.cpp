// Registers axis_attention, axis_query_attention for CUDA.
#include "axis_attention.h"

#include <optional>
#include <tuple>

#include "axis_views.h"
#include "stream.h"

namespace pavdit {
namespace {

// The weights, the mask and the table of angles lie beside the input.
void check_beside(const Tensor& t, const Tensor& like, const char* argument) {
  STD_TORCH_CHECK(t.is_cuda() == like.is_cuda() && t.get_device_index() == like.get_device_index(),
                  "axis_attention: want ", argument, " on the device of its input, got another");
}

void check_beside(const std::optional<Tensor>& t, const Tensor& like, const char* argument) {
  if (t) check_beside(*t, like, argument);
}

Tensor axis_attention(const Tensor& qkv_any, int64_t axis, const std::optional<Tensor>& valid,
                      const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
                      const std::optional<Tensor>& rope) {
  check_beside(valid, qkv_any, "valid");
  check_beside(q_weight, qkv_any, "q_weight");
  check_beside(rope, qkv_any, "rope");
  const DeviceGuard guard(qkv_any.get_device_index());
  const Tensor qkv = with_dense_rows(qkv_any);
  const AxisOperands operands(qkv, axis, valid, q_weight, k_weight, rope);
  Tensor out = torch::stable::new_empty(qkv, sizes_without_parts(qkv));
  STD_CUDA_CHECK(cuda::axis_attention_forward(
      operands.shape, operands.in, axis_rows(out, axis, out.mutable_data_ptr()), current_stream(out)));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> axis_attention_backward(const Tensor& grad_any, const Tensor& qkv_any,
                                                           int64_t axis, const std::optional<Tensor>& valid,
                                                           const std::optional<Tensor>& q_weight,
                                                           const std::optional<Tensor>& k_weight,
                                                           const std::optional<Tensor>& rope) {
  check_beside(grad_any, qkv_any, "grad");
  check_beside(valid, qkv_any, "valid");
  check_beside(q_weight, qkv_any, "q_weight");
  check_beside(rope, qkv_any, "rope");
  const DeviceGuard guard(qkv_any.get_device_index());
  const Tensor qkv = with_dense_rows(qkv_any), grad = with_dense_rows(grad_any);
  const AxisOperands operands(qkv, axis, valid, q_weight, k_weight, rope);
  const AxisShape& shape = operands.shape;
  check_axis_grad(grad, qkv);
  Tensor dqkv = torch::stable::new_empty(qkv, qkv.sizes());
  const Tensor& like = q_weight ? *q_weight : qkv;
  const int64_t weights = q_weight ? shape.width : 0;
  Tensor dq_weight = torch::stable::new_empty(like, {weights});
  Tensor dk_weight = torch::stable::new_empty(like, {weights});
  const int64_t chunks = weights > 0 ? cuda::axis_chunks(shape) : 0;
  Tensor partial = torch::stable::new_empty(qkv, {chunks, 2, weights}, ScalarType::Float);

  float* partial_data = static_cast<float*>(partial.mutable_data_ptr());
  void* dqkv_data = dqkv.mutable_data_ptr();
  const AxisGradients gradients = {axis_rows(grad, axis, grad.const_data_ptr()),
                                   axis_part(dqkv, axis, 0, dqkv_data), axis_part(dqkv, axis, 1, dqkv_data),
                                   axis_part(dqkv, axis, 2, dqkv_data), partial_data};
  STD_CUDA_CHECK(cuda::axis_attention_backward(shape, operands.in, gradients, dq_weight.mutable_data_ptr(),
                                               dk_weight.mutable_data_ptr(), current_stream(qkv)));
  return {dqkv, dq_weight, dk_weight};
}

Tensor axis_query_attention(const Tensor& q_any, const Tensor& kv_any, int64_t axis,
                            const std::optional<Tensor>& valid) {
  check_beside(q_any, kv_any, "q");
  check_beside(valid, kv_any, "valid");
  const DeviceGuard guard(kv_any.get_device_index());
  const Tensor q = with_dense_rows(q_any), kv = with_dense_rows(kv_any);
  const AxisOperands operands(q, kv, axis, valid);
  Tensor out = torch::stable::new_empty(q, sizes_without_parts(q));
  STD_CUDA_CHECK(cuda::axis_attention_forward(
      operands.shape, operands.in, axis_rows(out, axis, out.mutable_data_ptr()), current_stream(out)));
  return out;
}

std::tuple<Tensor, Tensor> axis_query_attention_backward(const Tensor& grad_any, const Tensor& q_any,
                                                         const Tensor& kv_any, int64_t axis,
                                                         const std::optional<Tensor>& valid) {
  check_beside(grad_any, kv_any, "grad");
  check_beside(q_any, kv_any, "q");
  check_beside(valid, kv_any, "valid");
  const DeviceGuard guard(kv_any.get_device_index());
  const Tensor q = with_dense_rows(q_any), kv = with_dense_rows(kv_any), grad = with_dense_rows(grad_any);
  const AxisOperands operands(q, kv, axis, valid);
  check_axis_grad(grad, q);
  Tensor dq = torch::stable::new_empty(q, q.sizes()), dkv = torch::stable::new_empty(kv, kv.sizes());
  void* dkv_data = dkv.mutable_data_ptr();
  const AxisGradients gradients = {
      axis_rows(grad, axis, grad.const_data_ptr()), axis_part(dq, axis, 0, dq.mutable_data_ptr()),
      axis_part(dkv, axis, 0, dkv_data), axis_part(dkv, axis, 1, dkv_data), nullptr};
  STD_CUDA_CHECK(cuda::axis_attention_backward(operands.shape, operands.in, gradients, nullptr, nullptr,
                                               current_stream(kv)));
  return {dq, dkv};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CUDA, m) {
  m.impl("axis_attention", TORCH_BOX(&pavdit::axis_attention));
  m.impl("axis_attention_backward", TORCH_BOX(&pavdit::axis_attention_backward));
  m.impl("axis_query_attention", TORCH_BOX(&pavdit::axis_query_attention));
  m.impl("axis_query_attention_backward", TORCH_BOX(&pavdit::axis_query_attention_backward));
}
