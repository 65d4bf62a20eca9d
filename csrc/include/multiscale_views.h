// multiscale_temporal_attention's view of tensors: checks with the values in their messages, then rows for
// the kernels.
#pragma once

#include <array>
#include <optional>

#include "checks.h"
#include "multiscale_temporal_attention.h"

namespace pavdit {

inline MultiscaleShape multiscale_shape(const Tensor& qkv, int64_t max_frames) {
  const char* op = "multiscale_temporal_attention";
  STD_TORCH_CHECK(qkv.dim() == 6 && qkv.size(3) == 3, op, ": want qkv (B,T,S,3,A,E), got ", sizes_text(qkv));
  const int64_t frames = qkv.size(1), width = qkv.size(5);
  STD_TORCH_CHECK(frames % kMultiscaleMultiple == 0 && frames >= kMultiscaleMultiple &&
                      frames <= max_frames && width >= 1 && width <= kMultiscaleMaxWidth,
                  op, ": want T a multiple of ", kMultiscaleMultiple, " in ", kMultiscaleMultiple, "..",
                  max_frames, " and E in 1..", kMultiscaleMaxWidth, ", got ", frames, " and ", width);
  return {qkv.size(0), frames, qkv.size(2), qkv.size(4), width, dtype_of(qkv, op, "qkv")};
}

// Rows of t (B, T, S, A, E).
template <typename Pointer>
MultiscaleRows<Pointer> multiscale_rows(const Tensor& t, Pointer data) {
  return {data, t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// Rows of q, k or v in t (B, T, S, 3, A, E).
template <typename Void>
MultiscaleRows<Void*> multiscale_part(const Tensor& t, int64_t part, Void* data) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  const int64_t bytes = t.scalar_type() == ScalarType::Float ? 4 : 2;
  return {static_cast<Byte*>(data) + part * t.stride(3) * bytes, t.stride(0), t.stride(1), t.stride(2),
          t.stride(4)};
}

inline MultiscaleInputs multiscale_inputs(const Tensor& qkv) {
  const void* data = qkv.const_data_ptr();
  return {{multiscale_part(qkv, 0, data), multiscale_part(qkv, 1, data), multiscale_part(qkv, 2, data)}};
}

using ThreeRates = std::array<std::optional<Tensor>, kRates>;

// The three outputs, (B, T, S, A, E), (B, T/2, S, A, E) and (B, T/4, S, A, E).
inline std::array<Tensor, kRates> multiscale_results(const MultiscaleShape& shape, const Tensor& qkv) {
  const auto result = [&](int rate) {
    return torch::stable::new_empty(
        qkv, {shape.batch, shape.frames >> rate, shape.positions, shape.heads, shape.width});
  };
  return {result(0), result(1), result(2)};
}

inline MultiscaleOutputs multiscale_outputs(const std::array<Tensor, kRates>& results) {
  MultiscaleOutputs out{};
  for (int rate = 0; rate < kRates; ++rate) {
    out.rates[rate] = multiscale_rows(results[rate], results[rate].mutable_data_ptr());
  }
  return out;
}

inline void check_multiscale_grad(const Tensor& grad, const MultiscaleShape& shape, const Tensor& qkv,
                                  int rate) {
  static constexpr const char* kNames[kRates] = {"grad_full", "grad_half", "grad_quarter"};
  const int64_t want[] = {shape.batch, shape.frames >> rate, shape.positions, shape.heads, shape.width};
  bool same = grad.dim() == 5 && grad.scalar_type() == qkv.scalar_type() && grad.is_cuda() == qkv.is_cuda() &&
              grad.get_device_index() == qkv.get_device_index();
  for (int64_t axis = 0; same && axis < 5; ++axis) same = grad.size(axis) == want[axis];
  STD_TORCH_CHECK(same, "multiscale_temporal_attention_backward: want ", kNames[rate], " (", want[0], ", ",
                  want[1], ", ", want[2], ", ", want[3], ", ", want[4],
                  ") in the dtype of qkv and on its device, got ", sizes_text(grad));
}

// The gradients that came in, checked, with dense rows.
inline ThreeRates multiscale_grads(const MultiscaleShape& shape, const Tensor& qkv, const ThreeRates& grads) {
  ThreeRates dense;
  for (int rate = 0; rate < kRates; ++rate) {
    if (!grads[rate]) continue;
    check_multiscale_grad(*grads[rate], shape, qkv, rate);
    dense[rate] = with_dense_rows(*grads[rate]);
  }
  return dense;
}

inline MultiscaleGradients multiscale_gradients(const ThreeRates& grads, const Tensor& dqkv) {
  MultiscaleGradients rows{};
  for (int rate = 0; rate < kRates; ++rate) {
    if (grads[rate]) rows.rates[rate] = multiscale_rows(*grads[rate], grads[rate]->const_data_ptr());
  }
  void* data = dqkv.mutable_data_ptr();
  for (int part = 0; part < 3; ++part) rows.parts[part] = multiscale_part(dqkv, part, data);
  return rows;
}

}  // namespace pavdit
