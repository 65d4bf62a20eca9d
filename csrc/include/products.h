// Matrix products of whole tensors by the library, for the CPU registrations. LibTorch's C interface for
// compiled models, which is as stable as the rest: without the dispatcher, and so without autograd.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <utility>

#include "checks.h"

namespace pavdit {

// A matrix where it lies: it owns nothing and takes no part in autograd, so a thread of the pool may use it.
inline Tensor matrix(ScalarType type, const void* data, int64_t rows, int64_t columns, int64_t row_stride,
                     int64_t column_stride = 1) {
  return torch::stable::from_blob(const_cast<void*>(data), {rows, columns}, {row_stride, column_stride},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}

// weight [columns, terms] as the second factor of x weight^T.
inline Tensor transposed(const Tensor& weight) {
  return matrix(weight.scalar_type(), weight.const_data_ptr(), weight.size(1), weight.size(0),
                weight.stride(1), weight.stride(0));
}

// out = a b, overwritten.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}

// Checks a linear layer: weight [columns, terms] and bias [columns] of x's dtype and device. Returns columns.
inline int64_t check_linear(const Tensor& x, int64_t terms, const Tensor& weight, const Tensor& bias,
                            const char* op, const char* weight_name, const char* bias_name) {
  for (const auto& [tensor, name] : {std::pair(&weight, weight_name), std::pair(&bias, bias_name)}) {
    check_device(*tensor, x, op, name);
    STD_TORCH_CHECK(tensor->scalar_type() == x.scalar_type(), op, ": want ", name, " of the dtype of x, ",
                    int(x.scalar_type()), ", got ", int(tensor->scalar_type()));
  }
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == terms, op, ": want ", weight_name, " (columns,",
                  terms, "), got ", sizes_text(weight));
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == weight.size(0), op, ": want ", bias_name, " (",
                  weight.size(0), ",), got ", sizes_text(bias));
  return weight.size(0);
}

// x (..., D) as contiguous rows [R, D].
inline Tensor rows_of(const Tensor& x) {
  int64_t rows = 1;
  for (int64_t axis = 0; axis + 1 < x.dim(); ++axis) rows *= x.size(axis);
  return torch::stable::view(torch::stable::contiguous(x), {rows, x.size(-1)});
}

// Sizes of x with another last axis.
inline std::vector<int64_t> with_columns(const Tensor& x, int64_t columns) {
  std::vector<int64_t> sizes;
  for (int64_t axis = 0; axis + 1 < x.dim(); ++axis) sizes.push_back(x.size(axis));
  sizes.push_back(columns);
  return sizes;
}

}  // namespace pavdit
