// Registers linear_gelu for CPUs.
#include "linear_gelu.h"

#include "capability.h"
#include "products.h"
#include "tasks.h"

namespace pavdit {
namespace {

const cpu::LinearGelu& linear_gelu_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::linear_gelu;
    case cpu::Capability::kAvx512:
      return cpu::avx512::linear_gelu;
    case cpu::Capability::kAvx2:
      return cpu::avx2::linear_gelu;
#endif
    default:
      return cpu::baseline::linear_gelu;
  }
}

Tensor linear_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias_any) {
  const char* op = "linear_gelu";
  const DType dtype = dtype_of(x, op, "x");
  STD_TORCH_CHECK(x.dim() > 0, op, ": want x (...,D), got ", sizes_text(x));
  const int64_t terms = x.size(-1);
  const int64_t hidden = check_linear(x, terms, weight, bias_any, op, "weight", "bias");
  const Tensor bias = torch::stable::contiguous(bias_any);
  const Tensor rows = rows_of(x);
  Tensor h = torch::stable::new_empty(x, {rows.size(0), hidden});
  multiply(rows, transposed(weight), h);
  torch::stable::parallel_for(0, rows.size(0), rows_per_task(hidden), [&](int64_t begin, int64_t end) {
    linear_gelu_kernels().finish(dtype, hidden, bias.const_data_ptr(), h.mutable_data_ptr(), begin, end);
  });
  return torch::stable::view(h, with_columns(x, hidden));
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("linear_gelu", TORCH_BOX(&pavdit::linear_gelu));
}
