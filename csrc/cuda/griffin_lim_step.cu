// The equations and the cost stand in griffin_lim_step.h.
//
// Two launches an iteration, because a column needs the samples of ten neighbours: one adds the columns up,
// the other takes a few columns a block through both FFTs, in registers and shared memory (fourier.cuh).
// Between device memory and the block move only the operands: about 22 kB per column of 2048, a third of what
// cuFFT and pointwise kernels move.
#include "fourier.cuh"
#include "griffin_lim_step.h"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kThreads = 256;  // of the first stage
constexpr int kMostColumns = 8;
constexpr int kBlocks = 4;  // of 128 threads and 128 registers on a multiprocessor
constexpr int64_t kMostBlocks = 2147483647;

// ---- stage one; the first threads make the roots as well ----

__global__ __launch_bounds__(kThreads) void griffin_add_up_kernel(const GriffinStep step,
                                                                  float2* __restrict__ roots) {  // [n_fft]
  const Framing& framing = step.framing;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < framing.n_fft) roots[i] = root_of_unity(i, framing.n_fft);
  if (i >= framing.batch * framing.samples) return;
  const int64_t b = i / framing.samples, s = i % framing.samples;
  const int64_t end = s + framing.left();  // column n sees the sample if n * hop <= end < n * hop + win
  const int64_t from = end - framing.win_length, first = from < 0 ? 0 : from / framing.hop_length + 1;
  const int64_t last = end / framing.hop_length, most = framing.columns() - 1;
  float sum = 0.0f;
  for (int64_t n = first; n <= (last < most ? last : most); ++n) {
    sum += step.columns[(b * framing.columns() + n) * framing.win_length + end - n * framing.hop_length];
  }
  step.wave[i] = sum / step.square_sum[s];
}

// ---- stage two ----

// magnitude * v / |v|, 0 at 0. A square could leave the range of float32, so it is taken of v made larger or
// smaller, which changes nothing else.
__device__ __forceinline__ float2 with_magnitude(float2 v, float magnitude) {
  const float larger = fmaxf(fabsf(v.x), fabsf(v.y));
  const float scale = larger < 0x1p-40f ? 0x1p80f : larger > 0x1p50f ? 0x1p-80f : 1.0f;
  v = make_float2(v.x * scale, v.y * scale);
  const float square = v.x * v.x + v.y * v.y;
  const float factor = square == 0.0f ? 0.0f : magnitude * rsqrtf(square);
  return make_float2(v.x * factor, v.y * factor);
}

// Bins k and half - k of the thread's column, in place, as griffin_lim_step.cpp in csrc/cpu says; leaves the
// conjugates, whose transform is the conjugate of the inverse.
__device__ __forceinline__ void project_bins(const GriffinStep& step, const FourierPlan& plan, int64_t column,
                                             const float2* __restrict__ roots, float2* mine, int thread,
                                             int threads) {
  const int half = plan.points * plan.branches;
  const int64_t row = column * (half + 1);
  const float2* previous = reinterpret_cast<const float2*>(step.previous) + row;
  float2* rebuilt = reinterpret_cast<float2*>(step.rebuilt) + row;
  const float* magnitude = step.magnitude + row;
  const auto project = [&](int k, float2 x) {
    const float2 before = previous[k];
    rebuilt[k] = x;
    const float2 ahead = make_float2(x.x - step.momentum * before.x, x.y - step.momentum * before.y);
    return with_magnitude(ahead, magnitude[k]);
  };
  for (int k = thread; k <= half / 2; k += threads) {
    float2 &low_place = mine[bin_place(plan, k)], &high_place = mine[bin_place(plan, half - k)];
    const float2 low = low_place, mirrored = conjugate(high_place);
    const float2 even = low + mirrored, odd = minus_i(low - mirrored) * roots[k];
    float2 x = even + odd, y = conjugate(even - odd);
    x = make_float2(0.5f * x.x, 0.5f * x.y);
    y = make_float2(0.5f * y.x, 0.5f * y.y);
    float2 next_low = project(k, x), next_high = 2 * k == half ? next_low : project(half - k, y);
    if (k == 0) next_low.y = next_high.y = 0.0f;  // an inverse real FFT does not look at them
    const float2 next_mirrored = conjugate(next_high);
    const float2 next_even = next_low + next_mirrored;
    const float2 next_odd = (next_low - next_mirrored) * conjugate(roots[k]);
    high_place = make_float2(next_even.x + next_odd.y, next_even.y - next_odd.x);
    low_place = make_float2(next_even.x - next_odd.y, -next_even.y - next_odd.x);
  }
}

