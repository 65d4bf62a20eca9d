// Registers multiscale_temporal_attention for CPUs.
#include "multiscale_temporal_attention.h"

#include <optional>
#include <tuple>

#include "capability.h"
#include "multiscale_views.h"
#include "tasks.h"

namespace pavdit {
namespace {

const cpu::MultiscaleTemporalAttention& multiscale_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::multiscale_temporal_attention;
    case cpu::Capability::kAvx512:
      return cpu::avx512::multiscale_temporal_attention;
    case cpu::Capability::kAvx2:
      return cpu::avx2::multiscale_temporal_attention;
#endif
    default:
      return cpu::baseline::multiscale_temporal_attention;
  }
}

// Calls run(scratch, begin, end) on the threads.
template <typename Run>
void over_problems(const MultiscaleShape& shape, Run run) {
  const int64_t elements = 3 * cpu::multiscale_rows(shape.frames) * shape.width;
  torch::stable::parallel_for(0, shape.problems(), rows_per_task(elements), [&](int64_t begin, int64_t end) {
    Scratch scratch(cpu::multiscale_scratch(shape));
    run(scratch.data(), begin, end);
  });
}

std::tuple<Tensor, Tensor, Tensor> multiscale_temporal_attention(const Tensor& qkv_any) {
  const MultiscaleShape shape = multiscale_shape(qkv_any, kMultiscaleMaxFrames);
  const Tensor qkv = with_dense_rows(qkv_any);
  const MultiscaleInputs in = multiscale_inputs(qkv);
  const std::array<Tensor, kRates> results = multiscale_results(shape, qkv);
  const MultiscaleOutputs out = multiscale_outputs(results);
  over_problems(shape, [&](float* scratch, int64_t begin, int64_t end) {
    multiscale_kernels().forward(shape, in, out, scratch, begin, end);
  });
  return {results[0], results[1], results[2]};
}

Tensor multiscale_temporal_attention_backward(const std::optional<Tensor>& grad_full,
                                              const std::optional<Tensor>& grad_half,
                                              const std::optional<Tensor>& grad_quarter,
                                              const Tensor& qkv_any) {
  const MultiscaleShape shape = multiscale_shape(qkv_any, kMultiscaleMaxFrames);
  const Tensor qkv = with_dense_rows(qkv_any);
  const MultiscaleInputs in = multiscale_inputs(qkv);
  const ThreeRates grads = multiscale_grads(shape, qkv, {grad_full, grad_half, grad_quarter});
  const Tensor dqkv = torch::stable::new_empty(qkv, qkv.sizes());
  const MultiscaleGradients gradients = multiscale_gradients(grads, dqkv);
  over_problems(shape, [&](float* scratch, int64_t begin, int64_t end) {
    multiscale_kernels().backward(shape, in, gradients, scratch, begin, end);
  });
  return dqkv;
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("multiscale_temporal_attention", TORCH_BOX(&pavdit::multiscale_temporal_attention));
  m.impl("multiscale_temporal_attention_backward",
         TORCH_BOX(&pavdit::multiscale_temporal_attention_backward));
}
