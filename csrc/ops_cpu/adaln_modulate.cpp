// Registers adaln_modulate for CPUs.
#include "adaln_modulate.h"

#include <tuple>

#include "adaln_views.h"
#include "capability.h"
#include "tasks.h"

namespace pavdit {
namespace {

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

}  // namespace

void sum_partials(const PartialSums& sums, void* first, void* second) {
  const auto& kernels = adaln_kernels();
  torch::stable::parallel_for(0, sums.rows, rows_per_task(2 * sums.width * sums.chunks),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::kAdalnScratchRows * sums.width);
                                kernels.sum_partials(sums, first, second, scratch.data(), begin, end);
                              });
}

namespace {

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
  check_stats("adaln_modulate_backward", stats, x_any);
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

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("adaln_modulate", TORCH_BOX(&pavdit::adaln_modulate));
  m.impl("adaln_modulate_backward", TORCH_BOX(&pavdit::adaln_modulate_backward));
}
