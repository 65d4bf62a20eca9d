// Rows of the CPU attention kernels: from memory in any dtype to float32 in scratch and back, and what a row
// goes through in between, RMS norm and rotation, with the gradients of both.
//
//   prepare(x) = rope(x rstd weight)            rstd = 1 / sqrt(mean(x^2) + eps), norm and rope both optional
//   dx = rstd (h - xhat mean(h xhat)), dweight = sum of y xhat     y: the gradient turned back, h = y weight
//
// Internal linkage for the reason that vec.h gives.
#pragma once

#include "attention_scratch.h"
#include "dtype.h"
#include "vec.h"

namespace pavdit {
namespace {

// Float32 rows in memory or in scratch. A row in scratch is row_scratch(width) long, 0 beyond its width.
struct Rows {
  const float* data;
  int64_t stride;
};

// Calls run(T{}) with the type of an element.
template <typename Run>
inline void with_type(DType dtype, Run run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kBFloat16:
      return run(BFloat16{});
    case DType::kFloat16:
      return run(Float16{});
  }
}

// ---- memory and scratch ----

// Fills the last vector up with zeros.
template <typename T>
inline void load_row(const T* source, int64_t width, float* row) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(row + i, load<Floats>(source + i));
  if (i < width) {
    T rest[kLanes] = {};
    __builtin_memcpy(rest, source + i, (width - i) * sizeof(T));
    store(row + i, load<Floats>(rest));
  }
}

template <typename T>
inline void store_row(const float* row, int64_t width, T* target) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(target + i, load<Floats>(row + i));
  if (i < width) {
    T rest[kLanes];
    store(rest, load<Floats>(row + i));
    __builtin_memcpy(target + i, rest, (width - i) * sizeof(T));
  }
}

template <typename T>
inline void zero_row(int64_t width, T* target) {
  for (int64_t i = 0; i < width; ++i) store(target + i, 0.0f);
}

// ---- norm and rotation ----

// Null for no norm, for no rotation. All in scratch.
struct Preparation {
  const float* weight;   // [row_scratch(width)]
  const float* cosines;  // [tokens, row_scratch(width)]
  const float* sines;
  float eps;

  bool any() const { return weight != nullptr || cosines != nullptr; }
};

inline void load_weight(DType dtype, const void* weight, int64_t width, float* row) {
  for (int64_t i = width; i < row_scratch(width); ++i) row[i] = 0.0f;
  with_type(dtype, [&](auto type) { load_row(static_cast<const decltype(type)*>(weight), width, row); });
}

// From rope [2, tokens, width / 2] to cosines = (c0, c0, c1, c1, ...) and sines = (-s0, s0, -s1, s1, ...), so
// that a pair turns without a shuffle of its own.
inline void load_rope(const float* rope, int64_t tokens, int64_t width, float* cosines, float* sines) {
  const int64_t half = width / 2, row = row_scratch(width);
  for (int64_t token = 0; token < tokens; ++token, cosines += row, sines += row, rope += half) {
    for (int64_t i = 0; i < row; ++i) {
      const float* pair = rope + i / 2;
      cosines[i] = i < width ? pair[0] : 0.0f;
      sines[i] = i >= width ? 0.0f : i % 2 == 0 ? -pair[tokens * half] : pair[tokens * half];
    }
  }
}

// (x0, x1, x2, x3, ...) to (x1, x0, x3, x2, ...)
inline Floats swap_pairs(Floats v) {
  using Pairs = uint64_t __attribute__((vector_size(sizeof(Floats))));
  const Pairs pairs = bit_cast<Pairs>(v);
  return bit_cast<Floats>(Pairs((pairs << 32) | (pairs >> 32)));
}

inline float reciprocal_rms(const float* row, int64_t width, float eps) {
  Sum squares;
  over_columns(padded(width, kLanes), [&](auto v, int slot, int64_t i) {
    const auto value = load<decltype(v)>(row + i);
    squares.add(slot, value * value);
  });
  return 1.0f / __builtin_sqrtf(squares.total() / float(width) + eps);
}

// A row in scratch, in place; `token` picks the angles.
inline void prepare(float* row, int64_t width, const Preparation& how, int64_t token) {
  if (how.weight != nullptr) {
    const float rstd = reciprocal_rms(row, width, how.eps);
    for (int64_t i = 0; i < width; i += kLanes) {
      store(row + i, load<Floats>(row + i) * rstd * load<Floats>(how.weight + i));
    }
  }
  if (how.cosines != nullptr) {
    const float* cosines = how.cosines + token * row_scratch(width);
    const float* sines = how.sines + token * row_scratch(width);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Floats value = load<Floats>(row + i);
      store(row + i, value * load<Floats>(cosines + i) + swap_pairs(value) * load<Floats>(sines + i));
    }
  }
}

// The gradient of `prepare`, in place in `grad`; adds the row's share to dweight. x: the row as it was read.
// All are in scratch; x and dweight matter only where there is a norm.
inline void prepare_backward(float* grad, const float* x, int64_t width, const Preparation& how,
                             int64_t token, float* dweight) {
  for (int64_t i = width; i < row_scratch(width); ++i) grad[i] = 0.0f;  // a product leaves the end as it was
  if (how.cosines != nullptr) {
    const float* cosines = how.cosines + token * row_scratch(width);
    const float* sines = how.sines + token * row_scratch(width);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Floats value = load<Floats>(grad + i);
      store(grad + i, value * load<Floats>(cosines + i) - swap_pairs(value) * load<Floats>(sines + i));
    }
  }
  if (how.weight == nullptr) return;
  const float rstd = reciprocal_rms(x, width, how.eps);
  Sum sum;
  for (int64_t i = 0; i < width; i += kLanes) {
    const Floats y = load<Floats>(grad + i), xhat = load<Floats>(x + i) * rstd;
    const Floats h = y * load<Floats>(how.weight + i);
    store(dweight + i, load<Floats>(dweight + i) + y * xhat);
    store(grad + i, h);
    sum.add(0, h * xhat);
  }
  const float mean = sum.total() / float(width);
  for (int64_t i = 0; i < width; i += kLanes) {
    store(grad + i, rstd * (load<Floats>(grad + i) - load<Floats>(x + i) * rstd * mean));
  }
}

// Stage two of the weights' gradients: partial [chunks, 2, width] to dq_weight, dk_weight [width]. Scratch:
// 4 width. Compensated (Kahan), because many thousands of chunks may be added up one by one.
inline void sum_partials(const float* partial, int64_t chunks, int64_t width, DType dtype, void* dq_weight,
                         void* dk_weight, float* scratch) {
  float *sums = scratch, *lost = scratch + 2 * width;
  over_columns(4 * width, [&](auto zero, int, int64_t i) { store(scratch + i, zero); });
  for (int64_t chunk = 0; chunk < chunks; ++chunk, partial += 2 * width) {
    over_columns(2 * width, [&](auto v, int, int64_t i) {
      using V = decltype(v);
      const V sum = load<V>(sums + i), term = load<V>(partial + i) - load<V>(lost + i);
      const V next = sum + term;
      store(lost + i, (next - sum) - term);
      store(sums + i, next);
    });
  }
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    over_columns(width, [&](auto v, int, int64_t i) {
      using V = decltype(v);
      store(static_cast<T*>(dq_weight) + i, load<V>(sums + i));
      store(static_cast<T*>(dk_weight) + i, load<V>(sums + width + i));
    });
  });
}

}  // namespace
}  // namespace pavdit
