// The kernels of block_attention in float32 arithmetic; block_any.cuh says when they serve and how they
// multiply.
#pragma once

#include "block_any.cuh"

namespace pavdit::cuda {
namespace {

// ---- the rows of a problem ----

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}

struct AnyProblem {
  const BlockCall& call;
  const Place place;

  __device__ __forceinline__ AnyProblem(const BlockCall& of_call, uint32_t problem)
      : call(of_call), place(of_call, problem) {}

  // f(row, token) for the 32 tokens from `first` on, a warp for each; those beyond the end too.
  template <typename F>
  __device__ __forceinline__ void each(int first, F f) const {
    for (int row = int(threadIdx.x) / kWarp; row < kAnyRows; row += kAnyWarps) f(row, first + row);
  }

  template <typename T>
  __device__ __forceinline__ T* row(BlockTensor tensor, int token) const {
    const BlockRows<void*>& rows = call.rows[place.direction][tensor];
    return static_cast<T*>(rows.data) + place.offset(call, rows, token);
  }

  template <typename T>
  __device__ __forceinline__ AnyRow load(BlockTensor tensor, int token, bool there) const {
    AnyRow x;
    x.load(there ? row<const T>(tensor, token) : nullptr, call.width, call.whole);
    return x;
  }

  template <typename T>
  __device__ __forceinline__ void store(const AnyRow& x, BlockTensor tensor, int token) const {
    x.store(row<T>(tensor, token), call.width, call.whole);
  }

  __device__ __forceinline__ bool seen(int token) const {
    return token < call.tokens &&
           (call.valid.data == nullptr || call.valid.data[place.offset(call, call.valid, token)]);
  }
};

struct AnyShared {
  AnyTile tile[4];   // the forward has three
  float* square[2];  // [32, 33]: [query][key]
  float* weights;    // [2, 128]: of the norm, 0 beyond the width
  float* dweights;   // [2, 128]

  static constexpr int kSquare = kAnyRows * kSquareStride;

  __device__ __forceinline__ AnyShared(int width, int tiles) {
    float* next = dynamic_shared<float>();
    for (int i = 0; i < tiles; ++i, next += kAnyRows * AnyTile::stride(width)) tile[i].data = next;
    weights = next, dweights = next + 2 * kBlockMaxWidth;
    square[0] = dweights + 2 * kBlockMaxWidth, square[1] = square[0] + kSquare;
  }

  static size_t bytes(int width, int tiles) {
    const int rows = tiles * kAnyRows * AnyTile::stride(width);
    return size_t(rows + 4 * kBlockMaxWidth + 2 * kSquare) * sizeof(float);
  }
};

__device__ __forceinline__ Preparations any_preparations(const BlockCall& call, float* weights) {
  for (int i = threadIdx.x; i < 2 * kBlockMaxWidth; i += kAnyThreads) weights[i] = 0.0f;
  __syncthreads();
  return preparations(call.norm, call.width, kBlockMaxWidth, weights);
}

// What a row of queries knows of the keys so far.
struct AnyState {
  float top[kAnyRows], sum[kAnyRows], mean[kAnyRows], shrink[kAnyRows];

  __device__ __forceinline__ void begin() {
    if (threadIdx.x < kAnyRows) {
      top[threadIdx.x] = -INFINITY;
      sum[threadIdx.x] = mean[threadIdx.x] = 0.0f;
    }
  }

  // A row of scores (times log2(e)) to weights relative to the highest so far; the lane has one key. Returns
  // its weight. dp counts for the mean only.
  __device__ __forceinline__ float next(int row, float score, bool seen, float dp) {
    const float before = top[row], now = fmaxf(before, warp_max(seen ? score : -INFINITY));
    const float base = now == -INFINITY ? 0.0f : now;  // nothing seen yet: weights are 0, not NaN
    const float weight = seen ? exp2f(score - base) : 0.0f, less = exp2f(before - base);
    const float more = warp_sum(weight), more_mean = warp_sum(weight * dp);
    __syncwarp();
    if (threadIdx.x % kWarp == 0) {
      top[row] = now;
      sum[row] = sum[row] * less + more;
      mean[row] = mean[row] * less + more_mean;
      shrink[row] = less;
    }
    return weight;
  }

