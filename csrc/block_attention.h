// block_attention: softmax attention of every token of a (T, H, W) grid over the tokens of its own block of
// (bt, bh, bw); every block and head is a problem of its own. block_cross_attention is the same between two
// streams, the queries of each over the keys and values of the other, both directions in one launch.
//
//   q', k' = rope(norm(q)), rope(norm(k))     norm(x) = x / sqrt(mean(x^2) + 1e-6) * weight, both optional
//   p_ij   = softmax over the valid keys j of q'_i . k'_j / sqrt(E)
//   out_i  = sum over j of p_ij v_j           0 where no key is valid
//
// The gradients are those of axis_attention.h.
//
// Cost per problem of N tokens: forward reads 3 N E elements, writes N E, and does 4 N^2 E flops; backward
// computes p again (nothing is saved but the inputs), reads 4 N E, writes 3 N E, 10 N^2 E flops. Rows are
// read where they lie: the copies of q, k, v and out that a partition into blocks takes fall away. What
// bounds it is memory at few tokens and arithmetic at many; csrc/cuda/block_attention.cu has the numbers for
// a GPU.
#pragma once

#include <cstdint>
#if defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "attention_scratch.h"
#include "dtype.h"

namespace pavdit {

constexpr int kBlockMaxKeys =
    256;  // tokens of a block: its rows stay in L2 of a CPU, in shared memory of a GPU
constexpr int kBlockMaxWidth = 128;  // E
constexpr float kBlockNormEps = 1e-6f;

struct BlockShape {
  int64_t counts[4];   // blocks along (B, T, H, W)
  int64_t block[3];    // bt, bh, bw
  int64_t heads;       // A
  int64_t width;       // E
  int64_t directions;  // 1, or 2: between two streams
  DType dtype;         // of q, k, v, out and their gradients
  DType weight_dtype;  // of the norm's weights and their gradients

  constexpr int64_t tokens() const { return block[0] * block[1] * block[2]; }
  constexpr int64_t positions() const { return counts[0] * counts[1] * counts[2] * counts[3]; }
  constexpr int64_t problems() const { return positions() * directions * heads; }
};

// One row of E contiguous elements per (b, t, h, w, head); strides in elements.
template <typename Pointer>
struct BlockRows {
  Pointer data;
  int64_t grid[4];
  int64_t head;
  int64_t
      along;  // from token to token of a block in the order (t, h, w), 0 where that is not always the same
};

struct BlockInputs {
  BlockRows<const void*> q, k, v;
  BlockRows<const bool*> valid;  // one element per (b, t, h, w); data is null where every key is valid
  const void* q_weight;          // [E], null without norm
  const void* k_weight;          // [E]
  const float* rope;             // [2, N, E / 2], null without rotation
};

struct BlockGradients {
  BlockRows<const void*> out;
  BlockRows<void*> q, k, v;
  float* partial;  // [chunks, 2, E], stage one of the weights' gradients: every chunk of problems has a row
};

namespace cpu {

// The same for any number of threads, so sums are the same.
constexpr int64_t block_problems_per_chunk(const BlockShape& shape) {
  return shape.tokens() < 64 ? 64 / shape.tokens() : 1;
}

constexpr int64_t block_chunks(const BlockShape& shape) {
  const int64_t each = block_problems_per_chunk(shape);
  return (shape.problems() + each - 1) / each;
}

// Float32 elements of scratch that one call needs.
constexpr int64_t block_scratch(const BlockShape& shape) {
  return attention_scratch(shape.tokens(), shape.width) + (9 * shape.tokens() + 5) * row_scratch(shape.width);
}

// Norm and rotation go with one direction only. Arrays have an element for every direction.
struct BlockAttention {
  // Problems [begin, end).
  void (*forward)(const BlockShape& shape, const BlockInputs* in, const BlockRows<void*>* out, float* scratch,
                  int64_t begin, int64_t end);
  // Chunks [begin, end) of problems.
  void (*backward)(const BlockShape& shape, const BlockInputs* in, const BlockGradients* gradients,
                   float* scratch, int64_t begin, int64_t end);
  // Stage two: dq_weight and dk_weight [E].
  void (*sum_partials)(const BlockShape& shape, const float* partial, void* dq_weight, void* dk_weight,
                       float* scratch);
};

namespace baseline {
extern const BlockAttention block_attention;
}
namespace avx2 {
extern const BlockAttention block_attention;
}
namespace avx512 {
extern const BlockAttention block_attention;
}
namespace avx512bf16 {
extern const BlockAttention block_attention;
}

}  // namespace cpu

#if defined(USE_CUDA)
namespace cuda {

// Arrays have an element for every direction; norm, rotation and mask go with one direction only.
cudaError_t block_attention_forward(const BlockShape& shape, const BlockInputs* in,
                                    const BlockRows<void*>* out, cudaStream_t stream);

// Rows of BlockGradients::partial where there are weights.
int64_t block_chunks(const BlockShape& shape);

// dq_weight and dk_weight: [E], null without norm.
cudaError_t block_attention_backward(const BlockShape& shape, const BlockInputs* in,
                                     const BlockGradients* gradients, void* dq_weight, void* dk_weight,
                                     cudaStream_t stream);

}  // namespace cuda
#endif
}  // namespace pavdit
