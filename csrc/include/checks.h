// What the registration files share: checks with the values in their messages, and views of tensors for the
// kernels. LibTorch stable ABI only. Python checks first (pavdit/ops); these guard direct calls of a raw op.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <vector>

#include "dtype.h"

namespace pavdit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& t, const char* op, const char* argument) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, op, ": want ", argument, " in float32, bfloat16 or float16, got scalar type ",
                      int(t.scalar_type()));
  }
}

inline std::string sizes_text(const Tensor& t) {
  std::string text = "(";
  for (int64_t axis = 0; axis < t.dim(); ++axis) {
    text += (axis == 0 ? "" : ", ") + std::to_string(t.size(axis));
  }
  return text + ")";
}

// The tensor itself, or a copy where the last axis has a stride.
inline Tensor with_dense_rows(const Tensor& t) {
  return t.numel() == 0 || t.size(-1) == 1 || t.stride(-1) == 1 ? t : torch::stable::contiguous(t);
}

// As torch::stable::new_empty, without its search for the op by name: that takes longer than a small kernel.
inline Tensor new_empty(const Tensor& like, const std::vector<int64_t>& sizes) {
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(like.get(), sizes.data(), int64_t(sizes.size()),
                                                          nullptr, nullptr, nullptr, 0, nullptr, &made));
  return Tensor(made);
}

inline bool is_beside(const Tensor& t, const Tensor& like) {
  return t.is_cuda() == like.is_cuda() && t.get_device_index() == like.get_device_index();
}

inline void check_device(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  STD_TORCH_CHECK(is_beside(t, like), op, ": want ", argument, " on the device of the first tensor, got ",
                  t.is_cuda() ? "a CUDA device" : "another kind", ", index ", t.get_device_index());
}

inline void check_like(const Tensor& t, const Tensor& like, const char* op, const char* argument) {
  bool same = t.dim() == like.dim() && t.scalar_type() == like.scalar_type() && is_beside(t, like);
  for (int64_t axis = 0; same && axis < t.dim(); ++axis) same = t.size(axis) == like.size(axis);
  STD_TORCH_CHECK(same, op, ": want ", argument, " with shape ", sizes_text(like), ", dtype ",
                  int(like.scalar_type()), " and the same device, got shape ", sizes_text(t), ", dtype ",
                  int(t.scalar_type()));
}

}  // namespace pavdit
