// griffin_lim_step's view of tensors: checks with the values in their messages, results, then pointers.
#pragma once

#include "framing_checks.h"
#include "griffin_lim_step.h"

namespace pavdit {
namespace {  // torch's tensors are hidden from other libraries, so what holds them must be

inline Framing griffin_framing(const Tensor& columns, const Tensor& previous, const Tensor& magnitude,
                               const Tensor& window, const Tensor& square_sum, int64_t n_fft,
                               int64_t hop_length, int64_t min_fft, int64_t max_fft) {
  const char* op = "griffin_lim_step";
  STD_TORCH_CHECK(columns.dim() == 3 && window.dim() == 1 && window.size(0) == columns.size(2), op,
                  ": want columns (B,N,win_length), window (win_length,), got ", sizes_text(columns), ", ",
                  sizes_text(window));
  STD_TORCH_CHECK(hop_length > 0 && hop_length <= window.size(0), op,  // before it multiplies anything
                  ": want 0 < hop_length <= win_length, got ", hop_length, ", ", window.size(0));
  const Framing framing = {columns.size(0), columns.size(1) * hop_length, columns.size(2), n_fft, hop_length};
  check_framing(op, framing, min_fft, max_fft);
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

// Holds what the pointers of `step` point to, but for the roots.
struct GriffinOperands {
  Framing framing;
  float momentum;
  Tensor columns, previous, magnitude, window, square_sum, wave, next, rebuilt;

  GriffinOperands(const Tensor& columns_any, const Tensor& previous_any, const Tensor& magnitude_any,
                  const Tensor& window_any, const Tensor& square_sum_any, int64_t n_fft, int64_t hop_length,
                  double given_momentum, int64_t min_fft, int64_t max_fft)
      : framing(griffin_framing(columns_any, previous_any, magnitude_any, window_any, square_sum_any, n_fft,
                                hop_length, min_fft, max_fft)),
        momentum(float(given_momentum / (1.0 + given_momentum))),
        columns(torch::stable::contiguous(columns_any)),
        previous(torch::stable::contiguous(previous_any)),
        magnitude(torch::stable::contiguous(magnitude_any)),
        window(torch::stable::contiguous(window_any)),
        square_sum(torch::stable::contiguous(square_sum_any)),
        wave(torch::stable::new_empty(columns, {framing.batch, framing.samples})),
        next(torch::stable::new_empty(columns, columns.sizes())),
        rebuilt(torch::stable::new_empty(previous, previous.sizes())) {
    STD_TORCH_CHECK(given_momentum >= 0.0, "griffin_lim_step: want momentum >= 0, got ", given_momentum);
  }

  GriffinStep step() const {
    const auto in = [](const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); };
    const auto out = [](const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); };
    return {framing,        momentum, in(columns), in(previous), in(magnitude), in(window),
            in(square_sum), nullptr,  out(wave),   out(next),    out(rebuilt)};
  }
};

}  // namespace
}  // namespace pavdit
