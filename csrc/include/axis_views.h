// axis_attention's view of tensors: checks with the values in their messages, then rows for the kernels.
#pragma once

#include <optional>
#include <vector>

#include "axis_attention.h"
#include "checks.h"

namespace pavdit {

// Rows of t (..., n, A, E) along `axis`, or of its part `part` of n. A tensor (..., A, E) has `tail` 2.
template <typename Pointer>
AxisRows<Pointer> axis_rows(const Tensor& t, int64_t axis, Pointer data, int tail = 2) {
  const auto strides = t.strides();
  const int64_t dim = int64_t(strides.size());
  AxisRows<Pointer> rows{data, strides[axis], strides[dim - 2], {}};
  int other = 0;
  for (int64_t i = 0; i < dim - tail; ++i) {
    if (i != axis) rows.others[other++] = strides[i];
  }
  return rows;
}

template <typename Void>
AxisRows<Void*> axis_part(const Tensor& t, int64_t axis, int64_t part, Void* data) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  const int64_t bytes = t.scalar_type() == ScalarType::Float ? 4 : 2;
  Void* first = static_cast<Byte*>(data) + part * t.stride(t.dim() - 3) * bytes;
  return axis_rows(t, axis, first, 3);
}

// (..., n, A, E) to (..., A, E).
inline std::vector<int64_t> sizes_without_parts(const Tensor& t) {
  const auto all = t.sizes();
  std::vector<int64_t> sizes(all.begin(), all.end());
  sizes.erase(sizes.end() - 3);
  return sizes;
}

inline void check_axis_grad(const Tensor& grad, const Tensor& packed) {
  const std::vector<int64_t> want = sizes_without_parts(packed);
  bool same = grad.dim() == int64_t(want.size()) && grad.scalar_type() == packed.scalar_type();
  for (size_t i = 0; same && i < want.size(); ++i) same = grad.size(int64_t(i)) == want[i];
  same = same && is_beside(grad, packed);
  STD_TORCH_CHECK(same,
                  "axis_attention_backward: want grad (...,A,E) in the dtype and on the device of its input ",
                  sizes_text(packed), ", got ", sizes_text(grad));
}

// The tensors must outlive it; their last axes are dense.
struct AxisOperands {
  AxisShape shape{};
  AxisInputs in{};

  AxisOperands(const Tensor& qkv, int64_t axis, const std::optional<Tensor>& valid,
               const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
               const std::optional<Tensor>& rope) {
    const char* op = "axis_attention";
    set_shape(op, qkv, 3, axis);
    shape.queries = shape.keys;
    const void* data = qkv.const_data_ptr();
    in.q = axis_part(qkv, axis, 0, data);
    in.k = axis_part(qkv, axis, 1, data);
    in.v = axis_part(qkv, axis, 2, data);
    if (valid) set_valid(op, *valid, qkv, axis);
    STD_TORCH_CHECK(q_weight.has_value() == k_weight.has_value(), op,
                    ": want both of q_weight and k_weight or neither, got one");
    if (q_weight) {
      check_device(*q_weight, qkv, op, "q_weight");
      check_like(*k_weight, *q_weight, op, "k_weight");
      shape.weight_dtype = dtype_of(*q_weight, op, "q_weight");
      STD_TORCH_CHECK(q_weight->dim() == 1 && q_weight->size(0) == shape.width && q_weight->is_contiguous() &&
                          k_weight->is_contiguous(),
                      op, ": want q_weight and k_weight (E,), contiguous, with E = ", shape.width, ", got ",
                      sizes_text(*q_weight));
      in.q_weight = q_weight->const_data_ptr();
      in.k_weight = k_weight->const_data_ptr();
    }
    if (rope) {
      check_device(*rope, qkv, op, "rope");
      STD_TORCH_CHECK(rope->dim() == 3 && rope->size(0) == 2 && rope->size(1) == shape.keys &&
                          2 * rope->size(2) == shape.width && rope->scalar_type() == ScalarType::Float &&
                          rope->is_contiguous(),
                      op, ": want rope (2,L,E/2) in float32, contiguous, with L = ", shape.keys,
                      " and E = ", shape.width, ", got ", sizes_text(*rope));
      in.rope = static_cast<const float*>(rope->const_data_ptr());
    }
  }

