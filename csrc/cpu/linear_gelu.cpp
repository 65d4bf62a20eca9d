// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equation stands in linear_gelu.h.
#include "linear_gelu.h"

#include "gelu.h"
#include "rows.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

void finish(DType dtype, int64_t hidden, const void* bias, void* h, int64_t begin, int64_t end) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    const T* b = static_cast<const T*>(bias);
    for (int64_t r = begin; r < end; ++r) {
      T* row = static_cast<T*>(h) + r * hidden;
      over_columns(hidden, [&](auto v, int, int64_t i) __attribute__((always_inline)) {
        using V = decltype(v);
        store(row + i, lanewise(gelu_tanh, load<V>(row + i) + load<V>(b + i)));
      });
    }
  });
}

}  // namespace

const LinearGelu linear_gelu = {finish};

}  // namespace pavdit::cpu::PAVDIT_ISA
