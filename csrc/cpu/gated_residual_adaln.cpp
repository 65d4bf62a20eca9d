// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in gated_residual_adaln.h.
#include "gated_residual_adaln.h"

#include "adaln.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

template <typename T, bool kGated>
void forward(const AdalnShape& shape, const GatedResidualAdaln& call, float* scratch, int64_t begin,
             int64_t end) {
  const int64_t width = shape.width;
  float *gain = scratch, *offset = scratch + width, *gate = scratch + 2 * width;
  for (int64_t r = begin; r < end; ++r) {
    if (r == begin || r % shape.rows == 0) {
      const int64_t group = r / shape.rows;
      read_modulation(shape, call.scale, group, 1.0f, gain);
      read_modulation(shape, call.shift, group, 0.0f, offset);
      if constexpr (kGated) read_modulation(shape, call.gate, group, 0.0f, gate);
      in_pairs<T>(width, gain);
      in_pairs<T>(width, offset);
      if constexpr (kGated) in_pairs<T>(width, gate);
    }
    const T* x = static_cast<const T*>(call.x) + r * width;
    const T* y = static_cast<const T*>(call.y) + r * width;
    T* residual = static_cast<T*>(call.residual) + r * width;
    const auto close = [&](auto v, int64_t i) __attribute__((always_inline)) {
      using V = decltype(v);
      V sum = load<V>(x + i);
      if constexpr (kGated) {
        sum = sum + load<V>(gate + i) * load<V>(y + i);
      } else {
        sum = sum + load<V>(y + i);
      }
      store(residual + i, sum);
      return load<V>(residual + i);  // the norm is of the rounded value
    };
    const auto ahead = [&](auto v, int64_t i) __attribute__((always_inline)) {
      fetch(v, x + width + i);
      fetch(v, y + width + i);
      fetch(v, residual + width + i);
    };
    forward_row(close, width, gain, offset, call.eps, static_cast<T*>(call.modulated) + r * width,
                call.stats + 2 * r, scratch + 3 * width, ahead);
  }
}

template <typename T, bool kGated, bool kResidualGrad>
void backward(const AdalnShape& shape, const GatedResidualAdalnBackward& call, float* scratch, int64_t begin,
              int64_t end) {
  const int64_t width = shape.width, chunks = adaln_chunks(shape, kGatedRowsPerChunk);
  const T* grad_residual = static_cast<const T*>(call.grad_residual);
  const T* y = static_cast<const T*>(call.y);
  T *dx = static_cast<T*>(call.dx), *dy = static_cast<T*>(call.dy);
  float *gain = scratch, *gate = scratch + width;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t group = chunk / chunks;
    if (chunk == begin || chunk % chunks == 0) {
      read_modulation(shape, call.scale, group, 1.0f, gain);
      if constexpr (kGated) read_modulation(shape, call.gate, group, 0.0f, gate);
    }
    float* dshift = call.partial + chunk * call.sums() * width;
    float *dscale = dshift + width, *dgate = dshift + 2 * width;
    over_columns(call.sums() * width, [&](auto zero, int, int64_t i) { store(dshift + i, zero); });
    const int64_t first = chunk % chunks * kGatedRowsPerChunk;
    const int64_t last = first + kGatedRowsPerChunk < shape.rows ? first + kGatedRowsPerChunk : shape.rows;
    for (int64_t r = group * shape.rows + first; r < group * shape.rows + last; ++r) {
      const int64_t row = r * width;
      const auto sink = [&](auto through_norm, int64_t i) __attribute__((always_inline)) {
        using V = decltype(through_norm);
        V total = through_norm;
        if constexpr (kResidualGrad) total += load<V>(grad_residual + row + i);
        store(dx + row + i, total);
        if constexpr (kGated) {
          store(dy + row + i, load<V>(gate + i) * total);
          store(dgate + i, load<V>(dgate + i) + total * load<V>(y + row + i));
        }
      };
      backward_row(static_cast<const T*>(call.grad_modulated) + row,
                   static_cast<const T*>(call.residual) + row, width, gain, call.stats + 2 * r, dshift,
                   dscale, scratch + 2 * width, scratch + 3 * width, sink);
    }
  }
}

// ---- from pointers without a type to the templates above ----

void forward_any(const AdalnShape& shape, const GatedResidualAdaln& call, float* scratch, int64_t begin,
                 int64_t end) {
  with_type(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto run = call.gate.data == nullptr ? forward<T, false> : forward<T, true>;
    run(shape, call, scratch, begin, end);
  });
}

void backward_any(const AdalnShape& shape, const GatedResidualAdalnBackward& call, float* scratch,
                  int64_t begin, int64_t end) {
  with_type(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto no_gate = call.grad_residual == nullptr ? backward<T, false, false> : backward<T, false, true>;
    const auto with_gate = call.grad_residual == nullptr ? backward<T, true, false> : backward<T, true, true>;
    (call.gate.data == nullptr ? no_gate : with_gate)(shape, call, scratch, begin, end);
  });
}

}  // namespace

const GatedResidualAdalnKernels gated_residual_adaln = {forward_any, backward_any};

}  // namespace pavdit::cpu::PAVDIT_ISA
