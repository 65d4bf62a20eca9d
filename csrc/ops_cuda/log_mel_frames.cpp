// Registers log_mel_frames for CUDA.
#include "log_mel_frames.h"

#include "mel_views.h"
#include "stream.h"

namespace pavdit {
namespace {

Tensor log_mel_frames(const Tensor& wave_any, const Tensor& window_any, const Tensor& filterbank_any,
                      int64_t n_fft, int64_t hop_length, int64_t columns_per_frame, double floor_db) {
  const MelShape shape = mel_shape(wave_any, window_any, filterbank_any, n_fft, hop_length, columns_per_frame,
                                   floor_db, cuda::kMelMinFft, cuda::kMelMaxFft);
  const Framing& framing = shape.framing;
  const DeviceGuard guard(wave_any.get_device_index());
  const Tensor wave = torch::stable::contiguous(wave_any), window = torch::stable::contiguous(window_any);
  const Tensor filterbank = torch::stable::contiguous(filterbank_any);
  Tensor out = torch::stable::new_empty(
      wave, {framing.batch, framing.columns() / columns_per_frame, shape.mels, columns_per_frame});
  Tensor workspace = torch::stable::new_empty(window, {cuda::mel_workspace(shape)});
  STD_CUDA_CHECK(
      cuda::log_mel_frames(shape, wave.const_data_ptr(), static_cast<const float*>(window.const_data_ptr()),
                           static_cast<const float*>(filterbank.const_data_ptr()), out.mutable_data_ptr(),
                           static_cast<float*>(workspace.mutable_data_ptr()), current_stream(wave)));
  return out;
}

}  // namespace
}  // namespace pavdit

STABLE_TORCH_LIBRARY_IMPL(pavdit, CUDA, m) {
  m.impl("log_mel_frames", TORCH_BOX(&pavdit::log_mel_frames));
}
