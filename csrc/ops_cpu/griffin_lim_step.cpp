// Registers griffin_lim_step for CPUs.
#include "griffin_lim_step.h"

#include <tuple>

#include "capability.h"
#include "griffin_views.h"
#include "roots.h"
#include "tasks.h"

namespace pavdit {
namespace {

const cpu::GriffinLimStep& griffin_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::griffin_lim_step;
    case cpu::Capability::kAvx512:
      return cpu::avx512::griffin_lim_step;
    case cpu::Capability::kAvx2:
      return cpu::avx2::griffin_lim_step;
#endif
    default:
      return cpu::baseline::griffin_lim_step;
  }
}

std::tuple<Tensor, Tensor> griffin_lim_step(const Tensor& columns_any, const Tensor& previous_any,
                                            const Tensor& magnitude_any, const Tensor& window_any,
                                            const Tensor& square_sum_any, int64_t n_fft, int64_t hop_length,
                                            double momentum) {
  const GriffinOperands operands(columns_any, previous_any, magnitude_any, window_any, square_sum_any, n_fft,
                                 hop_length, momentum, kGriffinMinFft, kGriffinMaxFft);
  GriffinStep step = operands.step();
  step.roots = roots_of_unity(n_fft);
  const Framing& framing = step.framing;

  const auto& kernels = griffin_kernels();
  const int64_t reaching = framing.win_length / framing.hop_length + 1;
  torch::stable::parallel_for(0, framing.batch * cpu::griffin_chunks(framing),
                              rows_per_task(cpu::kGriffinSamplesPerChunk * reaching),
                              [&](int64_t begin, int64_t end) { kernels.add_up(step, begin, end); });
  torch::stable::parallel_for(0, framing.batch * cpu::griffin_groups(framing),
                              rows_per_task(n_fft * cpu::kGriffinColumnsPerGroup),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::griffin_scratch(framing));
                                kernels.project(step, scratch.data(), begin, end);
                              });
  return {operands.next, operands.rebuilt};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("griffin_lim_step", TORCH_BOX(&pavdit::griffin_lim_step));
}
