// Registers the CPU kernels. Allocates, picks the instruction set, cuts the work for the threads; the kernels
// in csrc/cpu see pointers only.
#include <new>
#include <optional>
#include <tuple>

#include "axis_views.h"
#include "capability.h"
#include "checks.h"
#include "gated_residual_adaln.h"

namespace pavdit {
namespace {

constexpr int64_t kElementsPerTask = 32768;  // below this a second thread costs more than it brings

int64_t rows_per_task(int64_t elements_per_row) {
  return elements_per_row > 0 ? kElementsPerTask / elements_per_row + 1 : kElementsPerTask;
}

// Float32 working memory of one task, aligned to a cache line.
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<float*>(::operator new(count * sizeof(float), kLine))) {}
  ~Scratch() { ::operator delete(data_, kLine); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() { return data_; }

 private:
  static constexpr std::align_val_t kLine{64};
  float* data_;
};

// ---- adaln_modulate ----

const cpu::AdalnModulate& adaln_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::adaln_modulate;
    case cpu::Capability::kAvx512:
      return cpu::avx512::adaln_modulate;
    case cpu::Capability::kAvx2:
      return cpu::avx2::adaln_modulate;
#endif
    default:
      return cpu::baseline::adaln_modulate;
  }
}

// Stage two of the sums over rows, for one gradient or for two (null: one).
void sum_partials(const PartialSums& sums, void* first, void* second) {
  const auto& kernels = adaln_kernels();
  torch::stable::parallel_for(0, sums.rows, rows_per_task(2 * sums.width * sums.chunks),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::kAdalnScratchRows * sums.width);
                                kernels.sum_partials(sums, first, second, scratch.data(), begin, end);
                              });
}

std::tuple<Tensor, Tensor> adaln_modulate(const Tensor& x_any, const Tensor& shift_any,
                                          const Tensor& scale_any, double eps) {
  const AdalnShape shape = adaln_shape("adaln_modulate", x_any, scale_any);
  check_like(shift_any, scale_any, "adaln_modulate", "shift");
  const Tensor x = torch::stable::contiguous(x_any);
  const Tensor shift = with_dense_rows(shift_any), scale = with_dense_rows(scale_any);
  Tensor out = torch::stable::new_empty(x, x.sizes());
  Tensor stats = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), 2}, ScalarType::Float);

  const auto& kernels = adaln_kernels();
  const void* x_data = x.const_data_ptr();
  const Modulation shift_rows = modulation(shape, shift), scale_rows = modulation(shape, scale);
  void* out_data = out.mutable_data_ptr();
  float* stats_data = static_cast<float*>(stats.mutable_data_ptr());
  torch::stable::parallel_for(0, shape.all_rows(), rows_per_task(shape.width),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::kAdalnScratchRows * shape.width);
                                kernels.forward(shape, x_data, shift_rows, scale_rows, float(eps), out_data,
                                                stats_data, scratch.data(), begin, end);
                              });
  return {out, stats};
}

