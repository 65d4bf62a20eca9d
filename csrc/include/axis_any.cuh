// axis_attention for every type, width and alignment, by float32 arithmetic: the only path that is exact for
// float32 (TF32 would keep 10 bits of mantissa), and the slow one for what the tiles do not take.
//
// A block has a few problems. It keeps the rows that are looked at (keys and values; in the second half of
// the backward queries and gradients) in shared memory. A warp has one row that looks: its lanes are the rows
// looked at while scores are computed, and the columns lane, lane + 32, ... while rows are summed.
#pragma once

#include "axis_problems.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kAnyWarps = 4;
constexpr int kAnyThreads = kAnyWarps * kWarp;
constexpr int kAnyColumns = (kAxisMaxWidth + kWarp - 1) / kWarp;  // of a lane
constexpr int kAnyRows = (kAxisMaxLength + kWarp - 1) / kWarp;    // of a lane
constexpr int kAnyLooking = 32;  // rows that a block takes at least, if there are

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}

// Blocks per multiprocessor: left alone, ptxas spills a register to reach five.
constexpr int kAnyOccupancy = 4;

struct AnyRow {
  float v[kAnyColumns];

  // f(value, column)
  template <typename F>
  __device__ __forceinline__ void each(int width, F f) {
#pragma unroll
    for (int c = 0; c < kAnyColumns; ++c) {
      const int column = kWarp * c + int(threadIdx.x) % kWarp;
      if (column < width) f(v[c], column);
    }
  }
};

// Zeros for null.
template <typename T>
__device__ __forceinline__ AnyRow load_any(const T* row, int width) {
  AnyRow x{};
  if (row != nullptr) x.each(width, [&](float& v, int column) { v = to_float(row[column]); });
  return x;
}

template <typename T>
__device__ __forceinline__ void store_any(AnyRow x, int width, T* row) {
  x.each(width, [&](float v, int column) { row[column] = from_float<T>(v); });
}

__device__ __forceinline__ float reciprocal_rms(AnyRow x, int width, const Preparation& how) {
  float squares = 0.0f;
  x.each(width, [&](float v, int) { squares += v * v; });
  return rsqrtf(warp_sum(squares) * how.inverse_width + how.eps);
}

// Turns every pair of columns by its angle, or back.
__device__ __forceinline__ void rotate_any(const Preparation& how, int token, int width, bool back,
                                           AnyRow& x) {
  const int lane = int(threadIdx.x) % kWarp;
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) {
    const float other = __shfl_xor_sync(kAllLanes, x.v[c], 1);
    const int column = kWarp * c + lane;
    if (column < width) {
      const int64_t at = int64_t(token) * (width / 2) + column / 2;
      const float sine = (column % 2 == 0) != back ? -how.sines[at] : how.sines[at];
      x.v[c] = x.v[c] * how.cosines[at] + other * sine;
    }
  }
}

__device__ __forceinline__ void prepare_any(const Preparation& how, int token, int width, AnyRow& x) {
  if (how.weight != nullptr) {
    const float rstd = reciprocal_rms(x, width, how);
    x.each(width, [&](float& v, int column) { v *= rstd * how.weight[column]; });
  }
  if (how.cosines != nullptr) rotate_any(how, token, width, false, x);
}

// In place in grad; x: the row before `prepare_any`.
template <typename T>
__device__ __forceinline__ void prepare_any_backward(const Preparation& how, int token, int width,
                                                     const T* x_row, AnyRow& grad, AnyRow& dweight) {
  if (how.cosines != nullptr) rotate_any(how, token, width, true, grad);
  if (how.weight == nullptr) return;
  const AnyRow x = load_any(x_row, width);
  const float rstd = reciprocal_rms(x, width, how);
  float mean = 0.0f;
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) {
    const int column = kWarp * c + int(threadIdx.x) % kWarp;
    if (column < width) {
      dweight.v[c] += grad.v[c] * x.v[c] * rstd;
      grad.v[c] *= how.weight[column];
      mean += grad.v[c] * x.v[c] * rstd;
    }
  }
  mean = warp_sum(mean) * how.inverse_width;
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) grad.v[c] = rstd * (grad.v[c] - x.v[c] * rstd * mean);
}

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

__device__ __forceinline__ void put(AnyRow x, int stride, float* row) {
  x.each(stride, [&](float v, int column) { row[column] = v; });
}

// Number `lane + 32 i` of the result is row `lane + 32 i` of rows times own, for rows below `count`.
__device__ __forceinline__ void dots(const float* own, const float* rows, int count, int stride, int width,
                                     float (&result)[kAnyRows]) {
#pragma unroll
  for (int i = 0; i < kAnyRows; ++i) {
    const int row = kWarp * i + int(threadIdx.x) % kWarp;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < count) {
      for (int column = 0; column < width; column += 4) {
        const float4 a = *reinterpret_cast<const float4*>(own + column);
        const float4 b = *reinterpret_cast<const float4*>(rows + row * stride + column);
        sum.x += a.x * b.x, sum.y += a.y * b.y, sum.z += a.z * b.z, sum.w += a.w * b.w;
      }
    }
    result[i] = (sum.x + sum.y) + (sum.z + sum.w);
  }
}

// Sum over rows below `count` of factor times row: odd and even rows apart, which halves the chain of
// roundings.
__device__ __forceinline__ AnyRow weighted_sum(const float* factors, const float* rows, int count, int stride,
                                               int width) {
  AnyRow even{}, odd{};
  for (int row = 0; row < count; row += 2) {
    const float factor = factors[row];
    even.each(width, [&](float& v, int column) { v += factor * rows[row * stride + column]; });
    if (row + 1 < count) {
      const float next = factors[row + 1];
      odd.each(width, [&](float& v, int column) { v += next * rows[(row + 1) * stride + column]; });
    }
  }
#pragma unroll
  for (int c = 0; c < kAnyColumns; ++c) even.v[c] += odd.v[c];
  return even;
}

// f(i, row) for the lane's rows below `count`.
template <typename F>
__device__ __forceinline__ void each_row(int count, F f) {
#pragma unroll
  for (int i = 0; i < kAnyRows; ++i) {
    const int row = kWarp * i + int(threadIdx.x) % kWarp;
    if (row < count) f(i, row);
  }
}

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

// Scores to weights; returns the log of the sum of their exponentials, infinite where nothing is seen.
__device__ __forceinline__ float softmax_any(const float* seen, int count, float scale,
                                             float (&weights)[kAnyRows]) {
  float top = -INFINITY, sum = 0.0f;
  each_row(count, [&](int i, int row) {
    weights[i] = seen[row] != 0.0f ? weights[i] * scale : -INFINITY;
    top = fmaxf(top, weights[i]);
  });
  top = warp_max(top);
  if (top == -INFINITY) top = 0.0f;
  each_row(count, [&](int i, int) {
    weights[i] = expf(weights[i] - top);
    sum += weights[i];
  });
  sum = warp_sum(sum);
  const float share = sum == 0.0f ? 0.0f : 1.0f / sum;
  each_row(count, [&](int i, int) { weights[i] *= share; });
  return sum == 0.0f ? INFINITY : top + logf(sum);
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
    each_row(call.keys, [&](int i, int row) { factors[row] = weights[i]; });
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
      each_row(call.keys, [&](int i, int) { mean += weights[i] * dweights[i]; });
      mean = warp_sum(mean);
      each_row(call.keys,
               [&](int i, int key) { factors[key] = weights[i] * (dweights[i] - mean) * call.scale; });
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
      each_row(call.queries, [&](int i, int query) {
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
