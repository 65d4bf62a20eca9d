// adaln_modulate: LayerNorm without weights, then a scale and a shift that a group of rows shares.
//
//   xhat = (x - mean(x)) * rstd,  rstd = 1 / sqrt(var(x) + eps)        over the D columns of a row
//   out  = xhat * (1 + scale) + shift
//
// Backward, with g the gradient of out and h = g * (1 + scale):
//
//   dx     = rstd * (h - mean(h) - xhat * mean(h * xhat))
//   dshift = sum of g, dscale = sum of g * xhat       over the rows that share the modulation
//
// Cost: forward reads x and writes out once, 2 * rows * D elements; backward reads grad and x and writes dx,
// 3 * rows * D elements; the modulation and the statistics are small beside them. Bound by memory.
#pragma once

#include <cstdint>
#if defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "dtype.h"

namespace pavdit {

struct AdalnShape {
  int64_t batch;           // B
  int64_t groups;          // G; gated_residual_adaln: runs of frames that share a modulation and a gate
  int64_t rows;            // F / G * N, the rows of x in a group
  int64_t width;           // D
  DType dtype;             // of x, out and their gradients
  DType modulation_dtype;  // of shift, scale, gate and their gradients

  constexpr int64_t all_rows() const { return batch * groups * rows; }
};

// Shift, scale or gate: [B or 1, G / share, D], columns contiguous, strides in elements.
struct Modulation {
  const void* data;
  int64_t batch;         // B, or 1 where the whole batch shares it
  int64_t batch_stride;  // 0 where the batch shares it
  int64_t group_stride;
  int64_t share;  // consecutive groups of the shape that one row of it serves
};

// The sums over rows have two stages and no atomics, so they are the same in every run: stage one writes one
// partial sum per chunk of rows, [B, G, chunks, sums, D] (shift, then scale, then gate where there is one),
// stage two adds them up in order. A chunk never crosses a group.
constexpr int64_t adaln_chunks(const AdalnShape& shape, int64_t rows_per_chunk) {
  return (shape.rows + rows_per_chunk - 1) / rows_per_chunk;
}

// What stage two adds up for the gradients of one modulation.
struct PartialSums {
  const float* partial;  // [copies, rows, chunks, stride]
  int64_t column;        // where the sum to add starts in a chunk; a second one stands behind it
  int64_t rows;          // of the gradient, whose shape is [rows, D]
  int64_t copies;        // B where the batch shares the modulation, else 1
  int64_t chunks;
  int64_t stride;
  int64_t width;  // D
  DType dtype;    // of the gradient
};

// Of the `sums` in every chunk, those that start with number `index`.
constexpr PartialSums partial_sums(const AdalnShape& shape, const Modulation& of, const float* partial,
                                   int64_t chunks, int64_t sums, int64_t index) {
  return {partial,
          index * shape.width,
          of.batch * (shape.groups / of.share),
          of.batch == shape.batch ? 1 : shape.batch,
          of.share * chunks,
          sums * shape.width,
          shape.width,
          shape.modulation_dtype};
}

namespace cpu {

constexpr int64_t kAdalnRowsPerChunk = 64;  // partial sums are then 1/32 of a float32 x
constexpr int64_t kAdalnScratchRows = 4;    // float32 rows of scratch that one call needs

struct AdalnModulate {
  // Rows [begin, end) of x [B * F * N, D]. stats [B * F * N, 2] takes mean and rstd.
  void (*forward)(const AdalnShape& shape, const void* x, Modulation shift, Modulation scale, float eps,
                  void* out, float* stats, float* scratch, int64_t begin, int64_t end);
  // Chunks [begin, end) of the B * G * chunks.
  void (*backward)(const AdalnShape& shape, const void* grad, const void* x, Modulation scale,
                   const float* stats, void* dx, float* partial, float* scratch, int64_t begin, int64_t end);
  // Stage two for rows [begin, end) of one gradient, or of two (null: one).
  void (*sum_partials)(const PartialSums& sums, void* first, void* second, float* scratch, int64_t begin,
                       int64_t end);
};

namespace baseline {
extern const AdalnModulate adaln_modulate;
}
namespace avx2 {
extern const AdalnModulate adaln_modulate;
}
namespace avx512 {
extern const AdalnModulate adaln_modulate;
}
namespace avx512bf16 {
extern const AdalnModulate adaln_modulate;
}

}  // namespace cpu

#if defined(USE_CUDA)
namespace cuda {

int64_t adaln_rows_per_chunk(const AdalnShape& shape);

// stats [B * F * N, 2] takes mean and rstd of every row.
cudaError_t adaln_modulate_forward(const AdalnShape& shape, const void* x, Modulation shift, Modulation scale,
                                   float eps, void* out, float* stats, cudaStream_t stream);

// partial: [B, G, chunks, 2, D], as above. scale.batch says how dshift and dscale are shared.
cudaError_t adaln_modulate_backward(const AdalnShape& shape, const void* grad, const void* x,
                                    Modulation scale, const float* stats, void* dx, void* dshift,
                                    void* dscale, float* partial, cudaStream_t stream);

// Stage two alone, for one gradient or for two (null: one).
cudaError_t adaln_sum_partials(const PartialSums& sums, void* first, void* second, cudaStream_t stream);

}  // namespace cuda
#endif
}  // namespace pavdit
