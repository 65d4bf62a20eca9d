// The check of a framing that the registrations of the sound ops share.
#pragma once

#include "checks.h"
#include "framing.h"

namespace pavdit {

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

inline void check_framing(const char* op, const Framing& f, int64_t min_fft, int64_t max_fft) {
  STD_TORCH_CHECK(f.n_fft >= min_fft && f.n_fft <= max_fft && (f.n_fft & (f.n_fft - 1)) == 0, op,
                  ": want n_fft a power of two in ", min_fft, "..", max_fft, ", got ", f.n_fft);
  STD_TORCH_CHECK(f.hop_length > 0 && f.hop_length <= f.win_length && f.win_length <= f.n_fft, op,
                  ": want 0 < hop_length <= win_length <= n_fft, got ", f.hop_length, ", ", f.win_length,
                  ", ", f.n_fft);
  STD_TORCH_CHECK(f.hop_length % 2 == 0, op, ": want n_fft - hop_length even, got ", f.n_fft, " - ",
                  f.hop_length);
  STD_TORCH_CHECK(f.samples % f.hop_length == 0, op,
                  ": want samples in multiples of hop_length = ", f.hop_length, ", got ", f.samples);
  STD_TORCH_CHECK(f.samples > (f.n_fft - f.hop_length) / 2, op,
                  ": want more samples than the reflect padding (n_fft - hop_length) / 2 = ",
                  (f.n_fft - f.hop_length) / 2, ", got ", f.samples);
}

}  // namespace pavdit