std::tuple<Tensor, Tensor, Tensor> adaln_modulate_backward(const Tensor& grad_any, const Tensor& x_any,
                                                           const Tensor& scale_any, const Tensor& stats) {
  const AdalnShape shape = adaln_shape("adaln_modulate_backward", x_any, scale_any);
  check_like(grad_any, x_any, "adaln_modulate_backward", "grad");
  check_stats("adaln_modulate_backward", stats, shape);
  const Tensor grad = torch::stable::contiguous(grad_any), x = torch::stable::contiguous(x_any);
  const Tensor scale = with_dense_rows(scale_any);
  Tensor dx = torch::stable::new_empty(x, x.sizes());
  Tensor dshift = torch::stable::new_empty(scale, scale.sizes());
  Tensor dscale = torch::stable::new_empty(scale, scale.sizes());
  const int64_t chunks = adaln_chunks(shape, cpu::kAdalnRowsPerChunk),
                all_chunks = shape.batch * shape.groups * chunks;
  Tensor partial = torch::stable::new_empty(x, {all_chunks, 2, shape.width}, ScalarType::Float);

  const auto& kernels = adaln_kernels();
  const void *grad_data = grad.const_data_ptr(), *x_data = x.const_data_ptr();
  const Modulation scale_rows = modulation(shape, scale);
  const float* stats_data = static_cast<const float*>(stats.const_data_ptr());
  void* dx_data = dx.mutable_data_ptr();
  float* partial_data = static_cast<float*>(partial.mutable_data_ptr());
  torch::stable::parallel_for(0, all_chunks, rows_per_task(shape.width * cpu::kAdalnRowsPerChunk),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::kAdalnScratchRows * shape.width);
                                kernels.backward(shape, grad_data, x_data, scale_rows, stats_data, dx_data,
                                                 partial_data, scratch.data(), begin, end);
                              });
  sum_partials(partial_sums(shape, scale_rows, partial_data, chunks, 2, 0), dshift.mutable_data_ptr(),
               dscale.mutable_data_ptr());
  return {dx, dshift, dscale};
}

// ---- axis_attention, axis_query_attention ----

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
  Tensor out = torch::stable::new_empty(qkv, sizes_without_parts(qkv));
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
  Tensor out = torch::stable::new_empty(q, sizes_without_parts(q));
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

// ---- gated_residual_adaln ----

const cpu::GatedResidualAdalnKernels& gated_residual_adaln_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::gated_residual_adaln;
    case cpu::Capability::kAvx512:
      return cpu::avx512::gated_residual_adaln;
    case cpu::Capability::kAvx2:
      return cpu::avx2::gated_residual_adaln;
#endif
    default:
      return cpu::baseline::gated_residual_adaln;
  }
}

std::tuple<Tensor, Tensor, Tensor> gated_residual_adaln(const Tensor& x_any, const Tensor& y_any,
                                                        const std::optional<Tensor>& gate_any,
                                                        const Tensor& shift_any, const Tensor& scale_any,
                                                        double eps) {
  const char* op = "gated_residual_adaln";
  const Tensor gate = with_dense_rows(gate_any.value_or(scale_any));  // no gate: never read
  const AdalnShape shape = adaln_shape(op, x_any, scale_any, gate);
  check_like(y_any, x_any, op, "y");
  check_like(shift_any, scale_any, op, "shift");
  const Tensor x = torch::stable::contiguous(x_any), y = torch::stable::contiguous(y_any);
  const Tensor shift = with_dense_rows(shift_any), scale = with_dense_rows(scale_any);
  Tensor residual = torch::stable::new_empty(x, x.sizes()),
         modulated = torch::stable::new_empty(x, x.sizes());
  Tensor stats = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), 2}, ScalarType::Float);
  const GatedResidualAdaln call = {x.const_data_ptr(),
                                   y.const_data_ptr(),
                                   gate_any ? modulation(shape, gate) : Modulation{},
                                   modulation(shape, shift),
                                   modulation(shape, scale),
                                   float(eps),
                                   residual.mutable_data_ptr(),
                                   modulated.mutable_data_ptr(),
                                   static_cast<float*>(stats.mutable_data_ptr())};
  const auto& kernels = gated_residual_adaln_kernels();
  torch::stable::parallel_for(0, shape.all_rows(), rows_per_task(shape.width),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::kAdalnScratchRows * shape.width);
                                kernels.forward(shape, call, scratch.data(), begin, end);
                              });
  return {residual, modulated, stats};
}

