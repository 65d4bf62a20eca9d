// multiscale_temporal_attention's view of tensors: checks with the values in their messages, then rows for
// the kernels.
#pragma once

#include <optional>
#include <vector>

#include "checks.h"
#include "multiscale_temporal_attention.h"

namespace pavdit {

inline MultiscaleShape multiscale_shape(const Tensor& qkv) {
  const char* op = "multiscale_temporal_attention";
  STD_TORCH_CHECK(qkv.dim() == 6 && qkv.size(3) == 3, op, ": want qkv (B,T,S,3,A,E), got ", sizes_text(qkv));
  const int64_t frames = qkv.size(1), width = qkv.size(5);
  STD_TORCH_CHECK(frames % kMultiscaleMultiple == 0 && frames >= kMultiscaleMultiple &&
                      frames <= kMultiscaleMaxFrames && width >= 1 && width <= kMultiscaleMaxWidth,
                  op, ": want T a multiple of ", kMultiscaleMultiple, " in ", kMultiscaleMultiple, "..",
                  kMultiscaleMaxFrames, " and E in 1..", kMultiscaleMaxWidth, ", got ", frames, " and ",
                  width);
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

// The three outputs of qkv, (B, T, S, A, E), (B, T/2, S, A, E) and (B, T/4, S, A, E).
struct MultiscaleResults {
  std::vector<Tensor> tensors;
  MultiscaleOutputs rows{};

  MultiscaleResults(const MultiscaleShape& shape, const Tensor& like) {
    for (int rate = 0; rate < kRates; ++rate) {
      tensors.push_back(torch::stable::new_empty(
          like, {shape.batch, shape.frames >> rate, shape.positions, shape.heads, shape.width}));
      rows.rates[rate] = multiscale_rows(tensors[rate], tensors[rate].mutable_data_ptr());
    }
  }
};

// The gradients that came in, and dqkv.
struct MultiscaleGradientTensors {
  std::vector<Tensor> kept;  // the rows point into them
  Tensor dqkv;
  MultiscaleGradients rows{};

  MultiscaleGradientTensors(const MultiscaleShape& shape, const Tensor& qkv,
                            const std::optional<Tensor> (&grads)[kRates])
      : dqkv(torch::stable::new_empty(qkv, qkv.sizes())) {
    static constexpr const char* kNames[kRates] = {"grad_full", "grad_half", "grad_quarter"};
    for (int rate = 0; rate < kRates; ++rate) {
      if (!grads[rate]) continue;
      check(*grads[rate], shape, qkv, kNames[rate], rate);
      kept.push_back(with_dense_rows(*grads[rate]));
      rows.rates[rate] = multiscale_rows(kept.back(), kept.back().const_data_ptr());
    }
    void* data = dqkv.mutable_data_ptr();
    for (int part = 0; part < 3; ++part) rows.parts[part] = multiscale_part(dqkv, part, data);
  }

 private:
  static void check(const Tensor& grad, const MultiscaleShape& shape, const Tensor& qkv, const char* name,
                    int rate) {
    const int64_t want[] = {shape.batch, shape.frames >> rate, shape.positions, shape.heads, shape.width};
    bool same = grad.dim() == 5 && grad.scalar_type() == qkv.scalar_type() &&
                grad.is_cuda() == qkv.is_cuda() && grad.get_device_index() == qkv.get_device_index();
    for (int64_t axis = 0; same && axis < 5; ++axis) same = grad.size(axis) == want[axis];
    STD_TORCH_CHECK(same, "multiscale_temporal_attention_backward: want ", name, " (", want[0], ", ", want[1],
                    ", ", want[2], ", ", want[3], ", ", want[4],
                    ") in the dtype of qkv and on its device, got ", sizes_text(grad));
  }
};

}  // namespace pavdit
