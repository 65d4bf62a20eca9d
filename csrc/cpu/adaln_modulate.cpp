// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in adaln_modulate.h.
#include "adaln_modulate.h"

#include "adaln.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

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
      in_pairs<T>(width, gain);
      in_pairs<T>(width, offset);
    }
    const T* row = x + r * width;
    forward_row([&](auto v, int64_t i) { return load<decltype(v)>(row + i); }, width, gain, offset, eps,
                out + r * width, stats + 2 * r, scratch + 2 * width,
                [&](auto v, int64_t i) { fetch(v, row + width + i); });
  }
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
      T* row = dx + r * width;
      backward_row(grad + r * width, x + r * width, width, scratch, stats + 2 * r, dshift, dscale,
                   scratch + width, scratch + 2 * width, [&](auto v, int64_t i) { store(row + i, v); });
    }
  }
}

// Compensated (Kahan), because thousands of chunks may be added up one by one.
template <typename T>
void sum_partials(const PartialSums& sums, T* first, T* second, float* scratch, int64_t begin, int64_t end) {
  const int64_t width = sums.width, columns = second == nullptr ? width : 2 * width;
  float *total = scratch, *lost = scratch + 2 * width;
  for (int64_t m = begin; m < end; ++m) {
    over_columns(4 * width, [&](auto zero, int, int64_t i) { store(scratch + i, zero); });
    for (int64_t copy = 0; copy < sums.copies; ++copy) {
      for (int64_t chunk = 0; chunk < sums.chunks; ++chunk) {
        const int64_t all_chunks = (copy * sums.rows + m) * sums.chunks + chunk;
        const float* source = sums.partial + all_chunks * sums.stride + sums.column;
        over_columns(columns, [&](auto v, int, int64_t i) {
          using V = decltype(v);
          const V sum = load<V>(total + i), term = load<V>(source + i) - load<V>(lost + i);
          const V next = sum + term;
          store(lost + i, (next - sum) - term);
          store(total + i, next);
        });
      }
    }
    over_columns(width, [&](auto v, int, int64_t i) {
      using V = decltype(v);
      store(first + m * width + i, load<V>(total + i));
      if (second != nullptr) store(second + m * width + i, load<V>(total + width + i));
    });
  }
}

// ---- from pointers without a type to the templates above ----

void forward_any(const AdalnShape& shape, const void* x, Modulation shift, Modulation scale, float eps,
                 void* out, float* stats, float* scratch, int64_t begin, int64_t end) {
  with_type(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    forward(shape, static_cast<const T*>(x), shift, scale, eps, static_cast<T*>(out), stats, scratch, begin,
            end);
  });
}

void backward_any(const AdalnShape& shape, const void* grad, const void* x, Modulation scale,
                  const float* stats, void* dx, float* partial, float* scratch, int64_t begin, int64_t end) {
  with_type(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    backward(shape, static_cast<const T*>(grad), static_cast<const T*>(x), scale, stats, static_cast<T*>(dx),
             partial, scratch, begin, end);
  });
}

void sum_partials_any(const PartialSums& sums, void* first, void* second, float* scratch, int64_t begin,
                      int64_t end) {
  with_type(sums.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    sum_partials(sums, static_cast<T*>(first), static_cast<T*>(second), scratch, begin, end);
  });
}

}  // namespace

const AdalnModulate adaln_modulate = {forward_any, backward_any, sum_partials_any};

}  // namespace pavdit::cpu::PAVDIT_ISA
