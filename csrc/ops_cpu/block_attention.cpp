// Registers block_attention and block_cross_attention for CPUs.
#include "block_attention.h"

#include <optional>
#include <tuple>

#include "block_views.h"
#include "capability.h"
#include "tasks.h"

namespace pavdit {
namespace {

const cpu::BlockAttention& block_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::block_attention;
    case cpu::Capability::kAvx512:
      return cpu::avx512::block_attention;
    case cpu::Capability::kAvx2:
      return cpu::avx2::block_attention;
#endif
    default:
      return cpu::baseline::block_attention;
  }
}

// Four rows move for every token, and the work of a row grows with the tokens of its block.
int64_t elements_per_problem(const BlockShape& shape) {
  return 4 * shape.tokens() * shape.width;
}

void block_forward(const BlockShape& shape, const BlockInputs* in, const BlockRows<void*>* out) {
  const auto& kernels = block_kernels();
  torch::stable::parallel_for(0, shape.problems(), rows_per_task(elements_per_problem(shape)),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::block_scratch(shape));
                                kernels.forward(shape, in, out, scratch.data(), begin, end);
                              });
}

void block_backward(const BlockShape& shape, const BlockInputs* in, const BlockGradients* gradients) {
  const auto& kernels = block_kernels();
  const int64_t elements = elements_per_problem(shape) * cpu::block_problems_per_chunk(shape);
  torch::stable::parallel_for(0, cpu::block_chunks(shape), rows_per_task(elements),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::block_scratch(shape));
                                kernels.backward(shape, in, gradients, scratch.data(), begin, end);
                              });
}

Tensor block_attention(const Tensor& q_any, const Tensor& k_any, const Tensor& v_any,
                       const std::vector<int64_t>& block, const std::optional<Tensor>& valid,
                       const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
                       const std::optional<Tensor>& rope) {
  const Tensor q = with_dense_rows(q_any), k = with_dense_rows(k_any), v = with_dense_rows(v_any);
  const BlockOperands operands("block_attention", q, k, v, block, valid, q_weight, k_weight, rope);
  Tensor out = torch::stable::new_empty(q, q.sizes());
  const BlockRows<void*> rows = block_rows(operands.shape, out, out.mutable_data_ptr());
  block_forward(operands.shape, &operands.in, &rows);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> block_attention_backward(
    const Tensor& grad_any, const Tensor& q_any, const Tensor& k_any, const Tensor& v_any,
    const std::vector<int64_t>& block, const std::optional<Tensor>& valid,
    const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
    const std::optional<Tensor>& rope) {
  const char* op = "block_attention_backward";
  const Tensor grad = with_dense_rows(grad_any);
  const Tensor q = with_dense_rows(q_any), k = with_dense_rows(k_any), v = with_dense_rows(v_any);
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
  const int64_t chunks = weights > 0 ? cpu::block_chunks(shape) : 0;
  Tensor partial = torch::stable::new_empty(q, {chunks, 2, weights}, ScalarType::Float);

  float* partial_data = static_cast<float*>(partial.mutable_data_ptr());
  const BlockGradients gradients{block_rows(shape, grad, grad.const_data_ptr()),
                                 block_rows(shape, dq, dq.mutable_data_ptr()),
                                 block_rows(shape, dk, dk.mutable_data_ptr()),
                                 block_rows(shape, dv, dv.mutable_data_ptr()), partial_data};
  block_backward(shape, &operands.in, &gradients);
  if (weights > 0) {
    Scratch scratch(4 * weights);
    block_kernels().sum_partials(shape, partial_data, dq_weight.mutable_data_ptr(),
                                 dk_weight.mutable_data_ptr(), scratch.data());
  }
  return {dq, dk, dv, dq_weight, dk_weight};
}

std::tuple<Tensor, Tensor> block_cross_attention(const Tensor& a_any, const Tensor& b_any,
                                                 const std::vector<int64_t>& block) {
  const Tensor a = with_dense_rows(a_any), b = with_dense_rows(b_any);
  const BlockCrossOperands operands("block_cross_attention", a, b, block);
  const std::vector<int64_t> sizes = block_sizes_without_parts(a);
  Tensor out_a = torch::stable::new_empty(a, sizes), out_b = torch::stable::new_empty(a, sizes);
  const BlockRows<void*> rows[2] = {block_rows(operands.shape, out_a, out_a.mutable_data_ptr()),
                                    block_rows(operands.shape, out_b, out_b.mutable_data_ptr())};
  block_forward(operands.shape, operands.in, rows);
  return {out_a, out_b};
}

std::tuple<Tensor, Tensor> block_cross_attention_backward(const Tensor& grad_a_any, const Tensor& grad_b_any,
                                                          const Tensor& a_any, const Tensor& b_any,
                                                          const std::vector<int64_t>& block) {
  const char* op = "block_cross_attention_backward";
  const Tensor grad_a = with_dense_rows(grad_a_any), grad_b = with_dense_rows(grad_b_any);
  const Tensor a = with_dense_rows(a_any), b = with_dense_rows(b_any);
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
  block_backward(shape, operands.in, gradients);
  return {dqkv_a, dqkv_b};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("block_attention", TORCH_BOX(&pavdit::block_attention));
  m.impl("block_attention_backward", TORCH_BOX(&pavdit::block_attention_backward));
  m.impl("block_cross_attention", TORCH_BOX(&pavdit::block_cross_attention));
  m.impl("block_cross_attention_backward", TORCH_BOX(&pavdit::block_cross_attention_backward));
}
