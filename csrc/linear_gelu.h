// linear_gelu: a linear layer and its tanh-GELU. The product is the library's; what follows it is one pass in
// place:
//
//   h = gelu(h + bias)
//
// Cost: reads and writes rows * hidden elements, still in the cache where they fit; bound by arithmetic
// there, an exponential and a division an element.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace pavdit::cpu {

struct LinearGelu {
  // Rows [begin, end) of h [R, hidden] in place; bias [hidden].
  void (*finish)(DType dtype, int64_t hidden, const void* bias, void* h, int64_t begin, int64_t end);
};

namespace baseline {
extern const LinearGelu linear_gelu;
}
namespace avx2 {
extern const LinearGelu linear_gelu;
}
namespace avx512 {
extern const LinearGelu linear_gelu;
}
namespace avx512bf16 {
extern const LinearGelu linear_gelu;
}

}  // namespace pavdit::cpu
