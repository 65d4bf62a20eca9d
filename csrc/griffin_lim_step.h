// griffin_lim_step: one iteration of fast Griffin-Lim, from the columns of a spectrum in time to the next.
//
//   wave[s]    = sum over n of columns[n, s - start(n)] / square_sum[s]      start(n) = n hop_length - left
//   rebuilt    = the FFTs of the windowed columns of wave (log_mel_frames.h)
//   ahead      = rebuilt - momentum / (1 + momentum) previous
//   projected  = magnitude ahead / |ahead|                                     0 where ahead is 0
//   columns'   = window times the first win_length samples of the inverse FFTs of projected
//
// Cost per column of K = n_fft / 2 + 1 bins: reads win_length + 3 K float32 and writes win_length + 2 K (the
// spectra are complex); 10 h log2(P) flops for both FFTs without the zeros (framing.h, h = n_fft / 2), 40 h
// between them and win_length / hop_length additions per sample. Bound by arithmetic on a CPU.
#pragma once

#include <cstdint>
#if defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "framing.h"

namespace pavdit {

constexpr int64_t kGriffinMinFft = 4;
constexpr int64_t kGriffinMaxFft = 1 << 15;

struct GriffinStep {
  Framing framing;
  float momentum;           // momentum / (1 + momentum)
  const float* columns;     // [B, N, win_length]
  const float* previous;    // [B, N, K, 2]
  const float* magnitude;   // [B, N, K]
  const float* window;      // [win_length]
  const float* square_sum;  // [S]
  const float* roots;       // [n_fft, 2]: cosine and sine of -2 pi k / n_fft
  float* wave;              // [B, S], between the two stages
  float* next;              // [B, N, win_length]
  float* rebuilt;           // [B, N, K, 2]
};

namespace cpu {

constexpr int64_t kGriffinColumnsPerGroup = 16;  // one column per lane of the widest vector
constexpr int64_t kGriffinSamplesPerChunk = 1024;

constexpr int64_t griffin_groups(const Framing& framing) {
  return (framing.columns() + kGriffinColumnsPerGroup - 1) / kGriffinColumnsPerGroup;
}
constexpr int64_t griffin_chunks(const Framing& framing) {
  return (framing.samples + kGriffinSamplesPerChunk - 1) / kGriffinSamplesPerChunk;
}

// Float32 elements of scratch that one call of `project` needs.
constexpr int64_t griffin_scratch(const Framing& framing) {
  constexpr int64_t lanes = kGriffinColumnsPerGroup;
  const Pruned fft(framing, 1);
  const int64_t samples = (2 * fft.points + lanes - 1) / lanes * lanes;
  const int64_t segment = (lanes - 1) * framing.hop_length + framing.win_length;
  return samples + segment + samples * lanes + 2 * fft.half * lanes + 3 * (framing.bins() + lanes) * lanes +
         fft.points + 8 * lanes;
}

struct GriffinLimStep {
  // Stage one, chunks [begin, end) of the B * griffin_chunks: the wave.
  void (*add_up)(const GriffinStep& step, int64_t begin, int64_t end);
  // Stage two, groups [begin, end) of the B * griffin_groups: what follows.
  void (*project)(const GriffinStep& step, float* scratch, int64_t begin, int64_t end);
};

namespace baseline {
extern const GriffinLimStep griffin_lim_step;
}
namespace avx2 {
extern const GriffinLimStep griffin_lim_step;
}
namespace avx512 {
extern const GriffinLimStep griffin_lim_step;
}
namespace avx512bf16 {
extern const GriffinLimStep griffin_lim_step;
}

}  // namespace cpu

#if defined(USE_CUDA)
namespace cuda {

constexpr int64_t kGriffinMinFft = 128;  // as log_mel_frames
constexpr int64_t kGriffinMaxFft = 4096;

// step.roots [n_fft, 2] is computed too, before the two stages.
cudaError_t griffin_lim_step(const GriffinStep& step, float* roots, cudaStream_t stream);

}  // namespace cuda
#endif
}  // namespace pavdit
