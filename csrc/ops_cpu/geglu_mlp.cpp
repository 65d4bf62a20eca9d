// Registers geglu_mlp for CPUs.
#include "geglu_mlp.h"

#include <algorithm>

#include "capability.h"
#include "products.h"
#include "tasks.h"

namespace pavdit {
namespace {

// That a thread takes through both products at a time, alone: no thread waits for another in between.
constexpr int64_t kRows = 128;

const cpu::GegluMlp& geglu_mlp_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::geglu_mlp;
    case cpu::Capability::kAvx512:
      return cpu::avx512::geglu_mlp;
    case cpu::Capability::kAvx2:
      return cpu::avx2::geglu_mlp;
#endif
    default:
      return cpu::baseline::geglu_mlp;
  }
}

Tensor geglu_mlp(const Tensor& x, const Tensor& weight_in, const Tensor& bias_in_any,
                 const Tensor& weight_out, const Tensor& bias_out_any) {
  const char* op = "geglu_mlp";
  const DType dtype = dtype_of(x, op, "x");
  STD_TORCH_CHECK(x.dim() > 0, op, ": want x (...,D), got ", sizes_text(x));
  const int64_t both = check_linear(x, x.size(-1), weight_in, bias_in_any, op, "weight_in", "bias_in");
  STD_TORCH_CHECK(both % 2 == 0, op, ": want weight_in (2*hidden,D), got ", sizes_text(weight_in));
  const int64_t hidden = both / 2;
  const int64_t columns = check_linear(x, hidden, weight_out, bias_out_any, op, "weight_out", "bias_out");
  const Tensor rows = rows_of(x), bias_in = torch::stable::contiguous(bias_in_any);
  const Tensor bias_out = torch::stable::contiguous(bias_out_any);
  const Tensor into = transposed(weight_in), out_of = transposed(weight_out);
  const int64_t count = rows.size(0), width = x.size(-1);
  Tensor out = torch::stable::new_empty(x, {count, columns});
  const auto* source = static_cast<const char*>(rows.const_data_ptr());
  auto* target = static_cast<char*>(out.mutable_data_ptr());
  const int64_t size = dtype == DType::kFloat32 ? 4 : 2;
  const ScalarType type = x.scalar_type();
  torch::stable::parallel_for(0, (count + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch(kRows * both);
    float* h = scratch.data();
    for (int64_t first = begin * kRows; first < std::min(end * kRows, count); first += kRows) {
      const int64_t some = std::min(kRows, count - first);
      char* results = target + first * columns * size;
      multiply(matrix(type, source + first * width * size, some, width, width), into,
               matrix(type, h, some, both, both));
      geglu_mlp_kernels().gate(dtype, hidden, bias_in.const_data_ptr(), h, some);
      multiply(matrix(type, h, some, hidden, both), out_of, matrix(type, results, some, columns, columns));
      geglu_mlp_kernels().add_bias(dtype, columns, bias_out.const_data_ptr(), results, some);
    }
  });
  return torch::stable::view(out, with_columns(x, columns));
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("geglu_mlp", TORCH_BOX(&pavdit::geglu_mlp));
}
