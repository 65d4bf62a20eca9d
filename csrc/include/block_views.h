// The view that block_attention and block_cross_attention have of tensors: checks with the values in their
// messages, then rows for the kernels.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "block_attention.h"
#include "checks.h"

namespace pavdit {

// From token to token of a block in the order (t, h, w), or 0 where that is not always the same.
inline int64_t uniform_stride(const int64_t (&block)[3], const int64_t* strides) {
  int64_t along = 0, tokens = 1;  // of the axes looked at so far
  for (int axis = 2; axis >= 0; --axis) {
    if (block[axis] == 1) continue;
    if (tokens == 1) along = strides[axis];
    if (strides[axis] != along * tokens) return 0;
    tokens *= block[axis];
  }
  return tokens == 1 ? 1 : along;
}

// Rows of t (B,T,H,W,A,E); of part `part` of t (B,T,H,W,3,A,E) where that is given.
template <typename Void>
BlockRows<Void*> block_rows(const BlockShape& shape, const Tensor& t, Void* data, int64_t part = 0) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  const int64_t bytes = t.scalar_type() == ScalarType::Float ? 4 : 2;
  const int64_t offset = t.dim() == 7 ? part * t.stride(4) * bytes : 0;
  BlockRows<Void*> rows{
      static_cast<Byte*>(data) + offset, {}, shape.heads == 1 ? 0 : t.stride(t.dim() - 2), 0};
  for (int axis = 0; axis < 4; ++axis) rows.grid[axis] = t.size(axis) == 1 ? 0 : t.stride(axis);
  rows.along = uniform_stride(shape.block, rows.grid + 1);
  return rows;
}

// (B,T,H,W,3,A,E) to (B,T,H,W,A,E).
inline std::vector<int64_t> block_sizes_without_parts(const Tensor& t) {
  return {t.size(0), t.size(1), t.size(2), t.size(3), t.size(5), t.size(6)};
}

// grad (B,T,H,W,A,E) beside packed (B,T,H,W,3,A,E).
inline void check_block_grad(const char* op, const Tensor& grad, const char* argument, const Tensor& packed) {
  const std::vector<int64_t> want = block_sizes_without_parts(packed);
  bool same = grad.dim() == int64_t(want.size()) && grad.scalar_type() == packed.scalar_type() &&
              grad.is_cuda() == packed.is_cuda() && grad.get_device_index() == packed.get_device_index();
  for (size_t i = 0; same && i < want.size(); ++i) same = grad.size(int64_t(i)) == want[i];
  STD_TORCH_CHECK(same, op, ": want ", argument, " with shape (B,T,H,W,A,E), dtype and device of its input ",
                  sizes_text(packed), ", got ", sizes_text(grad));
}

inline BlockShape block_shape(const char* op, const Tensor& t, const char* argument,
                              const std::vector<int64_t>& block) {
  const bool packed = t.dim() == 7;
  STD_TORCH_CHECK(block.size() == 3, op, ": want block (bt,bh,bw) to divide (T,H,W), got ", block.size(),
                  " numbers");
  BlockShape shape{};
  shape.directions = packed ? 2 : 1;
  shape.heads = t.size(t.dim() - 2);
  shape.width = t.size(t.dim() - 1);
  shape.dtype = dtype_of(t, op, argument);
  shape.counts[0] = t.size(0);
  bool fits = true;
  for (int axis = 0; axis < 3; ++axis) {
    shape.block[axis] = block[size_t(axis)];
    fits = fits && shape.block[axis] >= 1 && t.size(axis + 1) % shape.block[axis] == 0;
    if (fits) shape.counts[axis + 1] = t.size(axis + 1) / shape.block[axis];
  }
  STD_TORCH_CHECK(fits, op, ": want block (bt,bh,bw) to divide (T,H,W) of ", sizes_text(t), ", got (",
                  block[0], ", ", block[1], ", ", block[2], ")");
  int64_t tokens = 1;
  for (int axis = 0; axis < 3 && tokens <= kBlockMaxKeys; ++axis) tokens *= shape.block[axis];
  STD_TORCH_CHECK(tokens <= kBlockMaxKeys && shape.width >= 1 && shape.width <= kBlockMaxWidth, op,
                  ": want at most ", kBlockMaxKeys, " tokens in a block and E in 1..", kBlockMaxWidth,
                  ", got block (", block[0], ", ", block[1], ", ", block[2], ") and E = ", shape.width);
  return shape;
}