  __device__ __forceinline__ float share(int row) const { return sum[row] == 0.0f ? 0.0f : 1.0f / sum[row]; }
};

// 32 keys, prepared, and values; hidden ones as zeros.
template <typename T>
__device__ __forceinline__ void stage_keys_any(const AnyProblem& problem, const Preparation& how, int first,
                                               const AnyTile& keys, const AnyTile& values, bool* seen) {
  const int width = problem.call.width;
  problem.each(first, [&](int row, int token) {
    const bool there = problem.seen(token);
    AnyRow k = problem.load<T>(kK, token, there);
    if (there) prepare_any(how, token, width, k);
    keys.put(row, k, width);
    values.put(row, problem.load<T>(kV, token, there), width);
    if (threadIdx.x % kWarp == 0) seen[row] = there;
  });
}

// 32 queries, prepared, and, where there is a tile for them, their gradients.
template <typename T>
__device__ __forceinline__ void stage_queries_any(const AnyProblem& problem, const Preparation& how,
                                                  int first, const AnyTile& queries, const AnyTile* grads) {
  const int width = problem.call.width;
  problem.each(first, [&](int row, int token) {
    const bool there = token < problem.call.tokens;
    AnyRow q = problem.load<T>(kQ, token, there);
    if (there) prepare_any(how, token, width, q);
    queries.put(row, q, width);
    if (grads != nullptr) grads->put(row, problem.load<T>(kOut, token, there), width);
  });
}

// ---- kernels ----

// A thread block for every 32 queries of a problem.
template <typename T>
__global__ __launch_bounds__(kAnyThreads, kAnyOccupancy) void block_attention_any_fwd_kernel(
    const __grid_constant__ BlockCall call, const Divider query_tiles) {
  __shared__ AnyState state;
  __shared__ bool seen[kAnyRows];
  const AnyShared shared(call.width, 3);
  const AnyTile queries = shared.tile[0], keys = shared.tile[1], values = shared.tile[2];
  const Preparations how = any_preparations(call, shared.weights);
  const uint32_t index = query_tiles.quotient(blockIdx.x);
  const int first_query = int(blockIdx.x - index * query_tiles.divisor) * kAnyRows, width = call.width;
  const AnyProblem problem(call, index);
  const float scale = call.scale * kLog2E;
  AnySums sums;
  state.begin();
  stage_queries_any<T>(problem, how.q, first_query, queries, nullptr);
#pragma unroll 1
  for (int first_key = 0; first_key < call.tokens; first_key += kAnyRows) {
    stage_keys_any<T>(problem, how.k, first_key, keys, values, seen);
    __syncthreads();
    multiply_any(queries, keys, width, shared.square[0]);
    __syncthreads();
    problem.each(0, [&](int row, int) {
      const int lane = int(threadIdx.x) % kWarp;
      float& entry = shared.square[0][row * kSquareStride + lane];
      entry = state.next(row, entry * scale, seen[lane], 0.0f);
    });
    __syncthreads();
    sums.scale_rows(state.shrink);
    sums.add(shared.square[0], false, values, width);
    __syncthreads();
  }
  sums.put(keys, width);
  __syncthreads();
  problem.each(first_query, [&](int row, int token) {
    AnyRow out = keys.get(row, width);
#pragma unroll
    for (float& v : out.v) v *= state.share(row);
    if (token < call.tokens) problem.store<T>(out, kOut, token);
  });
}

// Sums times `scale`, through `tile`, to memory, back through norm and rotation.
template <typename T>
__device__ __forceinline__ void write_gradient_any(const AnyProblem& problem, const AnyTile& tile,
                                                   const Preparation& how, int first, BlockTensor source,
                                                   BlockTensor target, bool keys, AnyRow& dweight) {
  const BlockCall& call = problem.call;
  problem.each(first, [&](int row, int token) {
    if (token >= call.tokens) return;
    AnyRow grad = tile.get(row, call.width);
#pragma unroll
    for (float& v : grad.v) v *= call.scale;
    if (!keys || problem.seen(token)) {
      AnyRow x;
      if (how.weight != nullptr) x = problem.load<T>(source, token, true);
      prepare_any_backward(how, token, call.width, x, grad, dweight);
    }
    problem.store<T>(grad, target, token);
  });
}

// A thread block for every problem: first dq, 32 queries after the other, then dk and dv, 32 keys after the
// other, so that every sum is one thread's.
template <typename T>
__global__ __launch_bounds__(kAnyThreads, kAnyOccupancy) void block_attention_any_bwd_kernel(
    const __grid_constant__ BlockCall call) {
  __shared__ AnyState state;
  __shared__ bool seen[kAnyRows];
  // Of every query: log2 of the sum of exp2(scores), and sum of p dp.
  __shared__ float2 stats[kBlockMaxKeys];
  const AnyShared shared(call.width, 4);
  const AnyTile queries = shared.tile[0], grads = shared.tile[1], keys = shared.tile[2],
                values = shared.tile[3];
  const Preparations how = any_preparations(call, shared.weights);
  const int width = call.width, tokens = call.tokens, lane = int(threadIdx.x) % kWarp;
  const float scale = call.scale * kLog2E;
  AnyRow dq_weight, dk_weight;
  const auto multiply = [&] {
    __syncthreads();
    multiply_any(queries, keys, width, shared.square[0]);
    multiply_any(grads, values, width, shared.square[1]);
    __syncthreads();
  };
  // Scores to weights, dp to ds.
  const auto differentiate = [&](const AnyProblem& problem, int first_query) {
    problem.each(first_query, [&](int row, int token) {
      float& entry = shared.square[0][row * kSquareStride + lane];
      float& dentry = shared.square[1][row * kSquareStride + lane];
      const float2 stat = token < tokens ? stats[token] : make_float2(INFINITY, 0.0f);
      entry = seen[lane] ? exp2f(entry * scale - stat.x) : 0.0f;
      dentry = seen[lane] ? entry * (dentry - stat.y) : 0.0f;
    });
    __syncthreads();
  };

#pragma unroll 1
  for (uint32_t index = blockIdx.x; index < call.count; index += gridDim.x) {
    const AnyProblem problem(call, index);
#pragma unroll 1
    for (int first_query = 0; first_query < tokens; first_query += kAnyRows) {
      state.begin();
      stage_queries_any<T>(problem, how.q, first_query, queries, &grads);
#pragma unroll 1
      for (int first_key = 0; first_key < tokens; first_key += kAnyRows) {
        stage_keys_any<T>(problem, how.k, first_key, keys, values, seen);
        multiply();
        problem.each(first_query, [&](int row, int) {
          const int at = row * kSquareStride + lane;
          state.next(row, shared.square[0][at] * scale, seen[lane], shared.square[1][at]);
        });
        __syncthreads();
      }
      if (threadIdx.x < kAnyRows && first_query + int(threadIdx.x) < tokens) {
        const int row = int(threadIdx.x);
        const float log_sum = state.sum[row] == 0.0f ? INFINITY : state.top[row] + log2f(state.sum[row]);
        stats[first_query + row] = make_float2(log_sum, state.mean[row] * state.share(row));
      }
      AnySums dq;
#pragma unroll 1
      for (int first_key = 0; first_key < tokens; first_key += kAnyRows) {
        stage_keys_any<T>(problem, how.k, first_key, keys, values, seen);
        multiply();
        differentiate(problem, first_query);
        dq.add(shared.square[1], false, keys, width);
        __syncthreads();
      }
      dq.put(grads, width);
      __syncthreads();
      write_gradient_any<T>(problem, grads, how.q, first_query, kQ, kDq, false, dq_weight);
      __syncthreads();
    }
#pragma unroll 1
    for (int first_key = 0; first_key < tokens; first_key += kAnyRows) {
      AnySums dk, dv;
      stage_keys_any<T>(problem, how.k, first_key, keys, values, seen);
#pragma unroll 1
      for (int first_query = 0; first_query < tokens; first_query += kAnyRows) {
        stage_queries_any<T>(problem, how.q, first_query, queries, &grads);
        multiply();
        differentiate(problem, first_query);
        dv.add(shared.square[0], true, grads, width);
        dk.add(shared.square[1], true, queries, width);
        __syncthreads();
      }
      dk.put(queries, width);
      dv.put(grads, width);
      __syncthreads();
      write_gradient_any<T>(problem, queries, how.k, first_key, kK, kDk, true, dk_weight);
      problem.each(first_key, [&](int row, int token) {
        if (token < tokens) problem.store<T>(grads.get(row, width), kDv, token);
      });
      __syncthreads();
    }
  }
  if (call.partial == nullptr) return;

  for (int i = threadIdx.x; i < 2 * kBlockMaxWidth; i += kAnyThreads) shared.dweights[i] = 0.0f;
  for (int turn = 0; turn < kAnyWarps; ++turn) {  // one warp after the other, so that the order is fixed
    __syncthreads();
    if (int(threadIdx.x) / kWarp != turn) continue;
#pragma unroll
    for (int i = 0; i < kAnyQuad; ++i) {
      shared.dweights[kAnyQuad * lane + i] += dq_weight.v[i];
      shared.dweights[kBlockMaxWidth + kAnyQuad * lane + i] += dk_weight.v[i];
    }
  }
  __syncthreads();
  float* partial = call.partial + int64_t(blockIdx.x) * 2 * width;
  for (int i = threadIdx.x; i < width; i += kAnyThreads) {
    partial[i] = shared.dweights[i];
    partial[width + i] = shared.dweights[kBlockMaxWidth + i];
  }
}

}  // namespace
}  // namespace pavdit::cuda
