// axis_attention: softmax attention along one axis of a token grid. Every other position and every head is a
// problem of its own, of a few keys; axis_query_attention is the same with a single query.
//
//   q', k' = rope(norm(q)), rope(norm(k))     norm(x) = x / sqrt(mean(x^2) + 1e-6) * weight, both optional
//   p_ij   = softmax over the valid keys j of q'_i . k'_j / sqrt(E)
//   out_i  = sum over j of p_ij v_j           0 where no key is valid
//
// Backward, with g the gradient of out:
//
//   dp_ij  = g_i . v_j,   ds_ij = p_ij (dp_ij - sum over j of p_ij dp_ij) / sqrt(E)
//   dv_j   = sum of p_ij g_i,  dq'_i = sum of ds_ij k'_j,  dk'_j = sum of ds_ij q'_i
//   dx     = rstd (h - xhat mean(h xhat)),  dweight = sum of y xhat     y: dq', dk' turned back, h = y weight
//
// Cost per problem of L tokens: forward reads 3 L E elements, writes L E, and does 4 L^2 E flops; backward
// computes p again (nothing is saved but the inputs), reads 4 L E, writes 3 L E, 10 L^2 E flops. On a CPU the
// arithmetic bounds it from about L = 4; attention through separate GEMMs is bound by its calls there.
#pragma once

#include <cstdint>
#if defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "dtype.h"

namespace pavdit {

constexpr int kAxisMaxLeading = 8;  // leading axes of qkv
constexpr int kAxisMaxLength = 80;  // tokens along the axis: the working memory of a problem stays in L2
constexpr int kAxisMaxWidth = 128;  // E
constexpr float kAxisNormEps = 1e-6f;

struct AxisShape {
  int64_t queries;                 // along the axis: L, or 1
  int64_t keys;                    // along the axis: L
  int64_t heads;                   // A
  int64_t width;                   // E
  int64_t positions;               // product of `sizes`
  int others;                      // leading axes but the one attended along,
  int64_t sizes[kAxisMaxLeading];  // and their sizes
  DType dtype;                     // of q, k, v, out and their gradients
  DType weight_dtype;              // of the norm's weights and their gradients

  constexpr int64_t problems() const { return positions * heads; }
};

// One row of E contiguous elements per (position, head, token); strides in elements.
template <typename Pointer>
struct AxisRows {
  Pointer data;
  int64_t along;  // from token to token
  int64_t head;
  int64_t others[kAxisMaxLeading];
};

struct AxisInputs {
  AxisRows<const void*> q, k, v;
  AxisRows<const bool*> valid;  // one element per (position, token); data is null where every key is valid
  const void* q_weight;         // [E], null without norm
  const void* k_weight;         // [E]
  const float* rope;            // [2, L, E / 2], null without rotation
};

struct AxisGradients {
  AxisRows<const void*> out;
  AxisRows<void*> q, k, v;
  float* partial;  // [chunks, 2, E], stage one of the weights' gradients: every chunk of problems has a row
};

namespace cpu {

constexpr int64_t kAxisProblemsPerChunk = 16;  // the same for any number of threads, so sums are the same

constexpr int64_t axis_chunks(const AxisShape& shape) {
  return (shape.problems() + kAxisProblemsPerChunk - 1) / kAxisProblemsPerChunk;
}

// Float32 elements of scratch that one call needs: rows padded to the widest vector.
constexpr int64_t axis_scratch(const AxisShape& shape) {
  const int64_t width = (shape.width + 15) / 16 * 16, tokens = (shape.keys + 15) / 16 * 16;
  return 9 * tokens * width + 2 * tokens * tokens + 4 * width;
}

struct AxisAttention {
  // Problems [begin, end).
  void (*forward)(const AxisShape& shape, const AxisInputs& in, AxisRows<void*> out, float* scratch,
                  int64_t begin, int64_t end);
  // Chunks [begin, end) of problems.
  void (*backward)(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients,
                   float* scratch, int64_t begin, int64_t end);
  // Stage two: dq_weight and dk_weight [E].
  void (*sum_partials)(const AxisShape& shape, const float* partial, void* dq_weight, void* dk_weight,
                       float* scratch);
};

namespace baseline {
extern const AxisAttention axis_attention;
}
namespace avx2 {
extern const AxisAttention axis_attention;
}
namespace avx512 {
extern const AxisAttention axis_attention;
}
namespace avx512bf16 {
extern const AxisAttention axis_attention;
}

}  // namespace cpu

#if defined(USE_CUDA)
namespace cuda {

cudaError_t axis_attention_forward(const AxisShape& shape, const AxisInputs& in, const AxisRows<void*>& out,
                                   cudaStream_t stream);

// Rows of AxisGradients::partial where there are weights.
int64_t axis_chunks(const AxisShape& shape);

// dq_weight and dk_weight: [E], null without norm.
cudaError_t axis_attention_backward(const AxisShape& shape, const AxisInputs& in,
                                    const AxisGradients& gradients, void* dq_weight, void* dk_weight,
                                    cudaStream_t stream);

}  // namespace cuda
#endif
}  // namespace pavdit
