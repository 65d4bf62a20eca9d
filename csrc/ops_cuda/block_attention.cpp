// Registers block_attention and block_cross_attention for CUDA.
#include "block_attention.h"

#include <optional>
#include <tuple>

#include "block_views.h"
#include "stream.h"

namespace pavdit {
namespace {

// For the kernels' 16-byte accesses: the tensor itself, or a copy where only a copy has such rows.
Tensor with_aligned_rows(const Tensor& any) {
  const Tensor t = with_dense_rows(any);
  const int64_t elements = t.scalar_type() == ScalarType::Float ? 4 : 8;
  if (t.dim() == 0 || t.size(-1) % elements != 0) return t;
  bool aligned = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
  for (int64_t axis = 0; axis + 1 < t.dim(); ++axis) {
    aligned = aligned && (t.size(axis) == 1 || t.stride(axis) % elements == 0);
  }
  return aligned ? t : torch::stable::clone(t);
}

Tensor block_attention(const Tensor& q_any, const Tensor& k_any, const Tensor& v_any,
                       const std::vector<int64_t>& block, const std::optional<Tensor>& valid,
                       const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
                       const std::optional<Tensor>& rope) {
  const DeviceGuard guard(q_any.get_device_index());
  const Tensor q = with_aligned_rows(q_any), k = with_aligned_rows(k_any), v = with_aligned_rows(v_any);
  const BlockOperands operands("block_attention", q, k, v, block, valid, q_weight, k_weight, rope);
  Tensor out = torch::stable::new_empty(q, q.sizes());
  const BlockRows<void*> rows = block_rows(operands.shape, out, out.mutable_data_ptr());
  STD_CUDA_CHECK(cuda::block_attention_forward(operands.shape, &operands.in, &rows, current_stream(q)));
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> block_attention_backward(
    const Tensor& grad_any, const Tensor& q_any, const Tensor& k_any, const Tensor& v_any,
    const std::vector<int64_t>& block, const std::optional<Tensor>& valid,
    const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
    const std::optional<Tensor>& rope) {
  const char* op = "block_attention_backward";
  const DeviceGuard guard(q_any.get_device_index());
  const Tensor grad = with_aligned_rows(grad_any);
  const Tensor q = with_aligned_rows(q_any), k = with_aligned_rows(k_any), v = with_aligned_rows(v_any);
  const BlockOperands operands(op, q, k, v, block, valid, q_weight, k_weight, rope);
  const BlockShape& shape = operands.shape;
  check_like(grad, q, op, "grad");
  Tensor dq = torch::stable::new_empty(q, q.sizes());
  Tensor dk = torch::stable::new_empty(q, q.sizes());
  Tensor dv = torch::stable::new_empty(q, q.sizes());
  const Tensor& like = q_weight ? *q_weight : q;
  const int64_t weights = q_weight ? shape.width : 0;
  Tensor dq_weight = torch::stable::new_empty(like, {weights});
  Tensor dk_weight = torch::stable::new_empty(like, {weights});
  const int64_t chunks = weights > 0 ? cuda::block_chunks(shape) : 0;
  Tensor partial = torch::stable::new_empty(q, {chunks, 2, weights}, ScalarType::Float);

  float* partial_data = static_cast<float*>(partial.mutable_data_ptr());
  const BlockGradients gradients{block_rows(shape, grad, grad.const_data_ptr()),
                                 block_rows(shape, dq, dq.mutable_data_ptr()),
                                 block_rows(shape, dk, dk.mutable_data_ptr()),
                                 block_rows(shape, dv, dv.mutable_data_ptr()), partial_data};
  STD_CUDA_CHECK(cuda::block_attention_backward(shape, &operands.in, &gradients, dq_weight.mutable_data_ptr(),
                                                dk_weight.mutable_data_ptr(), current_stream(q)));
  return {dq, dk, dv, dq_weight, dk_weight};
}

std::tuple<Tensor, Tensor> block_cross_attention(const Tensor& a_any, const Tensor& b_any,
                                                 const std::vector<int64_t>& block) {
  const DeviceGuard guard(a_any.get_device_index());
  const Tensor a = with_aligned_rows(a_any), b = with_aligned_rows(b_any);
  const BlockCrossOperands operands("block_cross_attention", a, b, block);
  const std::vector<int64_t> sizes = block_sizes_without_parts(a);
  Tensor out_a = torch::stable::new_empty(a, sizes), out_b = torch::stable::new_empty(a, sizes);
  const BlockRows<void*> rows[2] = {block_rows(operands.shape, out_a, out_a.mutable_data_ptr()),
                                    block_rows(operands.shape, out_b, out_b.mutable_data_ptr())};
  STD_CUDA_CHECK(cuda::block_attention_forward(operands.shape, operands.in, rows, current_stream(a)));
  return {out_a, out_b};
}

std::tuple<Tensor, Tensor> block_cross_attention_backward(const Tensor& grad_a_any, const Tensor& grad_b_any,
                                                          const Tensor& a_any, const Tensor& b_any,
                                                          const std::vector<int64_t>& block) {
  const char* op = "block_cross_attention_backward";
  const DeviceGuard guard(a_any.get_device_index());
  const Tensor grad_a = with_aligned_rows(grad_a_any), grad_b = with_aligned_rows(grad_b_any);
  const Tensor a = with_aligned_rows(a_any), b = with_aligned_rows(b_any);
  const BlockCrossOperands operands(op, a, b, block);
  const BlockShape& shape = operands.shape;
  check_block_grad(op, grad_a, "grad_a", a);
  check_block_grad(op, grad_b, "grad_b", a);
  Tensor dqkv_a = torch::stable::new_empty(a, a.sizes()), dqkv_b = torch::stable::new_empty(b, b.sizes());
  void *da = dqkv_a.mutable_data_ptr(), *db = dqkv_b.mutable_data_ptr();
  const BlockGradients gradients[2] = {
      {block_rows(shape, grad_a, grad_a.const_data_ptr()), block_rows(shape, dqkv_a, da, 0),
       block_rows(shape, dqkv_b, db, 1), block_rows(shape, dqkv_b, db, 2), nullptr},
      {block_rows(shape, grad_b, grad_b.const_data_ptr()), block_rows(shape, dqkv_b, db, 0),
       block_rows(shape, dqkv_a, da, 1), block_rows(shape, dqkv_a, da, 2), nullptr}};
  STD_CUDA_CHECK(
      cuda::block_attention_backward(shape, operands.in, gradients, nullptr, nullptr, current_stream(a)));
  return {dqkv_a, dqkv_b};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CUDA, m) {
  m.impl("block_attention", TORCH_BOX(&pavdit::block_attention));
  m.impl("block_attention_backward", TORCH_BOX(&pavdit::block_attention_backward));
  m.impl("block_cross_attention", TORCH_BOX(&pavdit::block_cross_attention));
  m.impl("block_cross_attention_backward", TORCH_BOX(&pavdit::block_cross_attention_backward));
}
