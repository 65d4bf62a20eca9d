// What the CPU kernels of adaln_modulate and gated_residual_adaln share: one row of the norm, forward and
// backward. The equations stand in adaln_modulate.h. Internal linkage for the reason that vec.h gives.
#pragma once

#include "adaln_modulate.h"
#include "pairs.h"

namespace pavdit {
namespace {

template <typename T>
struct Tag {
  using Type = T;
};

// Calls run(Tag<T>{}).
template <typename Run>
inline void with_type(DType dtype, Run run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(Tag<float>{});
    case DType::kBFloat16:
      return run(Tag<BFloat16>{});
    case DType::kFloat16:
      return run(Tag<Float16>{});
  }
}

// row[i] = offset + m[i] in float32, for the group with this index in [0, B * G).
inline void read_modulation(const AdalnShape& shape, Modulation m, int64_t group, float offset, float* row) {
  const int64_t start =
      group / shape.groups * m.batch_stride + group % shape.groups / m.share * m.group_stride;
  with_type(shape.modulation_dtype, [&](auto tag) {
    const auto* values = static_cast<const typename decltype(tag)::Type*>(m.data) + start;
    over_columns(shape.width,
                 [&](auto v, int, int64_t i) { store(row + i, offset + load<decltype(v)>(values + i)); });
  });
}

// A number near the values of the row, and theirs where they are all the same: the mean of the first columns.
template <typename Source>
inline __attribute__((always_inline)) float near_the_mean(Source source, int64_t width) {
  if (width < kPair) return width > 0 ? source(float{}, 0) : 0.0f;
  const Pair first = source(Pair{}, 0);
  return lane_sum(first.first + first.second) / kPair;
}

// source(V{}, i) gives the columns of the row from i on, again whenever it is asked; gain and shift are in
// the order of pairs of T. ahead(V{}, i) may fetch what the next row will need there.
//
// One pass for both moments, over x - about: E[x^2] - mean^2 would cancel, but E[(x - about)^2] - rest^2
// loses one bit at most where `about` is no farther from the mean than the spread. Where it is farther, for
// the first columns are not like the others, the mean of the first pass serves a second one.
template <typename T, typename Source, typename Ahead>
inline __attribute__((always_inline)) void forward_row(Source source, int64_t width, const float* gain,
                                                       const float* shift, float eps, T* out, float* stats,
                                                       float* row, Ahead ahead) {
  const float share = 1.0f / float(width);
  float about = near_the_mean(source, width), rest, variance;
  for (bool again = false;; again = true) {
    PairSum sum, squares;
    over_pairs(width, [&](auto v, int slot, int64_t i) {
      fetch(v, out + i);
      const auto value = source(v, i) - about;
      store(row + i, value);  // so that the 16-bit types are converted once
      sum.add(slot, value);
      squares.add(slot, value * value);
    });
    rest = sum.total() * share;
    variance = squares.total() * share - rest * rest;  // below 0 by rounding alone
    if (again || !(rest * rest > variance)) break;
    about += rest;
  }
  const float rstd = 1.0f / __builtin_sqrtf((variance < 0.0f ? 0.0f : variance) + eps);
  const float offset = rest * rstd;
  over_pairs(width, [&](auto v, int, int64_t i) {
    using V = decltype(v);
    ahead(v, i);
    store(out + i, (load<V>(row + i) * rstd - offset) * load<V>(gain + i) + load<V>(shift + i));
  });
  stats[0] = about + rest;
  stats[1] = rstd;
}

// Adds the row's share to dshift and dscale and calls sink(dx, i) with the columns of dx from i on.
template <typename T, typename Sink>
inline __attribute__((always_inline)) void backward_row(const T* grad, const T* x, int64_t width,
                                                        const float* gain, const float* stats, float* dshift,
                                                        float* dscale, float* row_h, float* row_xhat,
                                                        Sink sink) {
  const float mean = stats[0], rstd = stats[1];
  Sum sum_h, sum_h_xhat;
  over_columns(width, [&](auto v, int slot, int64_t i) {
    using V = decltype(v);
    const V g = load<V>(grad + i);
    const V xhat = (load<V>(x + i) - mean) * rstd;
    const V h = g * load<V>(gain + i);
    store(dshift + i, load<V>(dshift + i) + g);
    store(dscale + i, load<V>(dscale + i) + g * xhat);
    store(row_h + i, h);
    store(row_xhat + i, xhat);
    sum_h.add(slot, h);
    sum_h_xhat.add(slot, h * xhat);
  });
  const float mean_h = sum_h.total() / float(width);
  const float mean_h_xhat = sum_h_xhat.total() / float(width);
  over_columns(width, [&](auto v, int, int64_t i) {
    using V = decltype(v);
    const V dx = rstd * (load<V>(row_h + i) - mean_h - load<V>(row_xhat + i) * mean_h_xhat);
    sink(dx, i);
  });
}

}  // namespace
}  // namespace pavdit
