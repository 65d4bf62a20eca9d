// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in log_mel_frames.h.
//
// A lane works on one column, kLanes neighbours at a time, from samples to decibels in cache.
#include "log_mel_frames.h"

#include "columns.h"
#include "fourier.h"
#include "vec.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

// The scratch of one task, cut up.
struct Workspace {
  float* window;      // [samples], zeros behind win_length
  float* segment;     // the samples that kLanes neighbouring columns see
  float* signals;     // [samples, kLanes], windowed; `points` complex numbers
  float* spectrum;    // [branches, points, 2, kLanes]
  float* magnitudes;  // [half + 1, kLanes], twice those of X
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
    magnitudes = take((fft.half + 1) * kLanes);
    reversed = reinterpret_cast<int32_t*>(take(fft.points));
    pad_window(framing, given_window, samples, window);
    reverse_digits(fft.points, reversed);
  }
};

// ---- magnitudes ----

inline Floats magnitude(Complex v) {
  return square_root(v.re * v.re + v.im * v.im);
}

// With Z the FFT of the complex points, 2 X[k] = E + T and 2 conj(X[half - k]) = E - T, where
// E = Z[k] + conj(Z[half - k]) and T = -i (Z[k] - conj(Z[half - k])) e^(-2 pi i k / n_fft).
void find_magnitudes(const Pruned& fft, const float* roots, const Workspace& work) {
  const auto bin = [&](int64_t k) {
    const int64_t branch = k % fft.branches, j = k / fft.branches;
    return load_complex(work.spectrum, branch * fft.points + work.reversed[j]);
  };
  const Complex first = bin(0);
  const Floats lowest = 2.0f * (first.re + first.im), highest = 2.0f * (first.re - first.im);
  write(work.magnitudes, square_root(lowest * lowest));
  write(work.magnitudes + fft.half * kLanes, square_root(highest * highest));
  for (int64_t k = 1; k <= fft.half / 2; ++k) {
    const Complex low = bin(k), high = bin(fft.half - k);
    const Complex mirrored = {high.re, -high.im};
    const Complex even = low + mirrored, odd = turned(minus_i(low - mirrored), roots, k);
    write(work.magnitudes + k * kLanes, magnitude(even + odd));
    write(work.magnitudes + (fft.half - k) * kLanes, magnitude(even - odd));
  }
}

// ---- decibels ----

// log2(v) = exponent + rest of a normal positive v. |rest| <= 1/2; its series is cut at 3e-10.
struct Log2 {
  Floats exponent, rest;

  explicit Log2(Floats v) {
    using Ints = int32_t __attribute__((vector_size(sizeof(Floats))));
    const Words bits = bit_cast<Words>(v);
    const Ints places = bit_cast<Ints>(Words(bits - 0x3f3504f3u)) >> 23;  // the bits of sqrt(1/2)
    exponent = __builtin_convertvector(places, Floats);
    const Floats mantissa = bit_cast<Floats>(Words(bits - (bit_cast<Words>(places) << 23)));
    const Floats s = (mantissa - 1.0f) / (mantissa + 1.0f), square = s * s;
    Floats sum = Floats{} + 2.88539008f / 9;  // 2 / ln(2)
    sum = sum * square + 2.88539008f / 7;
    sum = sum * square + 2.88539008f / 5;
    sum = sum * square + 2.88539008f / 3;
    sum = sum * square + 2.88539008f;
    rest = sum * s;
  }
};

// What turns mels into images.
struct Scale {
  float gain, floor_level, octave, octave_high, octave_low;

  explicit Scale(const MelShape& shape)
      : gain(0.5f / shape.full_scale), floor_level(shape.floor_level), octave(float(shape.per_octave)) {
    // 16 bits, so that the product with an exponent is exact
    octave_high = bit_cast<float>(bit_cast<uint32_t>(octave) & 0xffffff00u);
    octave_low = float(shape.per_octave - octave_high);
  }

  Floats operator()(Floats mel) const {
    const Log2 octaves(mel);
    Floats image = octaves.exponent * octave_high + 1.0f;
    image += octaves.exponent * octave_low + octaves.rest * octave;
    image = image < -1.0f ? Floats{} - 1.0f : image;
    image = mel <= floor_level ? Floats{} - 1.0f : image;
    image = mel >= 1.0f ? Floats{} + 1.0f : image;
    return mel != mel ? mel : image;
  }
};

// ---- tasks ----

// NaN is no zero.
inline bool zeros(const float* row) {
  return lane_sum(bit_cast<Floats>(Words(read<Words>(row) & 0x7fffffffu))) == 0.0f;
}

