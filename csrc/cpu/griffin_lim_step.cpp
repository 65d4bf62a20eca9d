// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in griffin_lim_step.h.
//
// A lane works on one column, kLanes neighbours at a time, from samples to samples in cache.
#include "griffin_lim_step.h"

#include "columns.h"
#include "fourier.h"
#include "vec.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

// The scratch of one task, cut up.
struct Workspace {
  float* window;      // [samples], zeros behind win_length
  float* segment;     // the samples that kLanes neighbouring columns see
  float* signals;     // [samples, kLanes]; `points` complex numbers
  float* spectrum;    // [branches, points, 2, kLanes]
  float* bins;        // [K, 2, kLanes]: previous, then rebuilt; in whole squares
  float* magnitudes;  // [K, kLanes]
  int32_t* reversed;  // [points]
  int64_t samples;    // 2 * points, in whole vectors

  Workspace(const Framing& framing, const Pruned& fft, const float* given_window, float* scratch) {
    samples = whole(2 * fft.points);
    const auto take = [&](int64_t count) {
      float* taken = scratch;
      scratch += (count + 15) / 16 * 16;
      return taken;
    };
    window = take(samples);
    segment = take(segment_size(framing));
    signals = take(samples * kLanes);
    spectrum = take(2 * fft.half * kLanes);
    bins = take(whole(2 * framing.bins()) * kLanes);
    magnitudes = take(framing.bins() * kLanes);
    reversed = reinterpret_cast<int32_t*>(take(fft.points));
    pad_window(framing, given_window, samples, window);
    reverse_digits(fft.points, reversed);
  }
};

void add_up(const GriffinStep& step, int64_t begin, int64_t end) {
  const Framing& framing = step.framing;
  const int64_t chunks = griffin_chunks(framing), hop = framing.hop_length, win = framing.win_length;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t b = chunk / chunks, from = chunk % chunks * kGriffinSamplesPerChunk;
    const int64_t to =
        from + kGriffinSamplesPerChunk < framing.samples ? from + kGriffinSamplesPerChunk : framing.samples;
    float sums[kGriffinSamplesPerChunk] = {};
    const int64_t before = from + framing.left() - win;  // columns that start here or earlier end too soon
    const int64_t first = before < 0 ? 0 : before / hop + 1;
    for (int64_t n = first; n < framing.columns() && n * hop - framing.left() < to; ++n) {
      const int64_t start = n * hop - framing.left();
      const int64_t low = start > from ? start : from, high = start + win < to ? start + win : to;
      const float* column = step.columns + (b * framing.columns() + n) * win - start;
      over_columns(high - low, [&](auto v, int, int64_t i) {
        using V = decltype(v);
        float* sum = sums + (low - from) + i;
        store(sum, load<V>(sum) + load<V>(column + low + i));
      });
    }
    over_columns(to - from, [&](auto v, int, int64_t i) {
      using V = decltype(v);
      store(step.wave + b * framing.samples + from + i,
            load<V>(sums + i) / load<V>(step.square_sum + from + i));
    });
  }
}

// magnitude * v / |v|, 0 at 0. A square could leave the range of float32, so it is taken of v made larger or
// smaller, which changes nothing else.
inline Complex with_magnitude(Complex v, Floats magnitude) {
  const Floats re = v.re < 0.0f ? -v.re : v.re, im = v.im < 0.0f ? -v.im : v.im;
  const Floats larger = re > im ? re : im;
  const Floats one = Floats{} + 1.0f;
  const Floats scale = larger < 0x1p-40f ? Floats{} + 0x1p80f : larger > 0x1p50f ? Floats{} + 0x1p-80f : one;
  v = {v.re * scale, v.im * scale};
  const Floats square = v.re * v.re + v.im * v.im;
  const Floats factor = square == 0.0f ? Floats{} : magnitude / square_root(square);
  return {v.re * factor, v.im * factor};
}

