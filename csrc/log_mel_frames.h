// log_mel_frames: a wave to the images of its log-mel spectrogram that video frames own.
//
//   seen[i, n]  = window[i] wave[reflect(n hop_length - left + i)]             i < win_length
//   X[k, n]     = sum over i of seen[i, n] e^(-2 pi sqrt(-1) k i / n_fft)
//   mel[m, n]   = sum over k of filterbank[m, k] |X[k, n]| / (sum(window) / 2)
//   level[m, n] = 20 log10 mel[m, n], held in [floor_db, 0]
//   out[n / L, m, n % L] = 1 - 2 level / floor_db
//
// A filter is a short run of bins: its first and last bin with a weight are searched in the filterbank, and
// only what lies between them is read again.
//
// Cost per column of n_fft samples: reads hop_length new samples, writes M elements. With h = n_fft / 2 and P
// points that are not zero (framing.h), 5 h log2(P) flops for the FFT (2.5 n_fft log2(n_fft) without the
// zeros), 20 h for the magnitudes, 2 flops per weight of the filterbank that is not 0 (at most two per bin)
// and about 20 per element of the logarithm. Bound by arithmetic on a CPU.
#pragma once

#include <cstdint>
#if defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "dtype.h"
#include "framing.h"

namespace pavdit {

constexpr int64_t kMelMinFft = 4;
constexpr int64_t kMelMaxFft = 1 << 15;     // 32,768 samples: a group's spectrum is then 2 MB
constexpr double kMelLowestFloor = -300.0;  // beyond, squares of magnitudes leave the range of float32

struct MelShape {
  Framing framing;
  int64_t mels;               // M
  int64_t columns_per_frame;  // L
  float floor_level;          // 10^(floor_db / 20)
  float full_scale;           // sum(window) / 2
  double per_octave;          // what the image gains where the mel doubles: -2 / floor_db * 20 log10(2)
  DType dtype;                // of the wave and of out
};

namespace cpu {

constexpr int64_t kMelColumnsPerGroup = 16;  // one column per lane of the widest vector

constexpr int64_t mel_groups(const Framing& framing) {
  return (framing.columns() + kMelColumnsPerGroup - 1) / kMelColumnsPerGroup;
}

// Float32 elements of scratch that one call of `images` needs.
constexpr int64_t mel_scratch(const Framing& framing) {
  constexpr int64_t lanes = kMelColumnsPerGroup;
  const Pruned fft(framing, 1);
  const int64_t samples = (2 * fft.points + lanes - 1) / lanes * lanes;
  const int64_t segment = (lanes - 1) * framing.hop_length + framing.win_length;
  return samples + (segment + lanes) + samples * lanes + 2 * fft.half * lanes + (fft.half + 1) * lanes +
         2 * fft.points + 6 * lanes;
}

struct LogMelFrames {
  // Rows [begin, end) of bands [M, 2]: first bin and number of bins, at least one.
  void (*find_bands)(const MelShape& shape, const float* filterbank, int32_t* bands, int64_t begin,
                     int64_t end);
  // Groups [begin, end) of the B * mel_groups. wave [B, S], window [win_length], filterbank [M, K],
  // roots [n_fft, 2]: cosine and sine of -2 pi k / n_fft, out [B, T, M, L].
  void (*images)(const MelShape& shape, const void* wave, const float* window, const float* filterbank,
                 const int32_t* bands, const float* roots, void* out, float* scratch, int64_t begin,
                 int64_t end);
};

namespace baseline {
extern const LogMelFrames log_mel_frames;
}
namespace avx2 {
extern const LogMelFrames log_mel_frames;
}
namespace avx512 {
extern const LogMelFrames log_mel_frames;
}
namespace avx512bf16 {
extern const LogMelFrames log_mel_frames;
}

}  // namespace cpu

#if defined(USE_CUDA)
namespace cuda {

constexpr int64_t kMelMinFft = 128;   // a block of 8 columns is then one warp
constexpr int64_t kMelMaxFft = 4096;  // the magnitudes of 8 columns fill 66 kB of shared memory

// Float32 elements of workspace that one call needs.
constexpr int64_t mel_workspace(const MelShape& shape) {
  return 2 * shape.framing.n_fft + 2 * shape.mels + 2;
}

// The operands as above; full_scale is computed on the device. workspace: aligned to 8 bytes.
cudaError_t log_mel_frames(const MelShape& shape, const void* wave, const float* window,
                           const float* filterbank, void* out, float* workspace, cudaStream_t stream);

}  // namespace cuda
#endif
}  // namespace pavdit
