// Registers axis_attention, axis_query_attention for CPUs.
#include "axis_attention.h"

#include <optional>
#include <tuple>

#include "axis_views.h"
#include "capability.h"
#include "tasks.h"

namespace pavdit {
namespace {

const cpu::AxisAttention& axis_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::axis_attention;
    case cpu::Capability::kAvx512:
      return cpu::avx512::axis_attention;
    case cpu::Capability::kAvx2:
      return cpu::avx2::axis_attention;
#endif
    default:
      return cpu::baseline::axis_attention;
  }
}

int64_t elements_per_problem(const AxisShape& shape) {
  return (2 * shape.queries + 2 * shape.keys) * shape.width;
}

void axis_forward(const AxisShape& shape, const AxisInputs& in, const AxisRows<void*>& out) {
  const auto& kernels = axis_kernels();
  torch::stable::parallel_for(0, shape.problems(), rows_per_task(elements_per_problem(shape)),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::axis_scratch(shape));
                                kernels.forward(shape, in, out, scratch.data(), begin, end);
                              });
}

void axis_backward(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients) {
  const auto& kernels = axis_kernels();
  torch::stable::parallel_for(0, cpu::axis_chunks(shape),
                              rows_per_task(elements_per_problem(shape) * cpu::kAxisProblemsPerChunk),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::axis_scratch(shape));
                                kernels.backward(shape, in, gradients, scratch.data(), begin, end);
                              });
}

Tensor axis_attention(const Tensor& qkv_any, int64_t axis, const std::optional<Tensor>& valid,
                      const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
                      const std::optional<Tensor>& rope) {
  const Tensor qkv = with_dense_rows(qkv_any);
  const AxisOperands operands(qkv, axis, valid, q_weight, k_weight, rope);
  Tensor out = new_empty(qkv, sizes_without_parts(qkv));
  axis_forward(operands.shape, operands.in, axis_rows(out, axis, out.mutable_data_ptr()));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> axis_attention_backward(const Tensor& grad_any, const Tensor& qkv_any,
                                                           int64_t axis, const std::optional<Tensor>& valid,
                                                           const std::optional<Tensor>& q_weight,
                                                           const std::optional<Tensor>& k_weight,
                                                           const std::optional<Tensor>& rope) {
  const Tensor qkv = with_dense_rows(qkv_any), grad = with_dense_rows(grad_any);
  const AxisOperands operands(qkv, axis, valid, q_weight, k_weight, rope);
  const AxisShape& shape = operands.shape;
  check_axis_grad(grad, qkv);
  Tensor dqkv = torch::stable::new_empty(qkv, qkv.sizes());
  const Tensor& like = q_weight ? *q_weight : qkv;
  const int64_t weights = q_weight ? shape.width : 0;
  Tensor dq_weight = torch::stable::new_empty(like, {weights});
  Tensor dk_weight = torch::stable::new_empty(like, {weights});
  const int64_t chunks = weights > 0 ? cpu::axis_chunks(shape) : 0;
  Tensor partial = torch::stable::new_empty(qkv, {chunks, 2, weights}, ScalarType::Float);

  float* partial_data = static_cast<float*>(partial.mutable_data_ptr());
  void* dqkv_data = dqkv.mutable_data_ptr();
  axis_backward(shape, operands.in,
                {axis_rows(grad, axis, grad.const_data_ptr()), axis_part(dqkv, axis, 0, dqkv_data),
                 axis_part(dqkv, axis, 1, dqkv_data), axis_part(dqkv, axis, 2, dqkv_data), partial_data});
  if (weights > 0) {
    Scratch scratch(4 * weights);
    axis_kernels().sum_partials(shape, partial_data, dq_weight.mutable_data_ptr(),
                                dk_weight.mutable_data_ptr(), scratch.data());
  }
  return {dqkv, dq_weight, dk_weight};
}

Tensor axis_query_attention(const Tensor& q_any, const Tensor& kv_any, int64_t axis,
                            const std::optional<Tensor>& valid) {
  const Tensor q = with_dense_rows(q_any), kv = with_dense_rows(kv_any);
  const AxisOperands operands(q, kv, axis, valid);
  Tensor out = new_empty(q, sizes_without_parts(q));
  axis_forward(operands.shape, operands.in, axis_rows(out, axis, out.mutable_data_ptr()));
  return out;
}

std::tuple<Tensor, Tensor> axis_query_attention_backward(const Tensor& grad_any, const Tensor& q_any,
                                                         const Tensor& kv_any, int64_t axis,
                                                         const std::optional<Tensor>& valid) {
  const Tensor q = with_dense_rows(q_any), kv = with_dense_rows(kv_any), grad = with_dense_rows(grad_any);
  const AxisOperands operands(q, kv, axis, valid);
  check_axis_grad(grad, q);
  Tensor dq = torch::stable::new_empty(q, q.sizes()), dkv = torch::stable::new_empty(kv, kv.sizes());
  void* dkv_data = dkv.mutable_data_ptr();
  axis_backward(operands.shape, operands.in,
                {axis_rows(grad, axis, grad.const_data_ptr()), axis_part(dq, axis, 0, dq.mutable_data_ptr()),
                 axis_part(dkv, axis, 0, dkv_data), axis_part(dkv, axis, 1, dkv_data), nullptr});
  return {dq, dkv};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("axis_attention", TORCH_BOX(&pavdit::axis_attention));
  m.impl("axis_attention_backward", TORCH_BOX(&pavdit::axis_attention_backward));
  m.impl("axis_query_attention", TORCH_BOX(&pavdit::axis_query_attention));
  m.impl("axis_query_attention_backward", TORCH_BOX(&pavdit::axis_query_attention_backward));
}