void find_bands(const MelShape& shape, const float* filterbank, int32_t* bands, int64_t begin, int64_t end) {
  const int64_t bins = shape.framing.bins();
  for (int64_t m = begin; m < end; ++m) {
    const float* row = filterbank + m * bins;
    int64_t first = 0, last = bins - 1;
    while (first + kLanes < bins && zeros(row + first)) first += kLanes;
    while (last - kLanes > first && zeros(row + last + 1 - kLanes)) last -= kLanes;
    while (first < last && row[first] == 0.0f) ++first;
    while (last > first && row[last] == 0.0f) --last;
    bands[2 * m] = int32_t(first);
    bands[2 * m + 1] = int32_t(last - first + 1);
  }
}

inline Floats weighted_sum(const float* weights, const float* magnitudes, int64_t count) {
  Floats sums[2] = {};
  int64_t i = 0;
  for (; i + 2 <= count; i += 2) {
    sums[0] += weights[i] * read<Floats>(magnitudes + i * kLanes);
    sums[1] += weights[i + 1] * read<Floats>(magnitudes + (i + 1) * kLanes);
  }
  if (i < count) sums[0] += weights[i] * read<Floats>(magnitudes + i * kLanes);
  return sums[0] + sums[1];
}

// Columns [n, n + kLanes) of one wave, as far as there are any.
template <typename T>
void write_columns(const MelShape& shape, const float* filterbank, const int32_t* bands,
                   const Workspace& work, Floats broken, int64_t n, T* out) {
  const int64_t bins = shape.framing.bins(), per_frame = shape.columns_per_frame;
  const int64_t left = shape.framing.columns() - n;
  const Scale scale(shape);
  const bool in_one_frame = n % per_frame + kLanes <= per_frame && left >= kLanes;
  int64_t places[kLanes];
  const int count = left < kLanes ? int(left) : kLanes;
  for (int c = 0; c < count; ++c) {
    places[c] = (n + c) / per_frame * shape.mels * per_frame + (n + c) % per_frame;
  }
  for (int64_t m = 0; m < shape.mels; ++m) {
    const int64_t first = bands[2 * m];
    const Floats sum =
        weighted_sum(filterbank + m * bins + first, work.magnitudes + first * kLanes, bands[2 * m + 1]);
    const Floats image = scale(sum * scale.gain + broken);
    if (in_one_frame) {
      store(out + places[0] + m * per_frame, image);
    } else {
      T values[kLanes];
      store(values, image);
      for (int c = 0; c < count; ++c) out[places[c] + m * per_frame] = values[c];
    }
  }
}

template <typename T>
void images(const MelShape& shape, const T* wave, const float* window, const float* filterbank,
            const int32_t* bands, const float* roots, T* out, float* scratch, int64_t begin, int64_t end) {
  const Framing& framing = shape.framing;
  const Pruned fft(framing, 1);
  const Workspace work(framing, fft, window, scratch);
  const int64_t groups = mel_groups(framing), columns = framing.columns();
  for (int64_t group = begin; group < end; ++group) {
    const int64_t b = group / groups, from = group % groups * kMelColumnsPerGroup;
    const int64_t to = from + kMelColumnsPerGroup < columns ? from + kMelColumnsPerGroup : columns;
    for (int64_t n = from; n < to; n += kLanes) {
      read_segment(framing, wave + b * framing.samples, n, work.segment);
      const Floats broken = window_columns(framing, work.window, work.segment, work.samples, work.signals);
      for (int64_t branch = 0; branch < fft.branches; ++branch) {
        branch_fft(work.signals, work.spectrum + branch * 2 * fft.points * kLanes, fft, roots, branch);
      }
      find_magnitudes(fft, roots, work);
      write_columns(shape, filterbank, bands, work, broken, n, out + b * columns * shape.mels);
    }
  }
}

void images_any(const MelShape& shape, const void* wave, const float* window, const float* filterbank,
                const int32_t* bands, const float* roots, void* out, float* scratch, int64_t begin,
                int64_t end) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    images(shape, static_cast<const T*>(wave), window, filterbank, bands, roots, static_cast<T*>(out),
           scratch, begin, end);
  };
  switch (shape.dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kBFloat16:
      return run(BFloat16{});
    case DType::kFloat16:
      return run(Float16{});
  }
}

}  // namespace

const LogMelFrames log_mel_frames = {find_bands, images_any};

}  // namespace pavdit::cpu::PAVDIT_ISA
