// adaLN's view of tensors: checks with the values in their messages, then rows for the kernels.
#pragma once

#include <numeric>

#include "adaln_modulate.h"
#include "checks.h"

namespace pavdit {

inline AdalnShape adaln_shape(const char* op, const Tensor& x, const Tensor& scale) {
  STD_TORCH_CHECK(x.dim() == 4 && scale.dim() == 3, op, ": want x (B,F,N,D), scale (B or 1,G,D), got ",
                  sizes_text(x), ", ", sizes_text(scale));
  const int64_t batch = x.size(0), frames = x.size(1), groups = scale.size(1);
  STD_TORCH_CHECK((scale.size(0) == batch || scale.size(0) == 1) && scale.size(2) == x.size(3) &&
                      groups > 0 && frames % groups == 0,
                  op, ": want scale (B or 1,G,D) with G dividing F of x (B,F,N,D), got ", sizes_text(scale),
                  ", ", sizes_text(x));
  check_device(scale, x, op, "scale");
  const DType dtype = dtype_of(x, op, "x"), modulation_dtype = dtype_of(scale, op, "scale");
  STD_TORCH_CHECK(modulation_dtype == dtype || modulation_dtype == DType::kFloat32, op,
                  ": want scale in float32 or the dtype of x, got scalar types ", int(scale.scalar_type()),
                  ", ", int(x.scalar_type()));
  return {batch, groups, frames / groups * x.size(2), x.size(3), dtype, modulation_dtype};
}

// With a gate of its own grouping: a group of the shape then is the longest run of frames that crosses the
// border of neither.
inline AdalnShape adaln_shape(const char* op, const Tensor& x, const Tensor& scale, const Tensor& gate) {
  const AdalnShape by_scale = adaln_shape(op, x, scale);
  const bool fits = gate.dim() == 3 && (gate.size(0) == x.size(0) || gate.size(0) == 1) &&
                    gate.size(2) == x.size(3) && gate.size(1) > 0 && x.size(1) % gate.size(1) == 0;
  STD_TORCH_CHECK(fits && gate.scalar_type() == scale.scalar_type(), op,
                  ": want gate (B or 1,G,D) with G dividing F of x (B,F,N,D) and the dtype of scale, got ",
                  sizes_text(gate), ", ", sizes_text(x), ", scalar types ", int(gate.scalar_type()), ", ",
                  int(scale.scalar_type()));
  check_device(gate, x, op, "gate");
  AdalnShape shape = by_scale;
  shape.groups = std::lcm(scale.size(1), gate.size(1));
  shape.rows = x.size(1) / shape.groups * x.size(2);
  return shape;
}

inline Modulation modulation(const AdalnShape& shape, const Tensor& t) {
  return {t.const_data_ptr(), t.size(0), t.size(0) == 1 ? 0 : t.stride(0), t.stride(1),
          shape.groups / t.size(1)};
}

// mean and rstd of every row: (B,F,N,2) in float32, contiguous.
inline void check_stats(const char* op, const Tensor& stats, const Tensor& x) {
  bool fits = stats.dim() == 4 && stats.size(3) == 2;
  for (int64_t axis = 0; fits && axis < 3; ++axis) fits = stats.size(axis) == x.size(axis);
  STD_TORCH_CHECK(fits && stats.scalar_type() == ScalarType::Float && stats.is_contiguous(), op,
                  ": want stats (B,F,N,2) in float32, contiguous, beside ", sizes_text(x), ", got ",
                  sizes_text(stats));
  check_device(stats, x, op, "stats");
}

// Stage two of the sums over rows, for one gradient or for two (null: one). Defined beside adaln_modulate.
void sum_partials(const PartialSums& sums, void* first, void* second);

}  // namespace pavdit
