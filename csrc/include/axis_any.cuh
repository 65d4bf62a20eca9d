// axis_attention for every type, width and alignment, by float32 arithmetic: the only path that is exact for
// float32 (TF32 would keep 10 bits of mantissa), and the slow one for what the tiles do not take.
//
// A block has a few problems. It keeps the rows that are looked at (keys and values; in the second half of
// the backward queries and gradients) in shared memory, and its warps take the rows that look one by one
// (any_rows.cuh).
#pragma once

#include "any_rows.cuh"
#include "axis_problems.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

static_assert(kAxisMaxWidth <= kAnyColumns * kWarp, "want every column in a lane");
constexpr int kAnyWarps = 4;
constexpr int kAnyThreads = kAnyWarps * kWarp;
constexpr int kAnyRows = (kAxisMaxLength + kWarp - 1) / kWarp;  // of a lane
constexpr int kAnyLooking = 32;  // rows that a block takes at least, if there are
// Blocks per multiprocessor: left alone, ptxas spills a register to reach five.
constexpr int kAnyOccupancy = 4;

// ---- shared memory ----

// Rows of `stride` floats: a multiple of 4, odd when divided by 4, so that eight lanes that read 16 bytes
// each of eight rows meet no bank twice.
struct AnyShared {
  int stride, rows;
  float* weights;         // [2, stride]: of the norm
  float *first, *second;  // [rows, stride]: what is looked at
  float* own;             // [kAnyWarps, 2, stride]: what looks
  float* factors;         // [kAnyWarps, 2, kAxisMaxLength]
  float2* stats;          // [rows]: log of the sum of exp(scores), sum of p dp, of every query
  float* seen;            // [rows]: 1 for keys that count, else 0

  __host__ __device__ static int stride_of(int width) { return (width + 7) / 8 * 8 + 4; }
  __host__ __device__ static size_t floats(int stride, int rows) {
    return size_t(2 + 2 * rows + 2 * kAnyWarps) * stride + 2 * kAnyWarps * kAxisMaxLength + 3 * rows;
  }

  __device__ AnyShared(int width, int rows_wanted) : stride(stride_of(width)), rows(rows_wanted) {
    weights = dynamic_shared<float>();
    first = weights + 2 * stride;
    second = first + rows * stride;
    own = second + rows * stride;
    factors = own + 2 * kAnyWarps * stride;
    stats = reinterpret_cast<float2*>(factors + 2 * kAnyWarps * kAxisMaxLength);
    seen = reinterpret_cast<float*>(stats + rows);
  }
};

// ---- the problems of a block ----

struct AnyBlock {
  const AxisCall& call;
  uint32_t first;
  int count;

  __device__ AnyBlock(const AxisCall& of_call, uint32_t round, int problems_per_block)
      : call(of_call),
        first(round * problems_per_block),
        count(min(problems_per_block, int(of_call.problems.count - first))) {}

  template <typename T>
  __device__ T* row(AxisTensor tensor, T* data, int problem, int token) const {
    int64_t offset[kAxisTensors];
    call.problems.offsets(first + problem, offset);
    return data + offset[tensor] + token * call.problems.rows[tensor].along;
  }

  __device__ bool seen(int problem, int token) const {
    return call.valid == nullptr || *row(kValid, call.valid, problem, token);
  }

  // f(row, problem, token) for the rows of this warp.
  template <typename F>
  __device__ void each(const Divider& length, F f) const {
    for (int row = int(threadIdx.x) / kWarp; row < count * int(length.divisor); row += kAnyWarps) {
      const int problem = int(length.quotient(row));
      f(row, problem, row - problem * int(length.divisor));
    }
  }
};

// k and v, prepared, and which of them are seen.
template <typename T>
__device__ __forceinline__ void stage_keys(const AnyBlock& block, const Preparation& how,
                                           const AnyShared& shared) {
  const AxisCall& call = block.call;
  block.each(call.key_rows, [&](int row, int problem, int token) {
    const bool seen = block.seen(problem, token);
    const T* k_row = seen ? block.row(kK, static_cast<const T*>(call.k), problem, token) : nullptr;
    const T* v_row = seen ? block.row(kV, static_cast<const T*>(call.v), problem, token) : nullptr;
    AnyRow k = load_any(k_row, call.width);
    const AnyRow v = load_any(v_row, call.width);
    prepare_any(how, token, call.width, k);
    put(k, shared.stride, shared.first + row * shared.stride);
    put(v, shared.stride, shared.second + row * shared.stride);
    if (threadIdx.x % kWarp == 0) shared.seen[row] = seen ? 1.0f : 0.0f;
  });
}

// ---- kernels ----

template <typename T>
__global__ __launch_bounds__(kAnyThreads, kAnyOccupancy) void axis_attention_any_fwd_kernel(
    const __grid_constant__ AxisCall call, const int problems_per_block) {
  const AnyShared shared(call.width, problems_per_block * call.keys);
  const Preparations how = preparations(call, shared.stride, shared.weights);
  const AnyBlock block(call, blockIdx.x, problems_per_block);
  stage_keys<T>(block, how.k, shared);
  __syncthreads();
  const int warp = int(threadIdx.x) / kWarp, stride = shared.stride;
  float *own = shared.own + warp * 2 * stride, *factors = shared.factors + warp * 2 * kAxisMaxLength;
  block.each(call.query_rows, [&](int, int problem, int token) {
    AnyRow q = load_any(block.row(kQ, static_cast<const T*>(call.q), problem, token), call.width);
    prepare_any(how.q, token, call.width, q);
    put(q, stride, own);
    __syncwarp();
    const int keys = problem * call.keys;
    float weights[kAnyRows];
    dots(own, shared.first + keys * stride, call.keys, stride, call.width, weights);
    softmax_any(shared.seen + keys, call.keys, call.scale, weights);
    each_row<kAnyRows>(call.keys, [&](int i, int row) { factors[row] = weights[i]; });
    __syncwarp();
    store_any(weighted_sum(factors, shared.second + keys * stride, call.keys, stride, call.width), call.width,
              block.row(kOut, static_cast<T*>(call.out), problem, token));
    __syncwarp();
  });
}