// Bins k and half - k: from the spectrum Z of the complex points to X, to `projected` and back to the Z of
// its inverse, which is n_fft times too large. X as log_mel_frames.cpp finds it; back,
//   Z'[k] = E + i T and Z'[half - k] = conj(E) + i conj(T), where
//   E = X'[k] + conj(X'[half - k]) and T = (X'[k] - conj(X'[half - k])) e^(2 pi i k / n_fft).
void project_bins(const GriffinStep& step, const Pruned& fft, const Workspace& work) {
  const auto bin = [&](int64_t k) { return k % fft.branches * fft.points + work.reversed[k / fft.branches]; };
  const auto project = [&](int64_t k, Complex rebuilt) {
    const Complex previous = load_complex(work.bins, k);
    store_complex(work.bins, k, rebuilt);
    const Complex ahead = {rebuilt.re - step.momentum * previous.re,
                           rebuilt.im - step.momentum * previous.im};
    return with_magnitude(ahead, read<Floats>(work.magnitudes + k * kLanes));
  };
  const Complex first = load_complex(work.spectrum, bin(0));
  const Complex lowest = project(0, Complex{first.re + first.im, Floats{}});
  const Complex highest = project(fft.half, Complex{first.re - first.im, Floats{}});
  store_complex(work.spectrum, bin(0), {lowest.re + highest.re, lowest.re - highest.re});
  for (int64_t k = 1; k <= fft.half / 2; ++k) {
    const int64_t low_place = bin(k), high_place = bin(fft.half - k);
    const Complex low = load_complex(work.spectrum, low_place),
                  high = load_complex(work.spectrum, high_place);
    const Complex mirrored = {high.re, -high.im};
    const Complex even = low + mirrored, odd = turned(minus_i(low - mirrored), step.roots, k);
    const Complex x = {0.5f * (even.re + odd.re), 0.5f * (even.im + odd.im)};
    const Complex y = {0.5f * (even.re - odd.re), -0.5f * (even.im - odd.im)};
    const Complex next_low = project(k, x);
    const Complex next_high = 2 * k == fft.half ? next_low : project(fft.half - k, y);
    const Complex next_mirrored = {next_high.re, -next_high.im};
    const Complex next_even = next_low + next_mirrored;
    const Complex next_odd = turned_back(next_low - next_mirrored, step.roots, k);
    store_complex(work.spectrum, low_place, {next_even.re - next_odd.im, next_even.im + next_odd.re});
    store_complex(work.spectrum, high_place, {next_even.re + next_odd.im, next_odd.re - next_even.im});
  }
}

void project(const GriffinStep& step, float* scratch, int64_t begin, int64_t end) {
  const Framing& framing = step.framing;
  const Pruned fft(framing, 1);
  const Workspace work(framing, fft, step.window, scratch);
  const int64_t groups = griffin_groups(framing), columns = framing.columns();
  const int64_t bins = framing.bins(), win = framing.win_length;
  const float shrink = 1.0f / float(framing.n_fft);
  for (int64_t group = begin; group < end; ++group) {
    const int64_t b = group / groups, from = group % groups * kGriffinColumnsPerGroup;
    const int64_t to = from + kGriffinColumnsPerGroup < columns ? from + kGriffinColumnsPerGroup : columns;
    for (int64_t n = from; n < to; n += kLanes) {
      const int count = to - n < kLanes ? int(to - n) : kLanes;
      const int64_t row = b * columns + n;
      read_segment(framing, step.wave + b * framing.samples, n, work.segment);
      window_columns(framing, work.window, work.segment, work.samples, work.signals);
      rows_to_lanes(step.previous + row * 2 * bins, 2 * bins, count, 2 * bins, work.bins);
      rows_to_lanes(step.magnitude + row * bins, bins, count, bins, work.magnitudes);
      const int64_t branch_size = 2 * fft.points * kLanes;
      for (int64_t branch = 0; branch < fft.branches; ++branch) {
        branch_fft(work.signals, work.spectrum + branch * branch_size, fft, step.roots, branch);
      }
      project_bins(step, fft, work);
      for (int64_t branch = 0; branch < fft.branches; ++branch) {
        inverse_branch_fft(work.spectrum + branch * branch_size, work.signals, fft, step.roots, branch);
      }
      for (int64_t i = 0; i < win; ++i) {
        float* sample = work.signals + i * kLanes;
        write(sample, read<Floats>(sample) * (work.window[i] * shrink));
      }
      lanes_to_rows(work.signals, count, win, step.next + row * win, win);
      lanes_to_rows(work.bins, count, 2 * bins, step.rebuilt + row * 2 * bins, 2 * bins);
    }
  }
}

}  // namespace

const GriffinLimStep griffin_lim_step = {add_up, project};

}  // namespace pavdit::cpu::PAVDIT_ISA
