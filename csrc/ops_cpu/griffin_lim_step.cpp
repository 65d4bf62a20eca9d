// Registers griffin_lim_step for CPUs.
#include "griffin_lim_step.h"

#include <tuple>

#include "capability.h"
#include "framing_checks.h"
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

Framing griffin_framing(const Tensor& columns, const Tensor& previous, const Tensor& magnitude,
                        const Tensor& window, const Tensor& square_sum, int64_t n_fft, int64_t hop_length) {
  const char* op = "griffin_lim_step";
  STD_TORCH_CHECK(columns.dim() == 3 && window.dim() == 1 && window.size(0) == columns.size(2), op,
                  ": want columns (B,N,win_length), window (win_length,), got ", sizes_text(columns), ", ",
                  sizes_text(window));
  STD_TORCH_CHECK(hop_length > 0, op, ": want 0 < hop_length, got ", hop_length);
  const Framing framing = {columns.size(0), columns.size(1) * hop_length, columns.size(2), n_fft, hop_length};
  check_framing(op, framing, kGriffinMinFft, kGriffinMaxFft);
  const auto is_bins = [&](const Tensor& t) {
    return t.dim() == 3 && t.size(0) == framing.batch && t.size(1) == framing.columns() &&
           t.size(2) == framing.bins();
  };
  STD_TORCH_CHECK(is_bins(previous) && is_bins(magnitude), op,
                  ": want previous and magnitude (B,N,n_fft/2+1) with B,N,n_fft = ", framing.batch, ",",
                  framing.columns(), ",", n_fft, ", got ", sizes_text(previous), ", ", sizes_text(magnitude));
  STD_TORCH_CHECK(square_sum.dim() == 1 && square_sum.size(0) == framing.samples, op, ": want square_sum (",
                  framing.samples, "), got ", sizes_text(square_sum));
  const auto check_real = [&](const Tensor& t, const char* argument) {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, op, ": want ", argument,
                    " in float32, got scalar type ", int(t.scalar_type()));
    STD_TORCH_CHECK(same_device(t, columns), op, ": want ", argument, " on the device of columns");
  };
  check_real(columns, "columns");
  check_real(magnitude, "magnitude");
  check_real(window, "window");
  check_real(square_sum, "square_sum");
  STD_TORCH_CHECK(previous.scalar_type() == ScalarType::ComplexFloat && same_device(previous, columns), op,
                  ": want previous in complex64 on the device of columns, got scalar type ",
                  int(previous.scalar_type()));
  return framing;
}

const float* floats(const Tensor& t) {
  return static_cast<const float*>(t.const_data_ptr());
}

std::tuple<Tensor, Tensor> griffin_lim_step(const Tensor& columns_any, const Tensor& previous_any,
                                            const Tensor& magnitude_any, const Tensor& window_any,
                                            const Tensor& square_sum_any, int64_t n_fft, int64_t hop_length,
                                            double momentum) {
  const Framing framing = griffin_framing(columns_any, previous_any, magnitude_any, window_any,
                                          square_sum_any, n_fft, hop_length);
  STD_TORCH_CHECK(momentum >= 0.0, "griffin_lim_step: want momentum >= 0, got ", momentum);
  const Tensor columns = torch::stable::contiguous(columns_any);
  const Tensor previous = torch::stable::contiguous(previous_any);
  const Tensor magnitude = torch::stable::contiguous(magnitude_any);
  const Tensor window = torch::stable::contiguous(window_any);
  const Tensor square_sum = torch::stable::contiguous(square_sum_any);
  Tensor next = torch::stable::new_empty(columns, columns.sizes());
  Tensor rebuilt = torch::stable::new_empty(previous, previous.sizes());
  Tensor wave = torch::stable::new_empty(columns, {framing.batch, framing.samples});
  const GriffinStep step = {framing,
                            float(momentum / (1.0 + momentum)),
                            floats(columns),
                            floats(previous),
                            floats(magnitude),
                            floats(window),
                            floats(square_sum),
                            roots_of_unity(n_fft),
                            static_cast<float*>(wave.mutable_data_ptr()),
                            static_cast<float*>(next.mutable_data_ptr()),
                            static_cast<float*>(rebuilt.mutable_data_ptr())};

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
  return {next, rebuilt};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("griffin_lim_step", TORCH_BOX(&pavdit::griffin_lim_step));
}
