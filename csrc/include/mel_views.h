// log_mel_frames's view of tensors: checks with the values in their messages, then the shape for the kernels.
#pragma once

#include <cmath>

#include "framing_checks.h"
#include "log_mel_frames.h"

namespace pavdit {

// All but full_scale, which stands in the window's memory.
inline MelShape mel_shape(const Tensor& wave, const Tensor& window, const Tensor& filterbank, int64_t n_fft,
                          int64_t hop_length, int64_t columns_per_frame, double floor_db, int64_t min_fft,
                          int64_t max_fft) {
  const char* op = "log_mel_frames";
  STD_TORCH_CHECK(wave.dim() == 2 && window.dim() == 1 && filterbank.dim() == 2, op,
                  ": want wave (B,S), window (win_length,), filterbank (M,n_fft/2+1), got ", sizes_text(wave),
                  ", ", sizes_text(window), ", ", sizes_text(filterbank));
  const Framing framing = {wave.size(0), wave.size(1), window.size(0), n_fft, hop_length};
  check_framing(op, framing, min_fft, max_fft);
  const auto is_float = [](const Tensor& t) { return t.scalar_type() == ScalarType::Float; };
  STD_TORCH_CHECK(is_float(window) && is_float(filterbank), op,
                  ": want window and filterbank in float32, got scalar types ", int(window.scalar_type()),
                  " and ", int(filterbank.scalar_type()));
  STD_TORCH_CHECK(same_device(window, wave) && same_device(filterbank, wave), op,
                  ": want window and filterbank on the device of wave, got another");
  STD_TORCH_CHECK(filterbank.size(1) == framing.bins(), op, ": want filterbank (M,", framing.bins(),
                  "), got ", sizes_text(filterbank));
  STD_TORCH_CHECK(columns_per_frame > 0 && framing.columns() % columns_per_frame == 0, op,
                  ": want samples in multiples of hop_length * columns_per_frame = ", hop_length, " * ",
                  columns_per_frame, ", got ", framing.samples);
  STD_TORCH_CHECK(floor_db < 0 && floor_db >= kMelLowestFloor, op, ": want floor_db in ", kMelLowestFloor,
                  "..0, got ", floor_db);
  return {framing,
          filterbank.size(0),
          columns_per_frame,
          float(std::pow(10.0, floor_db / 20)),
          0.0f,
          -2.0 / floor_db * 20.0 * std::log10(2.0),
          dtype_of(wave, op, "wave")};
}

}  // namespace pavdit
