// Attention of a few tokens on tensor cores: tile.cuh has the layout, the products and why; here is the
// softmax.
#pragma once

#include "prepare.cuh"
#include "tile.cuh"

namespace pavdit::cuda {

constexpr float kLog2E = 1.44269504088896340736f;

// Of rows g and g + 8. `sum` is over this lane's columns until `finished`.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};

  // Scores to weights relative to the highest score so far; `seen`: bit j of row half is set where key j
  // counts. Returns what earlier weights, and their products, are to be multiplied by; `scale` is that of
  // the scores times log2(e).
  __device__ __forceinline__ float2 next(Square& square, const unsigned (&seen)[2], float scale) {
    float now[2] = {top[0], top[1]};
    each_entry([&](int n, int i, int half, int column) {
      float& v = square.v[n][i];
      v = seen[half] >> column & 1 ? v * scale : -INFINITY;
      now[half] = fmaxf(now[half], v);
    });
    float shrink[2], base[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      now[half] = quad_max(now[half]);
      base[half] = now[half] == -INFINITY ? 0.0f : now[half];  // nothing seen yet: weights are 0, not NaN
      shrink[half] = exp2f(top[half] - base[half]);
      sum[half] *= shrink[half];
      top[half] = now[half];
    }
    each_entry([&](int n, int i, int half, int) {
      square.v[n][i] = exp2f(square.v[n][i] - base[half]);
      sum[half] += square.v[n][i];
    });
    return make_float2(shrink[0], shrink[1]);
  }

  // 1 / sum, 0 where no key was seen.
  __device__ __forceinline__ void finish(float (&share)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] = quad_sum(sum[half]);
      share[half] = sum[half] == 0.0f ? 0.0f : __fdividef(1.0f, sum[half]);  // the sum is 1 or more
    }
  }

  // log2 of the sum of exp2(scores), after `finish`: exp2(score - this) is a weight. Infinite where no key
  // was seen, so that all weights are 0.
  __device__ __forceinline__ float log_sum(int half) const {
    return sum[half] == 0.0f ? INFINITY : top[half] + log2f(sum[half]);
  }
};

template <int kChunks>
__device__ __forceinline__ void shrink_sums(Sums<kChunks>& sums, float2 by) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sums.v[c][0][i] *= by.x;
      sums.v[c][1][i] *= by.y;
    }
  }
}

}  // namespace pavdit::cuda
