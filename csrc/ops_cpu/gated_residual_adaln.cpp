// Registers gated_residual_adaln for CPUs.
#include "gated_residual_adaln.h"

#include <optional>
#include <tuple>

#include "adaln_views.h"
#include "capability.h"
#include "tasks.h"

namespace pavdit {
namespace {

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
  check_stats(op, stats, residual_any);
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
  m.impl("gated_residual_adaln", TORCH_BOX(&pavdit::gated_residual_adaln));
  m.impl("gated_residual_adaln_backward", TORCH_BOX(&pavdit::gated_residual_adaln_backward));
}
