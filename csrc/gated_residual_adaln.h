// gated_residual_adaln: closes a residual and modulates it for the next layer, in one pass over memory.
//
//   residual  = x + gate * y                                           (no gate: x + y), in the dtype of x
//   modulated = xhat * (1 + scale) + shift,  xhat = (residual - mean) * rstd       as in adaln_modulate.h
//
// mean and rstd are those of the rounded residual, which is what the next layer reads from memory. Backward,
// with grad_residual and g the gradients of the two results and h = g * (1 + scale):
//
//   dx    = grad_residual + rstd * (h - mean(h) - xhat * mean(h * xhat)),   dy = gate * dx
//   dgate = sum of dx * y, dshift = sum of g, dscale = sum of g * xhat      over the rows that share them
//
// Without a gate dy is dx, and no y is needed.
//
// Cost: forward reads x and y and writes both results, 4 * rows * D elements; backward reads both gradients,
// residual and y and writes dx and dy, 6 * rows * D (4 without a gate). Bound by memory.
#pragma once

#include "adaln_modulate.h"

namespace pavdit {

// The shape's groups are the longest runs of frames in which neither the modulation nor the gate changes.
// Rows: R = B * F * N.
struct GatedResidualAdaln {
  const void* x;     // [R, D]
  const void* y;     // [R, D]
  Modulation gate;   // [B or 1, G', D]; data is null where there is none
  Modulation shift;  // [B or 1, G, D]
  Modulation scale;  // [B or 1, G, D]
  float eps;
  void* residual;   // [R, D]
  void* modulated;  // [R, D]
  float* stats;     // [R, 2]: mean and rstd
};

struct GatedResidualAdalnBackward {
  const void* grad_residual;   // [R, D], or null: zero
  const void* grad_modulated;  // [R, D]
  const void* residual;        // [R, D]
  const void* y;               // [R, D]; null without a gate
  Modulation gate;             // [B or 1, G', D]; data is null where there is none
  Modulation scale;            // [B or 1, G, D]
  const float* stats;          // [R, 2]
  void* dx;                    // [R, D]
  void* dy;                    // [R, D]; null without a gate
  float* partial;              // [B, groups, chunks, sums, D]; stage two is that of adaln_modulate

  constexpr int64_t sums() const { return gate.data == nullptr ? 2 : 3; }
};

namespace cpu {

// Rows are added up one by one within a chunk. With the 64 of adaln_modulate, dgate (whose terms are products
// of two unnormalised tensors) came out with 3.3 times the rounding error of PyTorch's pairwise sums.
constexpr int64_t kGatedRowsPerChunk = 32;

// Scratch as for adaln_modulate.
struct GatedResidualAdalnKernels {
  // Rows [begin, end).
  void (*forward)(const AdalnShape& shape, const GatedResidualAdaln& call, float* scratch, int64_t begin,
                  int64_t end);
  // Chunks [begin, end) of the B * groups * chunks.
  void (*backward)(const AdalnShape& shape, const GatedResidualAdalnBackward& call, float* scratch,
                   int64_t begin, int64_t end);
};

namespace baseline {
extern const GatedResidualAdalnKernels gated_residual_adaln;
}
namespace avx2 {
extern const GatedResidualAdalnKernels gated_residual_adaln;
}
namespace avx512 {
extern const GatedResidualAdalnKernels gated_residual_adaln;
}
namespace avx512bf16 {
extern const GatedResidualAdalnKernels gated_residual_adaln;
}

}  // namespace cpu

#if defined(USE_CUDA)
namespace cuda {

cudaError_t gated_residual_adaln_forward(const AdalnShape& shape, const GatedResidualAdaln& call,
                                         cudaStream_t stream);

// Stage one of the sums; chunks of adaln_rows_per_chunk(shape) rows.
cudaError_t gated_residual_adaln_backward(const AdalnShape& shape, const GatedResidualAdalnBackward& call,
                                          cudaStream_t stream);

}  // namespace cuda
#endif
}  // namespace pavdit
