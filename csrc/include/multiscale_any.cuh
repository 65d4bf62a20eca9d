// multiscale_temporal_attention for everything that the tiles do not take: float32, more than 16 frames, odd
// widths, rows that are not aligned. A block per problem, all of it in float32.
//
// Averages commute with products: a score of two means is the mean of the scores, and weights over means are
// weights over frames, each mean's spread evenly. So the scores of the frames are computed once, the rates
// differ in a matrix of weights [7/4 T, T] over frames alone, and no row is ever averaged:
//
//   s^r_ij = mean of s over the r x r frames of (i, j),   w^r_ij = softmax over frames j of s^r
//   out = w v,   ds = sum over r of ds^r, spread over its r x r frames,   dq = ds k, dk = ds^T q, dv = w^T g
//
// Rows pass through shared memory in chunks of 32 columns. A warp has a row of a matrix, a lane a column.
#pragma once

#include "launch.cuh"
#include "multiscale_problems.cuh"
#include "reduce.cuh"

namespace pavdit::cuda {
namespace any {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kFrames = kWarp;          // at most: a lane per frame
constexpr int kRows = kFrames * 7 / 4;  // at all rates
constexpr int kStride = kWarp + 1;      // no bank conflicts down a column
constexpr int kColumns = kWarp;         // of a chunk
constexpr unsigned kAllLanes = 0xffffffffu;

// [rows, kStride] each.
struct Shared {
  float* scores;    // [T]: s, in the backward ds
  float* weights;   // [7/4 T]
  float* left;      // [7/4 T]: a chunk
  float* right;     // [T]: a chunk
  float* dweights;  // [7/4 T], in the backward

  __device__ __forceinline__ explicit Shared(float* memory)
      : scores(memory),
        weights(scores + kFrames * kStride),
        left(weights + kRows * kStride),
        right(left + kRows * kStride),
        dweights(right + kFrames * kStride) {}
};

constexpr size_t shared_bytes(bool backward) {
  return (2 * kFrames + (backward ? 3 : 2) * kRows) * kStride * sizeof(float);
}

// A row of a matrix [7/4 T, T] of all rates.
struct RateRow {
  int rate, frame;

  __device__ __forceinline__ RateRow(int row, int frames) {
    rate = row < frames ? 0 : row < frames + frames / 2 ? 1 : 2;
    frame = rate == 0 ? row : rate == 1 ? row - frames : row - frames - frames / 2;
  }
};

// Calls f(row) for the rows of this warp.
template <typename F>
__device__ __forceinline__ void each_row(int rows, F f) {
#pragma unroll 1
  for (int i = threadIdx.x / kWarp; i < rows; i += kWarps) f(i);
}

// Calls f(row, m) for the rows of this warp, at most kMost of all warps, m counting them in registers.
template <int kMost, typename F>
__device__ __forceinline__ void each_row_unrolled(int rows, F f) {
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int m = 0; m < kMost / kWarps; ++m) {
    if (warp + m * kWarps < rows) f(warp + m * kWarps, m);
  }
}

// A chunk of columns of rows, 0 beyond the width and where a row is missing. row_of(i): the i-th row.
template <typename T, typename RowOf>
__device__ __forceinline__ void load_chunk(int rows, int first, int width, RowOf row_of, float* chunk) {
  const int lane = threadIdx.x % kWarp;
  each_row(rows, [&](int i) {
    const T* row = row_of(i);
    const bool there = row != nullptr && first + lane < width;
    chunk[i * kStride + lane] = there ? to_float(row[first + lane]) : 0.0f;
  });
}

template <typename T>
__device__ __forceinline__ void load_part(const MultiscaleCall& call, const Place& at, int part, int first,
                                          float* chunk) {
  load_chunk<T>(
      call.frames, first, call.width, [&](int t) { return at.row<const T>(call.in.parts[part], t); }, chunk);
}

template <typename T>
__device__ __forceinline__ void load_gradients(const MultiscaleCall& call, const Place& at, int first,
                                               float* chunk) {
  load_chunk<T>(
      call.frames * 7 / 4, first, call.width,
      [&](int i) {
        const RateRow row(i, call.frames);
        return at.row<const T>(call.gradients.rates[row.rate], row.frame);
      },
      chunk);
}

// sums[m] += left[row] . right[lane]
template <int kMost, int kCount>
__device__ __forceinline__ void add_dots(int rows, const Shared& shared, float (&sums)[kCount]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll 4
  for (int c = 0; c < kColumns; ++c) {
    const float right = shared.right[lane * kStride + c];
    each_row_unrolled<kMost>(rows, [&](int i, int m) { sums[m] += shared.left[i * kStride + c] * right; });
  }
}

// The sum over the 1 << rate lanes around this one.
__device__ __forceinline__ float sum_over_group(float v, int rate) {
  if (rate >= 1) v += __shfl_xor_sync(kAllLanes, v, 1);
  if (rate >= 2) v += __shfl_xor_sync(kAllLanes, v, 2);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  }
  return v;
}