  AxisOperands(const Tensor& q, const Tensor& kv, int64_t axis, const std::optional<Tensor>& valid) {
    const char* op = "axis_query_attention";
    set_shape(op, kv, 2, axis);
    shape.queries = 1;
    check_device(q, kv, op, "q");
    bool fits = q.dim() == kv.dim() && q.scalar_type() == kv.scalar_type() && q.size(axis) == 1 &&
                q.size(q.dim() - 3) == 1;
    for (int64_t i = 0; fits && i < q.dim(); ++i) {
      fits = i == axis || i == q.dim() - 3 || q.size(i) == kv.size(i);
    }
    STD_TORCH_CHECK(fits, op, ": want q (...,1,A,E) of length 1 along axis ", axis, " beside kv ",
                    sizes_text(kv), ", of one dtype, got ", sizes_text(q));
    in.q = axis_part(q, axis, 0, q.const_data_ptr());
    in.k = axis_part(kv, axis, 0, kv.const_data_ptr());
    in.v = axis_part(kv, axis, 1, kv.const_data_ptr());
    if (valid) set_valid(op, *valid, kv, axis);
  }

 private:
  void set_shape(const char* op, const Tensor& t, int64_t parts, int64_t axis) {
    const auto sizes = t.sizes();
    const int64_t leading = int64_t(sizes.size()) - 3;
    STD_TORCH_CHECK(
        leading >= 1 && leading <= kAxisMaxLeading && axis >= 0 && axis < leading && sizes[leading] == parts,
        op, ": want (...,", parts, ",A,E) with 1..", kAxisMaxLeading, " leading axes and axis = ", axis,
        " one of them, got ", sizes_text(t));
    shape.keys = sizes[axis];
    shape.heads = sizes[leading + 1];
    shape.width = sizes[leading + 2];
    STD_TORCH_CHECK(
        shape.keys >= 1 && shape.keys <= kAxisMaxLength && shape.width >= 1 && shape.width <= kAxisMaxWidth,
        op, ": want 1..", kAxisMaxLength, " tokens along the axis and E in 1..", kAxisMaxWidth, ", got ",
        shape.keys, " and ", shape.width);
    shape.dtype = dtype_of(t, op, "the input");
    shape.positions = 1;
    for (int64_t i = 0; i < leading; ++i) {
      if (i == axis) continue;
      shape.sizes[shape.others++] = sizes[i];
      shape.positions *= sizes[i];
    }
  }

  // Broadcasts from the right, as PyTorch does.
  void set_valid(const char* op, const Tensor& valid, const Tensor& like, int64_t axis) {
    check_device(valid, like, op, "valid");
    const int64_t leading = like.dim() - 3, missing = leading - valid.dim();
    bool fits = missing >= 0 && valid.scalar_type() == ScalarType::Bool;
    int other = 0;
    for (int64_t i = 0; fits && i < leading; ++i) {
      const int64_t size = i < missing ? 1 : valid.size(i - missing);
      fits = size == 1 || size == like.size(i);
      const int64_t stride = size == 1 ? 0 : valid.stride(i - missing);
      if (i == axis) {
        in.valid.along = stride;
      } else {
        in.valid.others[other++] = stride;
      }
    }
    STD_TORCH_CHECK(fits, op, ": want valid in bool, broadcastable to the leading axes of ", sizes_text(like),
                    ", got ", sizes_text(valid));
    in.valid.data = static_cast<const bool*>(valid.const_data_ptr());
  }
};

}  // namespace pavdit
