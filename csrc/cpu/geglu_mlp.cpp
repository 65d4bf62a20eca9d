// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in geglu_mlp.h.
#include "geglu_mlp.h"

#include "gelu.h"
#include "rows.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

void gate(DType dtype, int64_t hidden, const void* bias, void* h, int64_t rows) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    const T *value_bias = static_cast<const T*>(bias), *gate_bias = value_bias + hidden;
    for (int64_t r = 0; r < rows; ++r) {
      T *values = static_cast<T*>(h) + r * 2 * hidden, *gates = values + hidden;
      over_columns(hidden, [&](auto v, int, int64_t i) __attribute__((always_inline)) {
        using V = decltype(v);
        const V open = lanewise(gelu_erf, load<V>(gates + i) + load<V>(gate_bias + i));
        store(values + i, (load<V>(values + i) + load<V>(value_bias + i)) * open);
      });
    }
  });
}

void add_bias(DType dtype, int64_t columns, const void* bias, void* out, int64_t rows) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    const T* b = static_cast<const T*>(bias);
    for (int64_t r = 0; r < rows; ++r) {
      T* row = static_cast<T*>(out) + r * columns;
      over_columns(columns, [&](auto v, int, int64_t i) {
        using V = decltype(v);
        store(row + i, load<V>(row + i) + load<V>(b + i));
      });
    }
  });
}

}  // namespace

const GegluMlp geglu_mlp = {gate, add_bias};

}  // namespace pavdit::cpu::PAVDIT_ISA