// Fills shared.weights. Lanes beyond the frames hold 0.
template <typename T>
__device__ __forceinline__ void compute_weights(const MultiscaleCall& call, const Place& at,
                                                const Shared& shared) {
  const int lane = threadIdx.x % kWarp, frames = call.frames;
  float sums[kFrames / kWarps] = {};
  for (int first = 0; first < call.width; first += kColumns) {
    load_part<T>(call, at, 0, first, shared.left);
    load_part<T>(call, at, 1, first, shared.right);
    __syncthreads();
    if (lane < frames) add_dots<kFrames>(frames, shared, sums);
    __syncthreads();
  }
  each_row_unrolled<kFrames>(frames, [&](int i, int m) { shared.scores[i * kStride + lane] = sums[m]; });
  __syncthreads();
  each_row(frames * 7 / 4, [&](int i) {
    const RateRow row(i, frames);
    float score = 0.0f;
    for (int t = row.frame << row.rate; t < (row.frame + 1) << row.rate; ++t) {
      score += shared.scores[t * kStride + lane];
    }
    score = sum_over_group(score, row.rate) * (call.scale / float(1 << 2 * row.rate));
    if (lane >= frames) score = -INFINITY;
    const float weight = expf(score - warp_max(score));
    shared.weights[i * kStride + lane] = weight / warp_sum(weight);
  });
  __syncthreads();
}

template <typename T>
__global__ __launch_bounds__(kThreads) void multiscale_any_fwd_kernel(
    const __grid_constant__ MultiscaleCall call) {
  const Shared shared(dynamic_shared<float>());
  const Place at(call, blockIdx.x);
  const int lane = threadIdx.x % kWarp, frames = call.frames;
  compute_weights<T>(call, at, shared);
  for (int first = 0; first < call.width; first += kColumns) {
    load_part<T>(call, at, 2, first, shared.right);
    __syncthreads();
    each_row(frames * 7 / 4, [&](int i) {
      float sum = 0.0f;
      for (int j = 0; j < frames; ++j) {
        sum += shared.weights[i * kStride + j] * shared.right[j * kStride + lane];
      }
      const RateRow row(i, frames);
      if (first + lane < call.width) {
        at.row<T>(call.out.rates[row.rate], row.frame)[first + lane] = from_float<T>(sum);
      }
    });
    __syncthreads();
  }
}

template <typename T>
__global__ __launch_bounds__(kThreads) void multiscale_any_bwd_kernel(
    const __grid_constant__ MultiscaleCall call) {
  const Shared shared(dynamic_shared<float>());
  const Place at(call, blockIdx.x);
  const int lane = threadIdx.x % kWarp, frames = call.frames, rows = frames * 7 / 4;
  compute_weights<T>(call, at, shared);

  float sums[kRows / kWarps] = {};  // dp, then ds of every rate
  for (int first = 0; first < call.width; first += kColumns) {
    load_gradients<T>(call, at, first, shared.left);
    load_part<T>(call, at, 2, first, shared.right);
    __syncthreads();
    if (lane < frames) add_dots<kRows>(rows, shared, sums);
    __syncthreads();
  }
  each_row_unrolled<kRows>(rows, [&](int i, int m) {
    const float weight = shared.weights[i * kStride + lane];
    const float mean = warp_sum(weight * sums[m]);
    shared.dweights[i * kStride + lane] = weight * (sums[m] - mean) * call.scale;
  });
  __syncthreads();
  each_row(frames, [&](int i) {
    float sum = 0.0f;
    for (int rate = 0, first = 0; rate < kRates; first += frames >> rate, ++rate) {
      const float of_rate = shared.dweights[(first + (i >> rate)) * kStride + lane];
      sum += sum_over_group(of_rate, rate) / float(1 << 2 * rate);
    }
    shared.scores[i * kStride + lane] = sum;
  });

  const auto write = [&](int part, int frame, int column, float value) {
    if (column < call.width) {
      at.row<T>(call.gradients.parts[part], frame)[column] = from_float<T>(value);
    }
  };
  for (int first = 0; first < call.width; first += kColumns) {
    load_part<T>(call, at, 0, first, shared.left);
    load_part<T>(call, at, 1, first, shared.right);
    __syncthreads();
    each_row(frames, [&](int i) {
      float dq = 0.0f, dk = 0.0f;
      for (int j = 0; j < frames; ++j) {
        dq += shared.scores[i * kStride + j] * shared.right[j * kStride + lane];
        dk += shared.scores[j * kStride + i] * shared.left[j * kStride + lane];
      }
      write(0, i, first + lane, dq);
      write(1, i, first + lane, dk);
    });
    __syncthreads();
    load_gradients<T>(call, at, first, shared.left);
    __syncthreads();
    each_row(frames, [&](int j) {
      float dv = 0.0f;
      for (int i = 0; i < rows; ++i) {
        dv += shared.weights[i * kStride + j] * shared.left[i * kStride + lane];
      }
      write(2, j, first + lane, dv);
    });
    __syncthreads();
  }
}

}  // namespace any
}  // namespace pavdit::cuda