// Broadcasts from the right, as PyTorch does.
inline BlockRows<const bool*> block_valid(const char* op, const BlockShape& shape, const Tensor& valid,
                                          const Tensor& like) {
  BlockRows<const bool*> rows{};
  const int64_t missing = 4 - valid.dim();
  bool fits = missing >= 0 && valid.scalar_type() == ScalarType::Bool && valid.is_cuda() == like.is_cuda() &&
              valid.get_device_index() == like.get_device_index();
  for (int64_t axis = missing; fits && axis < 4; ++axis) {
    const int64_t size = valid.size(axis - missing);
    fits = size == 1 || size == like.size(axis);
    rows.grid[axis] = size == 1 ? 0 : valid.stride(axis - missing);
  }
  STD_TORCH_CHECK(fits, op, ": want valid in bool, broadcastable to the leading axes of ", sizes_text(like),
                  " and on its device, got ", sizes_text(valid));
  rows.data = static_cast<const bool*>(valid.const_data_ptr());
  rows.along = uniform_stride(shape.block, rows.grid + 1);
  return rows;
}

// The tensors must outlive it; their last axes are dense.
struct BlockOperands {
  BlockShape shape{};
  BlockInputs in{};

  BlockOperands(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                const std::vector<int64_t>& block, const std::optional<Tensor>& valid,
                const std::optional<Tensor>& q_weight, const std::optional<Tensor>& k_weight,
                const std::optional<Tensor>& rope) {
    STD_TORCH_CHECK(q.dim() == 6, op, ": want q (B,T,H,W,A,E), got ", sizes_text(q));
    shape = block_shape(op, q, "q", block);
    check_like(k, q, op, "k");
    check_like(v, q, op, "v");
    in.q = block_rows(shape, q, q.const_data_ptr());
    in.k = block_rows(shape, k, k.const_data_ptr());
    in.v = block_rows(shape, v, v.const_data_ptr());
    if (valid) in.valid = block_valid(op, shape, *valid, q);
    STD_TORCH_CHECK(q_weight.has_value() == k_weight.has_value(), op,
                    ": want both of q_weight and k_weight or neither, got one");
    if (q_weight) {
      check_like(*k_weight, *q_weight, op, "k_weight");
      shape.weight_dtype = dtype_of(*q_weight, op, "q_weight");
      STD_TORCH_CHECK(q_weight->dim() == 1 && q_weight->size(0) == shape.width && q_weight->is_contiguous() &&
                          k_weight->is_contiguous() && same_device(*q_weight, q),
                      op, ": want q_weight and k_weight (E,), contiguous, with E = ", shape.width,
                      " on the device of q, got ", sizes_text(*q_weight));
      in.q_weight = q_weight->const_data_ptr();
      in.k_weight = k_weight->const_data_ptr();
    }
    if (rope) {
      STD_TORCH_CHECK(rope->dim() == 3 && rope->size(0) == 2 && rope->size(1) == shape.tokens() &&
                          2 * rope->size(2) == shape.width && rope->scalar_type() == ScalarType::Float &&
                          rope->is_contiguous() && same_device(*rope, q),
                      op, ": want rope (2,L,E/2) in float32, contiguous, with L = ", shape.tokens(),
                      " and E = ", shape.width, " on the device of q, got ", sizes_text(*rope));
      in.rope = static_cast<const float*>(rope->const_data_ptr());
    }
  }

 private:
  static bool same_device(const Tensor& t, const Tensor& like) {
    return t.is_cuda() == like.is_cuda() && t.get_device_index() == like.get_device_index();
  }
};

// The same for two streams: direction 0 has the queries of a, direction 1 those of b.
struct BlockCrossOperands {
  BlockShape shape{};
  BlockInputs in[2] = {};

  BlockCrossOperands(const char* op, const Tensor& qkv_a, const Tensor& qkv_b,
                     const std::vector<int64_t>& block) {
    STD_TORCH_CHECK(qkv_a.dim() == 7 && qkv_a.size(4) == 3, op, ": want qkv_a (B,T,H,W,3,A,E), got ",
                    sizes_text(qkv_a));
    shape = block_shape(op, qkv_a, "qkv_a", block);
    check_like(qkv_b, qkv_a, op, "qkv_b");
    const void *a = qkv_a.const_data_ptr(), *b = qkv_b.const_data_ptr();
    in[0].q = block_rows(shape, qkv_a, a, 0);
    in[0].k = block_rows(shape, qkv_b, b, 1);
    in[0].v = block_rows(shape, qkv_b, b, 2);
    in[1].q = block_rows(shape, qkv_b, b, 0);
    in[1].k = block_rows(shape, qkv_a, a, 1);
    in[1].v = block_rows(shape, qkv_a, a, 2);
  }
};

}  // namespace pavdit
