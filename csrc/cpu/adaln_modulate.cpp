// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in adaln_modulate.h.
#include "adaln_modulate.h"

#include "vec.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

const void* modulation_row(const AdalnShape& shape, Modulation m, int64_t group) {
  const int64_t offset = group / shape.groups * m.batch_stride + group % shape.groups * m.group_stride;
  const int64_t bytes = shape.modulation_dtype == DType::kFloat32 ? 4 : 2;
  return static_cast<const char*>(m.data) + offset * bytes;
}

// row[i] = offset + m[i] in float32, for the group with this index in [0, B * G).
void read_modulation(const AdalnShape& shape, Modulation m, int64_t group, float offset, float* row) {
  const void* source = modulation_row(shape, m, group);
  const auto convert = [&](const auto* values) {
    over_columns(shape.width,
                 [&](auto v, int, int64_t i) { store(row + i, offset + load<decltype(v)>(values + i)); });
  };
  switch (shape.modulation_dtype) {
    case DType::kFloat32:
      return convert(static_cast<const float*>(source));
    case DType::kBFloat16:
      return convert(static_cast<const BFloat16*>(source));
    case DType::kFloat16:
      return convert(static_cast<const Float16*>(source));
  }
}

template <typename T>
void forward_row(const T* x, int64_t width, const float* gain, const float* shift, float eps, T* out,
                 float* stats, float* row) {
  Sum sum;
  over_columns(width, [&](auto v, int slot, int64_t i) {
    const auto value = load<decltype(v)>(x + i);
    store(row + i, value);  // so that the 16-bit types are converted once
    sum.add(slot, value);
  });
  const float mean = sum.total() / float(width);
  Sum squares;  // a second pass over the row in cache: E[x^2] - mean^2 would cancel
  over_columns(width, [&](auto v, int slot, int64_t i) {
    const auto centred = load<decltype(v)>(row + i) - mean;
    squares.add(slot, centred * centred);
  });
  const float rstd = 1.0f / __builtin_sqrtf(squares.total() / float(width) + eps);
  over_columns(width, [&](auto v, int, int64_t i) {
    using V = decltype(v);
    store(out + i, (load<V>(row + i) - mean) * rstd * load<V>(gain + i) + load<V>(shift + i));
  });
  stats[0] = mean;
  stats[1] = rstd;
}

template <typename T>
void forward(const AdalnShape& shape, const T* x, Modulation shift, Modulation scale, float eps, T* out,
             float* stats, float* scratch, int64_t begin, int64_t end) {
  const int64_t width = shape.width;
  float* gain = scratch;
  float* offset = scratch + width;
  for (int64_t r = begin; r < end; ++r) {
    if (r == begin || r % shape.rows == 0) {
      read_modulation(shape, scale, r / shape.rows, 1.0f, gain);
      read_modulation(shape, shift, r / shape.rows, 0.0f, offset);
    }
    forward_row(x + r * width, width, gain, offset, eps, out + r * width, stats + 2 * r, scratch + 2 * width);
  }
}

// Adds the row's share to dshift and dscale and writes dx.
template <typename T>
void backward_row(const T* grad, const T* x, int64_t width, const float* gain, const float* stats, T* dx,
                  float* dshift, float* dscale, float* row_h, float* row_xhat) {
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
    store(dx + i, rstd * (load<V>(row_h + i) - mean_h - load<V>(row_xhat + i) * mean_h_xhat));
  });
}

template <typename T>
void backward(const AdalnShape& shape, const T* grad, const T* x, Modulation scale, const float* stats, T* dx,
              float* partial, float* scratch, int64_t begin, int64_t end) {
  const int64_t width = shape.width, chunks = adaln_chunks(shape, kAdalnRowsPerChunk);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t group = chunk / chunks;
    if (chunk == begin || chunk % chunks == 0) read_modulation(shape, scale, group, 1.0f, scratch);
    float* dshift = partial + chunk * 2 * width;
    float* dscale = dshift + width;
    over_columns(2 * width, [&](auto zero, int, int64_t i) { store(dshift + i, zero); });
    const int64_t first = chunk % chunks * kAdalnRowsPerChunk;
    const int64_t last = first + kAdalnRowsPerChunk < shape.rows ? first + kAdalnRowsPerChunk : shape.rows;
    for (int64_t r = group * shape.rows + first; r < group * shape.rows + last; ++r) {
      backward_row(grad + r * width, x + r * width, width, scratch, stats + 2 * r, dx + r * width, dshift,
                   dscale, scratch + width, scratch + 2 * width);
    }
  }
}

