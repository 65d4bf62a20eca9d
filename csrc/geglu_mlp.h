// geglu_mlp: an MLP whose hidden values are gated by the GELU of a second projection.
//
//   (value, gate) = x weight_in^T + bias_in                       hidden columns each
//   out           = (value * gelu(gate)) weight_out^T + bias_out
//
// The products are the library's, of so few rows at a time that the hidden values stay in the cache: they are
// eight times as wide as x, and a large tensor that is made and dropped costs more in fresh pages than in
// arithmetic. Behind each product stands one pass in place, `gate` and `add_bias`.
//
// Cost: 6 * rows * D * hidden multiplications and additions; reads x, writes out.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace pavdit::cpu {

struct GegluMlp {
  // value = (value + bias) * gelu(gate + bias) in h [rows, 2 * hidden]: values, then gates; bias [2 *
  // hidden].
  void (*gate)(DType dtype, int64_t hidden, const void* bias, void* h, int64_t rows);
  // out = out + bias; out [rows, columns], bias [columns].
  void (*add_bias)(DType dtype, int64_t columns, const void* bias, void* out, int64_t rows);
};

namespace baseline {
extern const GegluMlp geglu_mlp;
}
namespace avx2 {
extern const GegluMlp geglu_mlp;
}
namespace avx512 {
extern const GegluMlp geglu_mlp;
}
namespace avx512bf16 {
extern const GegluMlp geglu_mlp;
}

}  // namespace pavdit::cpu
