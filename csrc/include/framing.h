// Which samples a column of a spectrogram sees; what the sound ops share on every device, as
// pavdit/ops/_stft.py.
#pragma once

#include <cstdint>

namespace pavdit {

#if defined(__CUDACC__)
#define PAVDIT_BOTH __host__ __device__
#else
#define PAVDIT_BOTH
#endif

// Column n of N = S / hop_length begins at sample n * hop_length - left() of the wave, which is reflected at
// both ends. The FFT pads the win_length samples at their end: a magnitude does not see where they stand.
struct Framing {
  int64_t batch;       // B
  int64_t samples;     // S, a multiple of hop_length and more than the reflect padding
  int64_t win_length;  // hop_length <= win_length <= n_fft
  int64_t n_fft;       // a power of two
  int64_t hop_length;

  PAVDIT_BOTH constexpr int64_t columns() const { return samples / hop_length; }
  PAVDIT_BOTH constexpr int64_t bins() const { return n_fft / 2 + 1; }
  PAVDIT_BOTH constexpr int64_t left() const { return (n_fft - hop_length) / 2 - (n_fft - win_length) / 2; }
  // Where sample s lies, -samples < s < 2 * samples - 1.
  PAVDIT_BOTH constexpr int64_t reflect(int64_t s) const {
    s = s < 0 ? -s : s;
    return s < samples ? s : 2 * (samples - 1) - s;
  }
};

// The FFT of a real signal of n_fft samples is one of n_fft / 2 complex points (x[2p], x[2p+1]). Only the
// first win_length samples are not zero, so only `points` of those: it falls apart into `branches` FFTs of
// `points`, branch r of the points turned by exp(-2 pi i r p / (n_fft / 2)), which gives bins r + branches *
// j.
struct Pruned {
  int64_t half;      // n_fft / 2
  int64_t points;    // the smallest power of two with 2 * points >= win_length
  int64_t branches;  // half / points

  PAVDIT_BOTH constexpr Pruned(const Framing& framing, int64_t fewest_points)
      : half(framing.n_fft / 2), points(fewest_points), branches(0) {
    while (2 * points < framing.win_length) points *= 2;
    branches = half / points;
  }
};

#undef PAVDIT_BOTH

}  // namespace pavdit