// Compensated (Kahan), because thousands of chunks may be added up one by one.
template <typename T>
void sum_partials(const AdalnShape& shape, const float* partial, T* dshift, T* dscale, float* scratch,
                  int64_t begin, int64_t end) {
  const int64_t width = shape.width, chunks = adaln_chunks(shape, kAdalnRowsPerChunk);
  const int64_t copies = shape.batch / shape.modulation_batch;  // B where the batch shares the modulation
  float *sums = scratch, *lost = scratch + 2 * width;
  for (int64_t m = begin; m < end; ++m) {
    over_columns(4 * width, [&](auto zero, int, int64_t i) { store(scratch + i, zero); });
    for (int64_t copy = 0; copy < copies; ++copy) {
      const float* source = partial + (m + copy * shape.groups) * chunks * 2 * width;
      for (int64_t chunk = 0; chunk < chunks; ++chunk, source += 2 * width) {
        over_columns(2 * width, [&](auto v, int, int64_t i) {
          using V = decltype(v);
          const V sum = load<V>(sums + i), term = load<V>(source + i) - load<V>(lost + i);
          const V next = sum + term;
          store(lost + i, (next - sum) - term);
          store(sums + i, next);
        });
      }
    }
    over_columns(width, [&](auto v, int, int64_t i) {
      using V = decltype(v);
      store(dshift + m * width + i, load<V>(sums + i));
      store(dscale + m * width + i, load<V>(sums + width + i));
    });
  }
}

// ---- from pointers without a type to the templates above ----

void forward_any(const AdalnShape& shape, const void* x, Modulation shift, Modulation scale, float eps,
                 void* out, float* stats, float* scratch, int64_t begin, int64_t end) {
  const auto run = [&](auto* typed_out) {
    forward(shape, static_cast<decltype(typed_out)>(const_cast<void*>(x)), shift, scale, eps, typed_out,
            stats, scratch, begin, end);
  };
  switch (shape.dtype) {
    case DType::kFloat32:
      return run(static_cast<float*>(out));
    case DType::kBFloat16:
      return run(static_cast<BFloat16*>(out));
    case DType::kFloat16:
      return run(static_cast<Float16*>(out));
  }
}

void backward_any(const AdalnShape& shape, const void* grad, const void* x, Modulation scale,
                  const float* stats, void* dx, float* partial, float* scratch, int64_t begin, int64_t end) {
  const auto run = [&](auto* typed_dx) {
    using T = decltype(typed_dx);
    backward(shape, static_cast<T>(const_cast<void*>(grad)), static_cast<T>(const_cast<void*>(x)), scale,
             stats, typed_dx, partial, scratch, begin, end);
  };
  switch (shape.dtype) {
    case DType::kFloat32:
      return run(static_cast<float*>(dx));
    case DType::kBFloat16:
      return run(static_cast<BFloat16*>(dx));
    case DType::kFloat16:
      return run(static_cast<Float16*>(dx));
  }
}

void sum_partials_any(const AdalnShape& shape, const float* partial, void* dshift, void* dscale,
                      float* scratch, int64_t begin, int64_t end) {
  const auto run = [&](auto* typed_dshift) {
    sum_partials(shape, partial, typed_dshift, static_cast<decltype(typed_dshift)>(dscale), scratch, begin,
                 end);
  };
  switch (shape.modulation_dtype) {
    case DType::kFloat32:
      return run(static_cast<float*>(dshift));
    case DType::kBFloat16:
      return run(static_cast<BFloat16*>(dshift));
    case DType::kFloat16:
      return run(static_cast<Float16*>(dshift));
  }
}

}  // namespace

const AdalnModulate adaln_modulate = {forward_any, backward_any, sum_partials_any};

}  // namespace pavdit::cpu::PAVDIT_ISA