// dy and dgate are empty where there is no gate: dy is dx then.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gated_residual_adaln_backward(
    const std::optional<Tensor>& grad_residual_any, const Tensor& grad_modulated_any,
    const Tensor& residual_any, const std::optional<Tensor>& y_any, const std::optional<Tensor>& gate_any,
    const Tensor& scale_any, const Tensor& stats) {
  const char* op = "gated_residual_adaln_backward";
  const bool gated = gate_any.has_value();
  STD_TORCH_CHECK(gated == y_any.has_value(), op, ": want both of y and gate or neither, got only ",
                  gated ? "gate" : "y");
  const Tensor gate = with_dense_rows(gate_any.value_or(scale_any));  // no gate: never read
  const AdalnShape shape = adaln_shape(op, residual_any, scale_any, gate);
  check_like(grad_modulated_any, residual_any, op, "grad_modulated");
  if (grad_residual_any) check_like(*grad_residual_any, residual_any, op, "grad_residual");
  if (gated) check_like(*y_any, residual_any, op, "y");
  check_stats(op, stats, shape);
  const Tensor residual = torch::stable::contiguous(residual_any);
  const Tensor grad_modulated = torch::stable::contiguous(grad_modulated_any);
  const Tensor grad_residual = torch::stable::contiguous(grad_residual_any.value_or(grad_modulated_any));
  const Tensor y = torch::stable::contiguous(y_any.value_or(residual_any)),
               scale = with_dense_rows(scale_any);
  Tensor dx = torch::stable::new_empty(residual, residual.sizes());
  Tensor dshift = torch::stable::new_empty(scale, scale.sizes());
  Tensor dscale = torch::stable::new_empty(scale, scale.sizes());
  Tensor dy =
      gated ? torch::stable::new_empty(residual, residual.sizes()) : torch::stable::new_empty(residual, {0});
  Tensor dgate = gated ? torch::stable::new_empty(gate, gate.sizes()) : torch::stable::new_empty(gate, {0});
  const int64_t chunks = adaln_chunks(shape, cpu::kGatedRowsPerChunk);
  const int64_t all_chunks = shape.batch * shape.groups * chunks;
  Tensor partial =
      torch::stable::new_empty(residual, {all_chunks, gated ? 3 : 2, shape.width}, ScalarType::Float);
  const GatedResidualAdalnBackward call = {grad_residual_any ? grad_residual.const_data_ptr() : nullptr,
                                           grad_modulated.const_data_ptr(),
                                           residual.const_data_ptr(),
                                           gated ? y.const_data_ptr() : nullptr,
                                           gated ? modulation(shape, gate) : Modulation{},
                                           modulation(shape, scale),
                                           static_cast<const float*>(stats.const_data_ptr()),
                                           dx.mutable_data_ptr(),
                                           gated ? dy.mutable_data_ptr() : nullptr,
                                           static_cast<float*>(partial.mutable_data_ptr())};
  const auto& kernels = gated_residual_adaln_kernels();
  torch::stable::parallel_for(0, all_chunks, rows_per_task(shape.width * cpu::kGatedRowsPerChunk),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::kAdalnScratchRows * shape.width);
                                kernels.backward(shape, call, scratch.data(), begin, end);
                              });
  sum_partials(partial_sums(shape, call.scale, call.partial, chunks, call.sums(), 0),
               dshift.mutable_data_ptr(), dscale.mutable_data_ptr());
  if (gated) {
    sum_partials(partial_sums(shape, call.gate, call.partial, chunks, call.sums(), 2),
                 dgate.mutable_data_ptr(), nullptr);
  }
  return {dx, dy, dgate, dshift, dscale};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("adaln_modulate", TORCH_BOX(&pavdit::adaln_modulate));
  m.impl("adaln_modulate_backward", TORCH_BOX(&pavdit::adaln_modulate_backward));
  m.impl("axis_attention", TORCH_BOX(&pavdit::axis_attention));
  m.impl("axis_attention_backward", TORCH_BOX(&pavdit::axis_attention_backward));
  m.impl("axis_query_attention", TORCH_BOX(&pavdit::axis_query_attention));
  m.impl("axis_query_attention_backward", TORCH_BOX(&pavdit::axis_query_attention_backward));
  m.impl("gated_residual_adaln", TORCH_BOX(&pavdit::gated_residual_adaln));
  m.impl("gated_residual_adaln_backward", TORCH_BOX(&pavdit::gated_residual_adaln_backward));
}
