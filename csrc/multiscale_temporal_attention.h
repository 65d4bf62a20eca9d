// multiscale_temporal_attention: q, k and v averaged over 1, 2 and 4 neighbouring frames, and at each of
// these three rates softmax attention along time (PAV-DiT eq. 4, the Attn_t of eq. 5). A position of S, or of
// the batch, and a head is a problem of its own.
//
//   x^r_j   = mean of x_i over the frames i in [r j, r j + r)                    x: q, k, v;  r: 1, 2, 4
//   out^r_i = sum over j of p^r_ij v^r_j,   p^r_ij = softmax over j of q^r_i . k^r_j / sqrt(E)
//
// Backward, with g^r the gradient of out^r (a missing one is 0):
//
//   dx_i = sum over r of dx^r_(i / r) / r,  dq^r, dk^r, dv^r from g^r as in axis_attention.h
//
// Cost per problem of T frames: forward reads 3 T E elements and writes 7/4 T E, and does 4 (1 + 1/4 + 1/16)
// T^2 E flops; backward computes p again (only qkv is saved), reads 19/4 T E, writes 3 T E, and does 2.5
// times the flops. The averages never reach memory; three calls of an attention would write and read 9/4 T E
// more. At T = 16 that is 4.4 flops a byte in float32, 8.8 in bfloat16: memory bounds it on a GPU, arithmetic
// and memory about equally on a CPU.
#pragma once

#include <cstdint>
#if defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "attention_scratch.h"
#include "dtype.h"

namespace pavdit {

constexpr int kRates = 3;                     // 1, 2, 4: rate r averages 1 << r frames
constexpr int kMultiscaleMultiple = 4;        // T is a multiple of it
constexpr int kMultiscaleMaxFrames = 80;      // the working memory of a problem stays in L2
constexpr int kMultiscaleCudaMaxFrames = 32;  // a lane per frame
constexpr int kMultiscaleMaxWidth = 128;

struct MultiscaleShape {
  int64_t batch;      // B
  int64_t frames;     // T
  int64_t positions;  // S
  int64_t heads;      // A
  int64_t width;      // E
  DType dtype;        // of everything

  constexpr int64_t problems() const { return batch * positions * heads; }
};

// One row of E contiguous elements per (batch, frame, position, head); strides in elements.
template <typename Pointer>
struct MultiscaleRows {
  Pointer data;
  int64_t batch, frame, position, head;
};

struct MultiscaleInputs {
  MultiscaleRows<const void*> parts[3];  // q, k, v
};

struct MultiscaleOutputs {
  MultiscaleRows<void*> rates[kRates];  // [B, T >> r, S, A, E]
};

struct MultiscaleGradients {
  MultiscaleRows<const void*> rates[kRates];  // of the outputs; data is null where there is none
  MultiscaleRows<void*> parts[3];             // of q, k, v
};

namespace cpu {

// Rows of one part at all rates, one rate after the other.
constexpr int64_t multiscale_rows(int64_t frames) {
  return frames + frames / 2 + frames / 4;
}

// Float32 elements of scratch that one call needs: q, k, v and their gradients at all rates, one rate's
// output or its gradient.
constexpr int64_t multiscale_scratch(const MultiscaleShape& shape) {
  return attention_scratch(shape.frames, shape.width) +
         (6 * multiscale_rows(shape.frames) + shape.frames) * row_scratch(shape.width);
}

struct MultiscaleTemporalAttention {
  // Problems [begin, end).
  void (*forward)(const MultiscaleShape& shape, const MultiscaleInputs& in, const MultiscaleOutputs& out,
                  float* scratch, int64_t begin, int64_t end);
  void (*backward)(const MultiscaleShape& shape, const MultiscaleInputs& in,
                   const MultiscaleGradients& gradients, float* scratch, int64_t begin, int64_t end);
};

namespace baseline {
extern const MultiscaleTemporalAttention multiscale_temporal_attention;
}
namespace avx2 {
extern const MultiscaleTemporalAttention multiscale_temporal_attention;
}
namespace avx512 {
extern const MultiscaleTemporalAttention multiscale_temporal_attention;
}
namespace avx512bf16 {
extern const MultiscaleTemporalAttention multiscale_temporal_attention;
}

}  // namespace cpu

#if defined(USE_CUDA)
namespace cuda {

cudaError_t multiscale_temporal_attention_forward(const MultiscaleShape& shape, const MultiscaleInputs& in,
                                                  const MultiscaleOutputs& out, cudaStream_t stream);
cudaError_t multiscale_temporal_attention_backward(const MultiscaleShape& shape, const MultiscaleInputs& in,
                                                   const MultiscaleGradients& gradients, cudaStream_t stream);

}  // namespace cuda
#endif
}  // namespace pavdit
