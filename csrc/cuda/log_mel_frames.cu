// The equations and the cost stand in log_mel_frames.h.
//
// A block computes 8 columns, a few at a time: their samples go windowed into shared memory, the FFTs run in
// registers with one exchange per pass, the magnitudes of all 8 columns wait in shared memory for the
// filters. At n_fft 2048 and a window of 512 a column moves about 45 kB through shared memory, which bounds
// the kernel: a transform through cuFFT moves 16 kB per column through device memory and has the filters
// still to do.
#include "fourier.cuh"
#include "launch.cuh"
#include "log_mel_frames.h"
#include "reduce.cuh"
#include "vec.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kColumns = 8;  // of a block: 32 bytes of a row of float32, one sector
constexpr int kBlocks = 4;   // that fit a multiprocessor's shared memory; without it ptxas spills to fit more
constexpr int64_t kMostBlocks = 2147483647;
constexpr size_t kDefaultShared = 48 * 1024;  // more must be asked for

// What the kernels pass on: roots [n_fft]: exp(-2 pi i k / n_fft), bands [M]: first bin and number of bins.
struct Tables {
  float2* roots;
  int2* bands;
  float* gain;  // [1]: from twice the magnitudes to mels

  Tables(const MelShape& shape, float* workspace)
      : roots(reinterpret_cast<float2*>(workspace)),
        bands(reinterpret_cast<int2*>(workspace + 2 * shape.framing.n_fft)),
        gain(workspace + 2 * shape.framing.n_fft + 2 * shape.mels) {}
};

__device__ __forceinline__ float sample(const void* wave, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kBFloat16:
      return to_float(static_cast<const __nv_bfloat16*>(wave)[i]);
    case DType::kFloat16:
      return to_float(static_cast<const __half*>(wave)[i]);
    default:
      return static_cast<const float*>(wave)[i];
  }
}

// ---- before: roots, bands and gain, so that the other kernel depends on its arguments only ----

__global__ __launch_bounds__(kFourierThreads) void log_mel_tables_kernel(
    const MelShape shape,
    const float* __restrict__ window,      // [win_length]
    const float* __restrict__ filterbank,  // [M, K]
    const Tables tables) {
  const int lane = threadIdx.x % kWarp;
  int64_t job = int64_t(blockIdx.x) * (kFourierThreads / kWarp) + threadIdx.x / kWarp;
  if (job == 0) {
    float sum = 0.0f;
    for (int i = lane; i < int(shape.framing.win_length); i += kWarp) sum += window[i];
    sum = warp_sum(sum);
    if (lane == 0) *tables.gain = 1.0f / sum;
  }
  if (job < shape.mels) {
    const int bins = int(shape.framing.bins());
    int first = 0, last = -1;
    for (int base = 0; base < bins; base += kWarp) {
      const int k = base + lane;
      const bool weighs = k < bins && filterbank[job * bins + k] != 0.0f;
      const unsigned found = __ballot_sync(0xffffffffu, weighs);
      if (found == 0) continue;
      if (last < 0) first = base + __ffs(int(found)) - 1;
      last = base + kWarp - 1 - __clz(int(found));
    }
    if (lane == 0) tables.bands[job] = {first, last < 0 ? 1 : last - first + 1};
    return;
  }
  const int64_t k = (job - shape.mels) * kWarp + lane;
  if (k < shape.framing.n_fft) {
    tables.roots[k] = root_of_unity(k, shape.framing.n_fft);
  }
}

// ---- the parts of the kernel ----

// The columns from n on, windowed, as complex points [at_once, points].
__device__ __forceinline__ void stage_samples(const MelShape& shape, const FourierPlan& plan,
                                              const void* wave, const float* __restrict__ window, int64_t b,
                                              int64_t n, float2* signals, float* broken) {
  const Framing& framing = shape.framing;
  float* flat = reinterpret_cast<float*>(signals);
  for (int i = threadIdx.x; i < plan.at_once * 2 * plan.points; i += plan.threads) {
    const int column = i / (2 * plan.points), offset = i % (2 * plan.points);
    float value = 0.0f;
    if (offset < int(framing.win_length) && n + column < framing.columns()) {
      const int64_t s = framing.reflect((n + column) * framing.hop_length - framing.left() + offset);
      value = sample(wave, shape.dtype, b * framing.samples + s) * window[offset];
      if (value - value != 0.0f) broken[column] = value - value;  // NaN, whoever writes it
    }
    flat[i] = value;
  }
}

// Twice the magnitudes of the columns in `spectrum`, as log_mel_frames.cpp in csrc/cpu says.
__device__ __forceinline__ void find_magnitudes(const FourierPlan& plan, int half, const float2* spectrum,
                                                const float2* __restrict__ roots, float* magnitudes) {
  const int per_column = plan.threads / plan.at_once, column = threadIdx.x / per_column;
  const float2* mine = spectrum + column * plan.branches * plan.branch_stride;
  const auto bin = [&](int k) { return mine[bin_place(plan, k)]; };
  for (int k = threadIdx.x % per_column; k <= half / 2; k += per_column) {
    const float2 low = bin(k), mirrored = conjugate(bin(half - k));
    const float2 even = low + mirrored, odd = minus_i(low - mirrored) * roots[k];
    const float2 sum = even + odd, difference = even - odd;
    magnitudes[column * (half + 1) + k] = sqrtf(sum.x * sum.x + sum.y * sum.y);
    magnitudes[column * (half + 1) + half - k] =
        sqrtf(difference.x * difference.x + difference.y * difference.y);
  }
}