template <typename T>
__global__ __launch_bounds__(kAnyThreads, kAnyOccupancy) void axis_attention_any_bwd_kernel(
    const __grid_constant__ AxisCall call, const int problems_per_block, const uint32_t rounds) {
  const AnyShared shared(call.width, problems_per_block * call.keys);
  const Preparations how = preparations(call, shared.stride, shared.weights);
  const int warp = int(threadIdx.x) / kWarp, stride = shared.stride, width = call.width;
  float *own = shared.own + warp * 2 * stride, *factors = shared.factors + warp * 2 * kAxisMaxLength;
  float *other = own + stride, *dfactors = factors + kAxisMaxLength;
  AnyRow dq_weight{}, dk_weight{};

#pragma unroll 1
  for (uint32_t round = blockIdx.x; round < rounds; round += gridDim.x) {
    const AnyBlock block(call, round, problems_per_block);
    stage_keys<T>(block, how.k, shared);
    __syncthreads();
    block.each(call.query_rows, [&](int row, int problem, int token) {  // a query looks at keys and values
      const T* q_row = block.row(kQ, static_cast<const T*>(call.q), problem, token);
      AnyRow q = load_any(q_row, width);
      prepare_any(how.q, token, width, q);
      put(q, stride, own);
      put(load_any(block.row(kOut, static_cast<const T*>(call.grad), problem, token), width), stride, other);
      __syncwarp();
      const int keys = problem * call.keys;
      float weights[kAnyRows], dweights[kAnyRows], mean = 0.0f;
      dots(own, shared.first + keys * stride, call.keys, stride, width, weights);
      dots(other, shared.second + keys * stride, call.keys, stride, width, dweights);
      const float log_sum = softmax_any(shared.seen + keys, call.keys, call.scale, weights);
      each_row<kAnyRows>(call.keys, [&](int i, int) { mean += weights[i] * dweights[i]; });
      mean = warp_sum(mean);
      each_row<kAnyRows>(
          call.keys, [&](int i, int key) { factors[key] = weights[i] * (dweights[i] - mean) * call.scale; });
      if (threadIdx.x % kWarp == 0) shared.stats[row] = make_float2(log_sum, mean);
      __syncwarp();
      AnyRow dq = weighted_sum(factors, shared.first + keys * stride, call.keys, stride, width);
      prepare_any_backward(how.q, token, width, q_row, dq, dq_weight);
      store_any(dq, width, block.row(kDq, static_cast<T*>(call.dq), problem, token));
      __syncwarp();
    });
    __syncthreads();
    block.each(call.query_rows, [&](int row, int problem, int token) {
      AnyRow q = load_any(block.row(kQ, static_cast<const T*>(call.q), problem, token), width);
      prepare_any(how.q, token, width, q);
      put(q, stride, shared.first + row * stride);
      put(load_any(block.row(kOut, static_cast<const T*>(call.grad), problem, token), width), stride,
          shared.second + row * stride);
    });
    __syncthreads();
    block.each(call.key_rows, [&](int row, int problem, int token) {  // a key looks at queries and gradients
      const bool seen = shared.seen[row] != 0.0f;
      const T* k_row = seen ? block.row(kK, static_cast<const T*>(call.k), problem, token) : nullptr;
      AnyRow k = load_any(k_row, width);
      prepare_any(how.k, token, width, k);
      put(k, stride, own);
      put(load_any(seen ? block.row(kV, static_cast<const T*>(call.v), problem, token) : nullptr, width),
          stride, other);
      __syncwarp();
      const int queries = problem * call.queries;
      float weights[kAnyRows], dweights[kAnyRows];
      dots(own, shared.first + queries * stride, call.queries, stride, width, weights);
      dots(other, shared.second + queries * stride, call.queries, stride, width, dweights);
      each_row<kAnyRows>(call.queries, [&](int i, int query) {
        const float2 stat = shared.stats[queries + query];
        const float p = seen ? expf(weights[i] * call.scale - stat.x) : 0.0f;
        factors[query] = p;
        dfactors[query] = seen ? p * (dweights[i] - stat.y) * call.scale : 0.0f;
      });
      __syncwarp();
      AnyRow dk{}, dv{};
      if (seen) {
        dk = weighted_sum(dfactors, shared.first + queries * stride, call.queries, stride, width);
        dv = weighted_sum(factors, shared.second + queries * stride, call.queries, stride, width);
      }
      prepare_any_backward(how.k, token, width, k_row, dk, dk_weight);
      store_any(dk, width, block.row(kDk, static_cast<T*>(call.dk), problem, token));
      store_any(dv, width, block.row(kDv, static_cast<T*>(call.dv), problem, token));
      __syncwarp();
    });
    __syncthreads();
  }

  if (call.partial == nullptr) return;
  put(dq_weight, stride, own);
  put(dk_weight, stride, other);
  __syncthreads();
  float* partial = call.partial + int64_t(blockIdx.x) * 2 * width;
  for (int i = threadIdx.x; i < 2 * width; i += kAnyThreads) {
    float sum = 0.0f;
    for (int of_warp = 0; of_warp < kAnyWarps; ++of_warp) {
      sum += shared.own[(2 * of_warp + i / width) * stride + i % width];
    }
    partial[i] = sum;
  }
}

}  // namespace
}  // namespace pavdit::cuda