template <int kFirst>
__global__ __launch_bounds__(kFourierThreads, kBlocks) void griffin_project_kernel(
    const GriffinStep step, const FourierPlan plan, const int64_t tiles,
    const float2* __restrict__ roots) {  // [n_fft]
  const Framing& framing = step.framing;
  float2* spectrum = dynamic_shared<float2>();
  float2* signals = spectrum + plan.spectrum_size();  // [at_once, points]
  const int64_t b = blockIdx.x / tiles, n = int64_t(blockIdx.x) % tiles * plan.at_once;
  const int n_fft = int(framing.n_fft), win = int(framing.win_length), points = plan.points;

  float* flat = reinterpret_cast<float*>(signals);
  for (int i = threadIdx.x; i < 2 * plan.signal_size(); i += plan.threads) {
    const int column = i / (2 * points), offset = i % (2 * points);
    float value = 0.0f;
    if (offset < win && n + column < framing.columns()) {
      const int64_t s = framing.reflect((n + column) * framing.hop_length - framing.left() + offset);
      value = step.wave[b * framing.samples + s] * step.window[offset];
    }
    flat[i] = value;
  }
  __syncthreads();
  transform<kFirst, false>(plan, n_fft, signals, roots, spectrum);
  __syncthreads();

  const int per_column = plan.threads / plan.at_once, mine = threadIdx.x / per_column;
  if (n + mine < framing.columns()) {
    project_bins(step, plan, b * framing.columns() + n + mine, roots,
                 spectrum + mine * plan.branches * plan.branch_stride, threadIdx.x % per_column, per_column);
  }
  __syncthreads();
  transform<kFirst, true>(plan, n_fft, nullptr, roots, spectrum);
  __syncthreads();

  const float shrink = 1.0f / float(n_fft);
  for (int i = threadIdx.x; i < plan.signal_size(); i += plan.threads) {
    const int column = i / points, p = i % points;
    if (n + column >= framing.columns() || 2 * p >= win) continue;
    const float2* branches = spectrum + column * plan.branches * plan.branch_stride + place(p);
    float2 sum = branches[0];
    for (int branch = 1; branch < plan.branches; ++branch) {
      sum = sum + branches[branch * plan.branch_stride] * roots[2 * branch * p];
    }
    float* next = step.next + (b * framing.columns() + n + column) * framing.win_length + 2 * p;
    next[0] = sum.x * shrink * step.window[2 * p];
    if (2 * p + 1 < win) next[1] = -sum.y * shrink * step.window[2 * p + 1];
  }
}

}  // namespace

cudaError_t griffin_lim_step(const GriffinStep& step, float* roots_data, cudaStream_t stream) {
  const Framing& framing = step.framing;
  if (framing.batch == 0) return cudaSuccess;
  float2* roots = reinterpret_cast<float2*>(roots_data);
  const int64_t samples = framing.batch * framing.samples;
  const int64_t needed = samples > framing.n_fft ? samples : framing.n_fft;
  const FourierPlan plan(framing, kMostColumns);
  const int64_t tiles = (framing.columns() + plan.at_once - 1) / plan.at_once;
  if (needed / kThreads >= kMostBlocks || framing.batch > kMostBlocks / tiles) return cudaErrorInvalidValue;
  launch(griffin_add_up_kernel, (needed + kThreads - 1) / kThreads, kThreads, 0, stream, step, roots);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const size_t shared = size_t(plan.spectrum_size() + plan.signal_size()) * sizeof(float2);
  return with_first_radix(plan, [&](auto first) {
    launch(griffin_project_kernel<first.value>, framing.batch * tiles, plan.threads, shared, stream, step,
           plan, tiles, roots);
    return cudaGetLastError();
  });
}

}  // namespace pavdit::cuda
