// Registers griffin_lim_step for CUDA.
#include "griffin_lim_step.h"

#include <tuple>

#include "griffin_views.h"
#include "stream.h"

namespace pavdit {
namespace {

std::tuple<Tensor, Tensor> griffin_lim_step(const Tensor& columns_any, const Tensor& previous_any,
                                            const Tensor& magnitude_any, const Tensor& window_any,
                                            const Tensor& square_sum_any, int64_t n_fft, int64_t hop_length,
                                            double momentum) {
  const DeviceGuard guard(columns_any.get_device_index());
  const GriffinOperands operands(columns_any, previous_any, magnitude_any, window_any, square_sum_any, n_fft,
                                 hop_length, momentum, cuda::kGriffinMinFft, cuda::kGriffinMaxFft);
  Tensor roots = torch::stable::new_empty(operands.columns, {n_fft, 2});
  STD_CUDA_CHECK(cuda::griffin_lim_step(operands.step(), static_cast<float*>(roots.mutable_data_ptr()),
                                        current_stream(operands.columns)));
  return {operands.next, operands.rebuilt};
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CUDA, m) {
  m.impl("griffin_lim_step", TORCH_BOX(&pavdit::griffin_lim_step));
}