__device__ __forceinline__ float image_of(const MelShape& shape, float mel) {
  if (mel <= shape.floor_level) return -1.0f;
  if (mel >= 1.0f) return 1.0f;
  const float image = 1.0f + float(shape.per_octave) * log2f(mel);
  return image < -1.0f ? -1.0f : image;  // a NaN stays
}

template <typename T>
__device__ __forceinline__ void store_row(const MelShape& shape, int64_t b, int64_t n, int64_t m,
                                          const float (&row)[kColumns], T* out) {
  const int64_t per_frame = shape.columns_per_frame, frames = shape.framing.columns() / per_frame;
  const auto at = [&](int64_t column) {
    return out + ((b * frames + column / per_frame) * shape.mels + m) * per_frame + column % per_frame;
  };
  if (per_frame % kColumns == 0) {  // then no frame ends within the row, and torch aligns what it allocates
    store_floats(at(n), row);
    return;
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (n + c < shape.framing.columns()) *at(n + c) = from_float<T>(row[c]);
  }
}

template <int kFirst>
__global__ __launch_bounds__(kFourierThreads, kBlocks) void log_mel_frames_fwd_kernel(
    const MelShape shape, const FourierPlan plan, const int64_t tiles,
    const void* __restrict__ wave,         // [B, S]
    const float* __restrict__ window,      // [win_length]
    const float* __restrict__ filterbank,  // [M, K]
    const Tables tables,
    void* __restrict__ out) {  // [B, T, M, L]
  float2* spectrum = dynamic_shared<float2>();
  float2* signals = spectrum + plan.spectrum_size();
  float* magnitudes = reinterpret_cast<float*>(signals + plan.signal_size());  // [8, K]
  const int bins = int(shape.framing.bins());
  float* broken = magnitudes + kColumns * bins;  // [8]: 0, or NaN
  const int64_t b = blockIdx.x / tiles, n = int64_t(blockIdx.x) % tiles * kColumns;

  if (threadIdx.x < kColumns) broken[threadIdx.x] = 0.0f;
  __syncthreads();
  for (int first = 0; first < kColumns; first += plan.at_once) {
    stage_samples(shape, plan, wave, window, b, n + first, signals, broken + first);
    __syncthreads();
    transform<kFirst, false>(plan, int(shape.framing.n_fft), signals, tables.roots, spectrum);
    __syncthreads();
    find_magnitudes(plan, bins - 1, spectrum, tables.roots, magnitudes + first * bins);
    __syncthreads();
  }

  const float gain = *tables.gain;
  for (int64_t m = threadIdx.x; m < shape.mels; m += plan.threads) {
    const int2 band = tables.bands[m];
    float row[kColumns] = {};
    for (int k = band.x; k < band.x + band.y; ++k) {
      const float weight = filterbank[m * bins + k];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) row[c] += weight * magnitudes[c * bins + k];
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) row[c] = image_of(shape, row[c] * gain + broken[c]);
    switch (shape.dtype) {
      case DType::kFloat32:
        store_row(shape, b, n, m, row, static_cast<float*>(out));
        break;
      case DType::kBFloat16:
        store_row(shape, b, n, m, row, static_cast<__nv_bfloat16*>(out));
        break;
      case DType::kFloat16:
        store_row(shape, b, n, m, row, static_cast<__half*>(out));
        break;
    }
  }
}

template <int kFirst>
cudaError_t forward(const MelShape& shape, const FourierPlan& plan, int64_t tiles, const void* wave,
                    const float* window, const float* filterbank, const Tables& tables, void* out,
                    cudaStream_t stream) {
  const size_t shared = size_t(plan.spectrum_size() + plan.signal_size()) * sizeof(float2) +
                        kColumns * (size_t(shape.framing.bins()) + 1) * sizeof(float);
  const auto kernel = log_mel_frames_fwd_kernel<kFirst>;
  if (shared > kDefaultShared) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
    if (error != cudaSuccess) return error;
  }
  launch(kernel, shape.framing.batch * tiles, plan.threads, shared, stream, shape, plan, tiles, wave, window,
         filterbank, tables, out);
  return cudaGetLastError();
}

}  // namespace

cudaError_t log_mel_frames(const MelShape& shape, const void* wave, const float* window,
                           const float* filterbank, void* out, float* workspace, cudaStream_t stream) {
  const int64_t tiles = (shape.framing.columns() + kColumns - 1) / kColumns;
  if (shape.framing.batch == 0 || shape.mels == 0) return cudaSuccess;
  if (shape.framing.batch > kMostBlocks / tiles || shape.mels > kMostBlocks / 4) return cudaErrorInvalidValue;
  const Tables tables(shape, workspace);
  const int64_t jobs = shape.mels + shape.framing.n_fft / kWarp, warps = kFourierThreads / kWarp;
  launch(log_mel_tables_kernel, (jobs + warps - 1) / warps, kFourierThreads, 0, stream, shape, window,
         filterbank, tables);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const FourierPlan plan(shape.framing, kColumns);
  return with_first_radix(plan, [&](auto first) {
    return forward<first.value>(shape, plan, tiles, wave, window, filterbank, tables, out, stream);
  });
}

}  // namespace pavdit::cuda
