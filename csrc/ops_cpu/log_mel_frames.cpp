// Registers log_mel_frames for CPUs.
#include "log_mel_frames.h"

#include <vector>

#include "capability.h"
#include "mel_views.h"
#include "roots.h"
#include "tasks.h"

namespace pavdit {
namespace {

const cpu::LogMelFrames& mel_kernels() {
  switch (cpu::capability()) {
#if defined(PAVDIT_X86)
    case cpu::Capability::kAvx512Bf16:
      return cpu::avx512bf16::log_mel_frames;
    case cpu::Capability::kAvx512:
      return cpu::avx512::log_mel_frames;
    case cpu::Capability::kAvx2:
      return cpu::avx2::log_mel_frames;
#endif
    default:
      return cpu::baseline::log_mel_frames;
  }
}

Tensor log_mel_frames(const Tensor& wave_any, const Tensor& window_any, const Tensor& filterbank_any,
                      int64_t n_fft, int64_t hop_length, int64_t columns_per_frame, double floor_db) {
  MelShape shape = mel_shape(wave_any, window_any, filterbank_any, n_fft, hop_length, columns_per_frame,
                             floor_db, kMelMinFft, kMelMaxFft);
  const Framing& framing = shape.framing;
  const Tensor wave = torch::stable::contiguous(wave_any), window = torch::stable::contiguous(window_any);
  const Tensor filterbank = torch::stable::contiguous(filterbank_any);
  Tensor out = torch::stable::new_empty(
      wave, {framing.batch, framing.columns() / columns_per_frame, shape.mels, columns_per_frame});
  if (out.numel() == 0) return out;
  const float* weights = static_cast<const float*>(window.const_data_ptr());
  double sum = 0.0;
  for (int64_t i = 0; i < framing.win_length; ++i) sum += weights[i];
  shape.full_scale = float(sum / 2);

  const auto& kernels = mel_kernels();
  const float* bank = static_cast<const float*>(filterbank.const_data_ptr());
  std::vector<int32_t> bands(size_t(2 * shape.mels));
  torch::stable::parallel_for(0, shape.mels, rows_per_task(framing.bins()), [&](int64_t begin, int64_t end) {
    kernels.find_bands(shape, bank, bands.data(), begin, end);
  });
  const float* roots = roots_of_unity(n_fft);
  const void* wave_data = wave.const_data_ptr();
  void* out_data = out.mutable_data_ptr();
  torch::stable::parallel_for(0, framing.batch * cpu::mel_groups(framing),
                              rows_per_task(n_fft * cpu::kMelColumnsPerGroup),
                              [&](int64_t begin, int64_t end) {
                                Scratch scratch(cpu::mel_scratch(framing));
                                kernels.images(shape, wave_data, weights, bank, bands.data(), roots, out_data,
                                               scratch.data(), begin, end);
                              });
  return out;
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CPU, m) {
  m.impl("log_mel_frames", TORCH_BOX(&pavdit::log_mel_frames));
}
