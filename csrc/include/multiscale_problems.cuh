// multiscale_temporal_attention's problems for CUDA kernels: what a launch is told, and where the rows of a
// problem lie in every tensor.
#pragma once

#include "divide.cuh"
#include "multiscale_temporal_attention.h"
#include "vec.cuh"

namespace pavdit::cuda {

struct MultiscaleCall {
  Divider heads, positions;
  uint32_t problems;  // below 2^31
  int frames, width;
  float scale;  // of the scores, 1 / sqrt(width)
  MultiscaleInputs in;
  MultiscaleOutputs out;
  MultiscaleGradients gradients;
};

inline MultiscaleCall multiscale_call(const MultiscaleShape& shape, const MultiscaleInputs& in) {
  MultiscaleCall call{};
  call.heads = Divider(shape.heads), call.positions = Divider(shape.positions);
  call.problems = uint32_t(shape.problems());
  call.frames = int(shape.frames), call.width = int(shape.width);
  call.scale = 1.0f / sqrtf(float(shape.width));
  call.in = in;
  return call;
}

// A problem's place in the batch: problem = head + heads (position + positions batch).
struct Place {
  uint32_t batch, position, head;

  __device__ __forceinline__ Place(const MultiscaleCall& call, uint32_t problem) {
    const uint32_t rest = call.heads.quotient(problem);
    head = problem - rest * call.heads.divisor;
    batch = call.positions.quotient(rest);
    position = rest - batch * call.positions.divisor;
  }

  // A frame's row; null where the tensor is missing.
  template <typename T, typename Pointer>
  __device__ __forceinline__ T* row(const MultiscaleRows<Pointer>& rows, int frame) const {
    if (rows.data == nullptr) return nullptr;
    return static_cast<T*>(rows.data) + batch * rows.batch + position * rows.position + head * rows.head +
           frame * rows.frame;
  }
};

// Whether every row begins at a multiple of 16 bytes.
template <typename Pointer>
bool aligned_rows(const MultiscaleRows<Pointer>& rows, int64_t elements) {
  return aligned(rows.data) && rows.batch % elements == 0 && rows.frame % elements == 0 &&
         rows.position % elements == 0 && rows.head % elements == 0;
}

}  // namespace pavdit::cuda
