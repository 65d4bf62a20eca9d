// axis_attention's problems for CUDA kernels: where the rows of a problem lie in every tensor.
#pragma once

#include "axis_attention.h"
#include "divide.cuh"
#include "vec.cuh"

namespace pavdit::cuda {

enum AxisTensor { kQ, kK, kV, kOut, kValid, kDq, kDk, kDv, kAxisTensors };  // kOut: out, or its gradient

struct AxisProblems {
  struct Strides {
    int64_t along, head;
    int64_t others[kAxisMaxLeading];
  };

  Strides rows[kAxisTensors];
  Divider heads, axes[kAxisMaxLeading];
  int others;
  uint32_t count;  // below 2^31

  // First element of a problem, which is head + heads * position, in the tensors kFirst .. kLast.
  __device__ __forceinline__ void offsets(uint32_t problem, int64_t (&offset)[kAxisTensors]) const {
    uint32_t rest = heads.quotient(problem);
    const uint32_t head = problem - rest * heads.divisor;
#pragma unroll
    for (int tensor = 0; tensor < kAxisTensors; ++tensor) offset[tensor] = head * rows[tensor].head;
#pragma unroll 1
    for (int axis = others - 1; axis >= 0; --axis) {
      const uint32_t next = axes[axis].quotient(rest), index = rest - next * axes[axis].divisor;
#pragma unroll
      for (int tensor = 0; tensor < kAxisTensors; ++tensor) {
        offset[tensor] += index * rows[tensor].others[axis];
      }
      rest = next;
    }
  }
};

// Everything that a kernel is told. Pointers without a type; their shapes stand in axis_attention.h.
struct AxisCall {
  AxisProblems problems;
  const void *q, *k, *v;
  const bool* valid;  // null where every key is valid
  const void *q_weight, *k_weight;
  const float *cosines, *sines;
  const void* grad;
  void *out, *dq, *dk, *dv;
  float* partial;  // [blocks, 2, E]
  DType weight_dtype;
  int queries, keys, width;
  float scale;
};

// ---- on the host ----

// Two neighbouring axes are one where every tensor steps over both as over one. Axes of size 1 go.
inline void set_axes(const AxisShape& shape, AxisProblems& problems) {
  int64_t sizes[kAxisMaxLeading];
  int kept = 0;
  for (int axis = 0; axis < shape.others; ++axis) {
    if (shape.sizes[axis] == 1) continue;
    bool merges = kept > 0;
    for (const auto& rows : problems.rows) {
      merges = merges && rows.others[kept - 1] == rows.others[axis] * shape.sizes[axis];
    }
    if (!merges) sizes[kept++] = 1;
    sizes[kept - 1] *= shape.sizes[axis];
    for (auto& rows : problems.rows) rows.others[kept - 1] = rows.others[axis];
  }
  problems.others = kept;
  for (int axis = 0; axis < kept; ++axis) problems.axes[axis] = Divider(sizes[axis]);
  problems.heads = Divider(shape.heads);
  problems.count = uint32_t(shape.problems());
}

template <typename Pointer>
AxisProblems::Strides strides_of(const AxisRows<Pointer>& rows) {
  AxisProblems::Strides strides{rows.along, rows.head, {}};
  for (int axis = 0; axis < kAxisMaxLeading; ++axis) strides.others[axis] = rows.others[axis];
  return strides;
}

inline AxisCall axis_call(const AxisShape& shape, const AxisInputs& in) {
  AxisCall call{};
  call.problems.rows[kQ] = strides_of(in.q);
  call.problems.rows[kK] = strides_of(in.k);
  call.problems.rows[kV] = strides_of(in.v);
  call.problems.rows[kValid] = strides_of(in.valid);
  call.q = in.q.data, call.k = in.k.data, call.v = in.v.data, call.valid = in.valid.data;
  call.q_weight = in.q_weight, call.k_weight = in.k_weight;
  call.cosines = in.rope;
  call.sines = in.rope == nullptr ? nullptr : in.rope + shape.keys * (shape.width / 2);
  call.weight_dtype = shape.weight_dtype;
  call.queries = int(shape.queries), call.keys = int(shape.keys), call.width = int(shape.width);
  call.scale = 1.0f / sqrtf(float(shape.width));
  return call;
}

// Whether every row of the tensor begins at a multiple of 16 bytes.
inline bool aligned_rows(const AxisProblems& problems, AxisTensor tensor, const void* data,
                         int64_t elements) {
  const auto& rows = problems.rows[tensor];
  bool whole = aligned(data) && rows.along % elements == 0 && rows.head % elements == 0;
  for (int axis = 0; axis < problems.others; ++axis) whole = whole && rows.others[axis] % elements == 0;
  return whole;
}

}  // namespace pavdit::cuda
