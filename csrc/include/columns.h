// From waves to columns and back for CPU kernels: what log_mel_frames and griffin_lim_step share. As in
// vec.h, everything has internal linkage and nothing comes from std::.
#pragma once

#include "fourier.h"
#include "framing.h"
#include "vec.h"

namespace pavdit {
namespace {

constexpr int64_t whole(int64_t count) {
  return (count + kLanes - 1) / kLanes * kLanes;
}

inline Floats square_root(Floats v) {
#if defined(__AVX512F__)
  return bit_cast<Floats>(_mm512_sqrt_ps(bit_cast<__m512>(v)));
#elif defined(__AVX2__)
  return bit_cast<Floats>(_mm256_sqrt_ps(bit_cast<__m256>(v)));
#else
  for (int lane = 0; lane < kLanes; ++lane) v[lane] = __builtin_sqrtf(v[lane]);
  return v;
#endif
}

// The window with zeros behind it, `samples` in all.
inline void pad_window(const Framing& framing, const float* window, int64_t samples, float* padded) {
  for (int64_t i = 0; i < samples; ++i) padded[i] = i < framing.win_length ? window[i] : 0.0f;
}

// The samples that kLanes neighbouring columns see.
inline int64_t segment_size(const Framing& framing) {
  return (kLanes - 1) * framing.hop_length + framing.win_length;
}

// segment[i] = wave[reflect(start + i)], from the first sample of column n on; 0 where only columns behind
// the last one look.
template <typename T>
void read_segment(const Framing& framing, const T* wave, int64_t n, float* segment) {
  const int64_t start = n * framing.hop_length - framing.left(), count = segment_size(framing);
  const int64_t samples = framing.samples;
  const int64_t inner = start < 0 ? (-start < count ? -start : count) : 0;
  const int64_t wanted = samples - start < count ? samples - start : count;
  const int64_t outer = wanted < inner ? inner : wanted;
  for (int64_t i = 0; i < inner; ++i) store(segment + i, load<float>(wave + framing.reflect(start + i)));
  over_columns(outer - inner, [&](auto v, int, int64_t i) {
    store(segment + inner + i, load<decltype(v)>(wave + start + inner + i));
  });
  for (int64_t i = outer; i < count; ++i) {
    const int64_t s = framing.reflect(start + i);
    store(segment + i, s < 0 ? 0.0f : load<float>(wave + s));
  }
}

// Up to kLanes elements; nothing behind `count` is touched.
inline Floats load_some(const float* source, int64_t count) {
  if (count >= kLanes) return read<Floats>(source);
  float some[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = source[i];
  return read<Floats>(some);
}

inline void store_some(float* target, int64_t count, Floats v) {
  if (count >= kLanes) return write(target, v);
  float some[kLanes];
  write(some, v);
  for (int64_t i = 0; i < count; ++i) target[i] = some[i];
}

// Windows the columns of a segment and turns them: from samples beside each other to columns beside each
// other, signals [samples, kLanes]. Returns 0 for every column whose samples are finite, else NaN.
inline Floats window_columns(const Framing& framing, const float* window, const float* segment,
                             int64_t samples, float* signals) {
  Floats broken = {};
  for (int64_t first = 0; first < samples; first += kLanes) {
    Floats rows[kLanes];
    const Floats weights = read<Floats>(window + first);
    for (int c = 0; c < kLanes; ++c) {  // what stands behind the window belongs to another column
      const float* column = segment + c * framing.hop_length + first;
      rows[c] = load_some(column, framing.win_length - first) * weights;
    }
    transpose_square(rows);
    for (int i = 0; i < kLanes; ++i) {
      broken += rows[i] * 0.0f;
      write(signals + (first + i) * kLanes, rows[i]);
    }
  }
  return broken;
}

// Rows of `count` elements, `stride` apart, to lanes: [count, kLanes]. Lanes without a row repeat the last.
inline void rows_to_lanes(const float* rows, int64_t stride, int num_rows, int64_t count, float* lanes) {
  for (int64_t first = 0; first < count; first += kLanes) {
    Floats square[kLanes];
    for (int c = 0; c < kLanes; ++c) {
      square[c] = load_some(rows + (c < num_rows ? c : num_rows - 1) * stride + first, count - first);
    }
    transpose_square(square);
    for (int i = 0; i < kLanes && first + i < count; ++i) write(lanes + (first + i) * kLanes, square[i]);
  }
}

// And back. `lanes` can be read up to a multiple of kLanes rows.
inline void lanes_to_rows(const float* lanes, int num_rows, int64_t count, float* rows, int64_t stride) {
  for (int64_t first = 0; first < count; first += kLanes) {
    Floats square[kLanes];
    for (int i = 0; i < kLanes; ++i) square[i] = read<Floats>(lanes + (first + i) * kLanes);
    transpose_square(square);
    for (int c = 0; c < num_rows; ++c) store_some(rows + c * stride + first, count - first, square[c]);
  }
}

}  // namespace
}  // namespace pavdit
